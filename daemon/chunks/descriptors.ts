/**
 * Open descriptors of chunk files, the most recently used ones: opening costs more than reading 64 KiB from
 * the page cache. A descriptor in use is closed only after its last user; so open ones may exceed the limit by
 * what is in use.
 */

import * as fs from 'node:fs';
import type { ChunkHash } from '../protocol/ids.ts';
import { openLru } from '../runtime/lru.ts';

const OPEN_DESCRIPTORS_MAX = 256;

export interface Descriptors {
  /** Runs `work` with an open descriptor. Errors: the system error of open. */
  use<Result>(hash: ChunkHash, work: (descriptor: number) => Promise<Result>): Promise<Result>;
  /** The file is another one now, or gone. */
  forget(hash: ChunkHash): void;
  close(): void;
}

interface Entry {
  readonly opening: Promise<number>;
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
      fs.closeSync(await entry.opening);
    } catch {
      // It never opened; whoever asked for it was told.
    }
  }

  function forget(hash: ChunkHash): void {
    const entry = entries.delete(hash);
    if (entry !== undefined) drop(entry);
  }

  return {
    async use(hash, work) {
      let entry = entries.get(hash);
      if (entry === undefined) {
        entry = { opening: openForReading(pathOf(hash)), users: 0, dropped: false };
        entries.set(hash, entry);
      }
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

function openForReading(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(path, 'r', (error, descriptor) => (error === null ? resolve(descriptor) : reject(error)));
  });
}

/** Fills `target` from `position`; answers whether there were enough bytes. Errors: the system error. */
export async function readFully(descriptor: number, target: Buffer, position: number): Promise<boolean> {
  let done = 0;
  while (done < target.length) {
    const count = await readOnce(descriptor, target.subarray(done), position + done);
    if (count === 0) return false;
    done += count;
  }
  return true;
}

function readOnce(descriptor: number, target: Buffer, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.read(descriptor, target, 0, target.length, position, (error, count) =>
      error === null ? resolve(count) : reject(error),
    );
  });
}
