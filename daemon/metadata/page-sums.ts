/**
 * `meta.sums`: a CRC-32 of every page of `meta.db`. SQLite notices damage to its trees, not to what a row says;
 * the sums notice any changed byte, and tell which of a page's two copies is right (page-copy.ts).
 *
 * The idea. In WAL mode `meta.db` itself is written by checkpoints only, and only the checkpoint worker runs
 * them. It pins a snapshot, notes the pages of the WAL's frames, checkpoints (which cannot go past the pinned
 * snapshot), takes the sums of those pages anew, makes `meta.sums` durable and only then lets the snapshot go.
 * SQLite does not start the WAL over while a snapshot is pinned. So at every moment, also after a crash, a page
 * whose sum on the disk may be old is in the WAL: it is left out of the comparison and the next checkpoint takes
 * its sum again. No mark "being changed" is needed.
 *
 * Form: magic, format version, page bytes, number of pages, CRC-32 of the sums (each u32, little-endian), then
 * one u32 a page. Written beside and renamed: it is old or new, never torn (4 bytes for each 4 KiB page). There
 * are two, `meta.sums` and `meta.copy.sums`, so that a flipped byte in one does not cost the check of all pages.
 * Both are durable before the snapshot goes, so what is true of one is true of the other.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import { crc32 } from 'node:zlib';

const MAGIC = 0x57524e50; // "WRNP"
const FORMAT_VERSION = 1;
const HEADER_BYTES = 20;
const WAL_HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const WAL_MAGIC = 0x377f0682;

export interface PageSums {
  readonly pageBytes: number;
  /** Sum of page `n` at `n - 1`. */
  readonly sums: Uint32Array;
}

function sumsFilesOf(databasePath: string): readonly string[] {
  const base = databasePath.replace(/\.db$/, '');
  return [`${base}.sums`, `${base}.copy.sums`];
}

/**
 * The sums of the pages of a database, and whether both files have them; undefined when no file is whole: then they
 * are made anew.
 */
export function readSumsOf(databasePath: string): { sums: PageSums; saved: boolean } | undefined {
  const found = sumsFilesOf(databasePath).map(readPageSums);
  const sums = found.find((each) => each !== undefined);
  return sums === undefined ? undefined : { sums, saved: !found.includes(undefined) };
}

/**
 * Durable when it returns. On a full disk the files go: better none than old ones that would cry wolf. Answers
 * whether they are there. Errors: not even that could be done.
 */
export function saveSumsOf(databasePath: string, sums: PageSums): boolean {
  const files = sumsFilesOf(databasePath);
  try {
    for (const file of files) writePageSums(file, sums);
    return true;
  } catch {
    for (const file of files) removePageSums(file);
    return false;
  }
}

/** Undefined when there is none or it is not whole. */
export function readPageSums(file: string): PageSums | undefined {
  if (!fs.existsSync(file)) return undefined;
  const content = fs.readFileSync(file);
  if (content.length < HEADER_BYTES || content.readUInt32LE(0) !== MAGIC) return undefined;
  if (content.readUInt32LE(4) !== FORMAT_VERSION) return undefined;
  const count = content.readUInt32LE(12);
  const body = content.subarray(HEADER_BYTES);
  if (body.length !== count * 4 || crc32(body) !== content.readUInt32LE(16)) return undefined;
  const sums = new Uint32Array(count);
  for (let index = 0; index < count; index++) sums[index] = body.readUInt32LE(index * 4);
  return { pageBytes: content.readUInt32LE(8), sums };
}

/** Durable when it returns. */
export function writePageSums(file: string, { pageBytes, sums }: PageSums): void {
  const content = Buffer.alloc(HEADER_BYTES + sums.length * 4);
  for (let index = 0; index < sums.length; index++) {
    content.writeUInt32LE(sums[index] ?? 0, HEADER_BYTES + index * 4);
  }
  content.writeUInt32LE(MAGIC, 0);
  content.writeUInt32LE(FORMAT_VERSION, 4);
  content.writeUInt32LE(pageBytes, 8);
  content.writeUInt32LE(sums.length, 12);
  content.writeUInt32LE(crc32(content.subarray(HEADER_BYTES)), 16);
  const temporary = `${file}.new`;
  const descriptor = fs.openSync(temporary, 'w', 0o600);
  try {
    fs.writeFileSync(descriptor, content);
    fs.fdatasyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
  fs.renameSync(temporary, file);
  syncDirectoryOf(file);
}

function removePageSums(file: string): void {
  fs.rmSync(`${file}.new`, { force: true });
  fs.rmSync(file, { force: true });
  syncDirectoryOf(file);
}

function syncDirectoryOf(file: string): void {
  const descriptor = fs.openSync(path.dirname(file), 'r');
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

/** How far the frames of one life of the WAL (which has a salt) have been copied into the database. */
export interface WalPosition {
  readonly salt: string;
  readonly frames: number;
}

export const WAL_START: WalPosition = { salt: '', frames: 0 };

/**
 * The pages of the WAL's frames beyond `from`. It may name pages of frames that were never committed (they change
 * nothing); never leaves out one that a checkpoint could copy.
 */
export function walPages(walFile: string, from: WalPosition): { salt: string; pages: Set<number> } {
  const pages = new Set<number>();
  let descriptor: number;
  try {
    descriptor = fs.openSync(walFile, 'r');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return { salt: '', pages };
    throw error;
  }
  try {
    const header = Buffer.alloc(WAL_HEADER_BYTES);
    const read = fs.readSync(descriptor, header, 0, WAL_HEADER_BYTES, 0);
    // The lowest bit of the magic says the byte order of SQLite's own checksums.
    if (read < WAL_HEADER_BYTES || (header.readUInt32BE(0) & ~1) !== (WAL_MAGIC & ~1)) {
      return { salt: '', pages };
    }
    const salt = header.toString('hex', 16, 24);
    const frameBytes = FRAME_HEADER_BYTES + header.readUInt32BE(8);
    const frame = Buffer.alloc(FRAME_HEADER_BYTES);
    for (let index = from.salt === salt ? from.frames : 0; ; index++) {
      const at = WAL_HEADER_BYTES + index * frameBytes;
      if (fs.readSync(descriptor, frame, 0, FRAME_HEADER_BYTES, at) < FRAME_HEADER_BYTES) break;
      // Frames of an earlier life lie behind those of this one.
      if (frame.toString('hex', 8, 16) !== salt) break;
      pages.add(frame.readUInt32BE(0));
    }
    return { salt, pages };
  } finally {
    fs.closeSync(descriptor);
  }
}

/** Bytes of a page in `meta.db`, from its header; undefined while it is empty. */
export function pageBytesOf(descriptor: number): number | undefined {
  const header = Buffer.alloc(100);
  if (fs.readSync(descriptor, header, 0, 100, 0) < 100) return undefined;
  const value = header.readUInt16BE(16);
  const bytes = value === 1 ? 65_536 : value;
  return bytes >= 512 && Number.isInteger(Math.log2(bytes)) ? bytes : undefined;
}
