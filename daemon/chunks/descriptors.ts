/**
 * Open descriptors of chunk files, the most recently used ones: opening costs more than reading 64 KiB from
 * the page cache. A new descriptor knows the size of its file, so that a file cut short or grown is found without
 * reading it. A descriptor in use is closed only after its last user; so open ones may exceed the limit by
 * what is in use.
 */

import * as fs from 'node:fs';
import type { ChunkHash } from '../protocol/ids.ts';
import { openLru } from '../runtime/lru.ts';

/** 4 GiB of whole chunks; node raises its own limit of descriptors to the hard one. */
const OPEN_DESCRIPTORS_MAX = 1024;

export interface OpenFile {
  readonly descriptor: number;
  /** When it was opened, bytes. */
  readonly size: number;
}

export interface Descriptors {
  /** Runs `work` with an open descriptor. Errors: the system error of open. */
  use<Result>(hash: ChunkHash, work: (file: OpenFile) => Promise<Result>): Promise<Result>;
  /** The file if it is open: to be used before the next turn of the event loop. */
  opened(hash: ChunkHash): OpenFile | undefined;
  /** Starts to open the file, if it is not open. */
  prepare(hash: ChunkHash): void;
  /** The file is another one now, or gone. */
  forget(hash: ChunkHash): void;
  close(): void;
}

interface Entry {
  readonly opening: Promise<OpenFile>;
  file: OpenFile | undefined;
  users: number;
  dropped: boolean;
}

export function openDescriptors(pathOf: (hash: ChunkHash) => string): Descriptors {
  const entries = openLru<ChunkHash, Entry>({
    weightMax: OPEN_DESCRIPTORS_MAX,
    onEvict: (_, entry) => drop(entry),
  });

  function drop(entry: Entry): void {
    entry.dropped = true;
    if (entry.users === 0) void closeEntry(entry);
  }

  async function closeEntry(entry: Entry): Promise<void> {
    try {
      // Closing a descriptor that was only read cannot lose anything and does not wait for the disk.
      fs.closeSync((await entry.opening).descriptor);
    } catch {
      // It never opened; whoever asked for it was told.
    }
  }

  function forget(hash: ChunkHash): void {
    const entry = entries.delete(hash);
    if (entry !== undefined) drop(entry);
  }

  function entryOf(hash: ChunkHash): Entry {
    const present = entries.get(hash);
    if (present !== undefined) return present;
    const opening = openForReading(pathOf(hash));
    const entry: Entry = { opening, file: undefined, users: 0, dropped: false };
    entries.set(hash, entry);
    opening.then(
      (file) => {
        entry.file = file;
      },
      () => {
        // Whoever uses it meets the failure; the next one tries again.
        if (entries.peek(hash) === entry) entries.delete(hash);
      },
    );
    return entry;
  }

  return {
    opened: (hash) => entries.get(hash)?.file,
    prepare: (hash) => void entryOf(hash),
    async use(hash, work) {
      const entry = entryOf(hash);
      entry.users += 1;
      try {
        return await work(await entry.opening);
      } finally {
        entry.users -= 1;
        if (entry.dropped && entry.users === 0) void closeEntry(entry);
      }
    },
    forget,
    close: () => entries.clear(),
  };
}

function openForReading(path: string): Promise<OpenFile> {
  return new Promise((resolve, reject) => {
    fs.open(path, 'r', (error, descriptor) => {
      if (error !== null) reject(error);
      // The inode is in memory since the open: this waits for no disk.
      else resolve({ descriptor, size: fs.fstatSync(descriptor).size });
    });
  });
}

/**
 * Fills all of `parts` from `position` with one system call; answers whether there were enough bytes. A short
 * read of a regular file means its end. Errors: the system error.
 */
export function readParts(descriptor: number, parts: readonly Buffer[], position: number): Promise<boolean> {
  const wanted = parts.reduce((sum, part) => sum + part.length, 0);
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, count: number) =>
      error === null ? resolve(count === wanted) : reject(error);
    const only = parts.length === 1 ? parts[0] : undefined;
    if (only !== undefined) fs.read(descriptor, only, 0, only.length, position, done);
    else fs.readv(descriptor, parts, position, done);
  });
}

/** `readParts`, waiting for the disk. */
export function readPartsSync(descriptor: number, parts: readonly Buffer[], position: number): boolean {
  const wanted = parts.reduce((sum, part) => sum + part.length, 0);
  const only = parts.length === 1 ? parts[0] : undefined;
  const count =
    only === undefined
      ? fs.readvSync(descriptor, parts, position)
      : fs.readSync(descriptor, only, 0, only.length, position);
  return count === wanted;
}
