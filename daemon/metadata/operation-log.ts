/**
 * The log: the sequence of operations, in append-only segment files `log/<first version>.log`.
 *
 * Why files and not a table: an operation is acknowledged when it is in the log, and `fsync` waits for the log
 * only. One append is one write of some hundred bytes; a commit of SQLite's WAL is a dozen page writes
 * (measured: 62 µs against 5 µs for a create). The database follows in batches; after a crash the operations
 * it lacks are applied again.
 *
 * Form. A segment is SEGMENT_BYTES long, written with zeros in advance, so that appending never changes the
 * file's size and fdatasync writes data only (measured: 0.22 ms against 0.5 to 3 ms when the file grows). It
 * starts with a header (magic, format version, salt, first version). An entry is: length (u32), CRC-32 of the
 * body (u32, seeded with the salt), body. Length 0 ends the segment. Old segments are used again under a new
 * name with a new salt, so that what they held before never passes for an entry.
 *
 * After a power cut the tail may be torn: reading stops at the first entry that does not check out, and the
 * next append starts a new segment. Nothing that was synced lies behind such an entry. To tell such a tail from
 * damage or a lost segment, the header says how many entries before the segment were not durable when it began.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import { crc32 } from 'node:zlib';
import { assert } from '../runtime/assert.ts';
import { syncDirectory } from './durable-folder.ts';
import {
  ENTRY_HEADER_BYTES,
  FORMAT_VERSION,
  HEADER_BYTES,
  listSegments,
  MAGIC,
  placeOf,
  SEGMENT_BYTES,
} from './log-reading.ts';

let sparesMade = 0;
const ZEROS = Buffer.alloc(1024 * 1024);
/** Longest entry: a segment must hold at least two. */
export const ENTRY_BYTES_MAX = SEGMENT_BYTES / 2 - HEADER_BYTES - ENTRY_HEADER_BYTES;

export interface OperationLog {
  /** Makes sure that the next entry, of `bytes`, has a place. Errors: those of the disk; nothing has changed. */
  makeRoom(bytes: number): void;
  /** Adds an entry to what the next `write` writes. Versions grow by one. */
  append(version: number, body: Buffer): void;
  /** Hands everything appended to the operating system: it survives the death of this process. */
  write(): void;
  /** Makes everything written before the call durable. */
  sync(): Promise<void>;
  /** `sync` on the event loop when one fdatasync is all there is to do; false when there is more. */
  syncAtOnce(): boolean;
  /** Gives segments back whose entries are all at or below `version`, except the newest `keepBytes`. */
  trim(version: number, keepBytes: number): void;
  bytes(): number;
  close(): void;
}

/** Opens the log for appending after `version`: always in a new segment. */
export function openOperationLog(directory: string, version: number): OperationLog {
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  const directoryDescriptor = fs.openSync(directory, 'r');
  for (const name of fs.readdirSync(directory)) {
    if (name.startsWith('spare-')) fs.rmSync(path.join(directory, name));
  }
  let segments = listSegments(directory).filter((segment) => segment.first <= version);
  for (const stale of listSegments(directory)) {
    // A segment that starts behind the state holds nothing that counts (its start was never reached). One that starts
    // where the new one does is replaced by it, so that there is a log at every moment.
    if (stale.first > version + 1) fs.rmSync(stale.file);
  }
  // What a killed process wrote is in the kernel's memory only, and entries made durable now rely on it.
  for (const { file } of segments) syncFile(file);
  fs.fsyncSync(directoryDescriptor);
  /** A segment ready to be renamed into place, made in the background: zeros take 50 ms to write. */
  let spare: string | undefined;
  let preparing = false;
  let descriptor = -1;
  let position = 0;
  let salt = 0;
  let next = version + 1;
  /** Last entry handed to the operating system, and the last one that is durable. */
  let written = version;
  let durable = version;
  /** Segments that were filled and may hold bytes that were never synced. */
  let unsynced: number[] = [];
  let directoryDirty = true;
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  let closed = false;

  function startSegment(): void {
    const file = path.join(directory, `${String(next).padStart(16, '0')}.log`);
    let opened = -1;
    if (spare === undefined) {
      const made = path.join(directory, `spare-next-${++sparesMade}`);
      try {
        opened = fs.openSync(made, 'w+', 0o600);
        for (let at = 0; at < SEGMENT_BYTES; at += ZEROS.length) writeAll(opened, ZEROS, at);
        fs.renameSync(made, file);
      } catch (error) {
        if (opened >= 0) fs.closeSync(opened);
        fs.rmSync(made, { force: true });
        throw error;
      }
    } else {
      fs.renameSync(spare, file);
      spare = undefined;
      opened = fs.openSync(file, 'r+');
    }
    if (descriptor >= 0) unsynced.push(descriptor);
    descriptor = opened;
    salt = crypto.getRandomValues(new Uint32Array(1))[0] ?? 1;
    const header = Buffer.alloc(HEADER_BYTES + 4);
    header.writeUInt32LE(MAGIC, 0);
    header.writeUInt32LE(FORMAT_VERSION, 4);
    header.writeUInt32LE(salt, 8);
    // One more than the entries before this segment that are not durable; 0 would mean that it is not known.
    header.writeUInt32LE(next - durable, 12);
    header.writeBigUInt64LE(BigInt(next), 16);
    header.writeUInt32LE(crc32(header.subarray(0, 24)), 24);
    writeAll(descriptor, header, 0);
    position = HEADER_BYTES;
    directoryDirty = true;
    segments.push({ file, first: next });
  }

  function flush(): void {
    if (pendingBytes === 0) return;
    // The zero length behind the last entry ends the log there, also in a segment that is used again.
    const end = position + pendingBytes + 4 <= SEGMENT_BYTES ? Buffer.alloc(4) : undefined;
    const parts = end === undefined ? pending : [...pending, end];
    const expected = pendingBytes + (end?.length ?? 0);
    const bytes = fs.writevSync(descriptor, parts, position);
    if (bytes !== expected) throw new Error(`short write of the log: ${bytes} of ${expected} bytes`);
    written = next - 1;
    position += pendingBytes;
    pending = [];
    pendingBytes = 0;
    if (spare === undefined && !preparing && position > SEGMENT_BYTES / 2) void prepareSpare();
  }

  async function prepareSpare(): Promise<void> {
    preparing = true;
    // Another opening of this log may still be making one.
    const file = path.join(directory, `spare-next-${++sparesMade}`);
    try {
      const handle = await fs.promises.open(file, 'w', 0o600);
      try {
        for (let at = 0; at < SEGMENT_BYTES; at += ZEROS.length)
          await handle.write(ZEROS, 0, ZEROS.length, at);
        await handle.datasync();
      } finally {
        await handle.close();
      }
      if (spare === undefined && !closed) spare = file;
      else fs.rmSync(file, { force: true });
    } catch {
      // A full or failing disk shows itself where it counts: when the segment is needed.
      fs.rmSync(file, { force: true });
    } finally {
      preparing = false;
    }
  }

  startSegment();

  return {
    makeRoom(bodyBytes) {
      if (position + pendingBytes + ENTRY_HEADER_BYTES + bodyBytes <= SEGMENT_BYTES) return;
      flush();
      startSegment();
    },
    append(entryVersion, body) {
      assert(entryVersion === next, `log entry ${entryVersion} follows ${next - 1}`);
      assert(body.length <= ENTRY_BYTES_MAX, `a log entry of ${body.length} bytes is within its limit`);
      const bytes = ENTRY_HEADER_BYTES + body.length;
      this.makeRoom(body.length);
      const header = Buffer.allocUnsafe(ENTRY_HEADER_BYTES);
      header.writeUInt32LE(body.length, 0);
      header.writeUInt32LE(crc32(body, salt), 4);
      pending.push(header, body);
      pendingBytes += bytes;
      next++;
    },
    write: flush,
    async sync() {
      const filled = unsynced;
      unsynced = [];
      const current = descriptor;
      const until = written;
      const syncDirectory = directoryDirty;
      directoryDirty = false;
      try {
        for (const old of filled) await fdatasync(old);
        await fdatasync(current);
        if (syncDirectory) await fsyncDirectory(directoryDescriptor);
        durable = Math.max(durable, until);
      } finally {
        for (const old of filled) fs.closeSync(old);
      }
    },
    syncAtOnce() {
      if (unsynced.length > 0 || directoryDirty) return false;
      fs.fdatasyncSync(descriptor);
      durable = written;
      return true;
    },
    trim(until, keepBytes) {
      const keep = Math.max(1, Math.ceil(keepBytes / SEGMENT_BYTES));
      while (segments.length > keep) {
        const oldest = segments[0];
        const following = segments[1];
        if (oldest === undefined || following === undefined || following.first - 1 > until) return;
        segments = segments.slice(1);
        // One is kept for the next segment; its old name must go at once, it is no part of the log any more.
        const name = path.join(directory, `spare-${oldest.first}`);
        fs.renameSync(oldest.file, name);
        if (spare === undefined) spare = name;
        else fs.rmSync(name);
      }
    },
    bytes: () => (segments.length + (spare === undefined ? 0 : 1)) * SEGMENT_BYTES,
    close() {
      if (closed) return;
      flush();
      for (const old of unsynced) fs.closeSync(old);
      fs.closeSync(descriptor);
      fs.closeSync(directoryDescriptor);
      closed = true;
      if (spare !== undefined) fs.rmSync(spare, { force: true });
    },
  };
}

/**
 * Takes every entry after `version` out of the files of a log that is not open; durable when it returns. The newest
 * segment goes first, so that after a crash the log is one without a gap. `onStep` is told after each segment.
 */
export function cutLog(directory: string, version: number, onStep: (step: string) => void): void {
  const segments = listSegments(directory);
  const place = placeOf(directory, version + 1);
  for (const [index, { first, file }] of [...segments.entries()].toReversed()) {
    // The oldest one stays: there is a log at every moment.
    if (first <= version || index === 0) break;
    fs.rmSync(file);
    syncDirectory(directory);
    onStep('log-segment-removed');
  }
  if (place === undefined || !fs.existsSync(place.file)) return;
  // A length of zero ends a segment.
  const descriptor = fs.openSync(place.file, 'r+');
  try {
    writeAll(descriptor, Buffer.alloc(4), place.at);
    fs.fdatasyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
  onStep('log-cut');
}

function writeAll(descriptor: number, data: Buffer, at: number): void {
  const bytes = fs.writeSync(descriptor, data, 0, data.length, at);
  if (bytes === data.length) return;
  // The end of a disk cuts a write short; writing the rest says why.
  fs.writeSync(descriptor, data, bytes, data.length - bytes, at + bytes);
}

function syncFile(file: string): void {
  const descriptor = fs.openSync(file, 'r');
  try {
    fs.fdatasyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

function fdatasync(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) =>
    fs.fdatasync(descriptor, (error) => (error === null ? resolve() : reject(error))),
  );
}

function fsyncDirectory(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) =>
    fs.fsync(descriptor, (error) => (error === null ? resolve() : reject(error))),
  );
}
