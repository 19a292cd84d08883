/**
 * `meta.copy`: every page of `meta.db` a second time on the same disk (ZFS calls such copies ditto blocks), so
 * that a page whose bytes the disk changed is put back instead of lost.
 *
 * The idea. Page `n` lies in both files at the same place, and its sum (page-sums.ts) tells for each whether it
 * is right; one that is not is written anew from the other. So the copy needs no order of its own: after a
 * checkpoint the worker writes the pages of that checkpoint to it and does not wait for the disk. What a crash, a
 * power cut or a full disk keeps from the copy does not fit its sum, and the comparison after the next start
 * writes it again; the first comparison of all makes the copy.
 *
 * At every moment one good version of each page is on the disk. A page that a checkpoint is writing is in the WAL,
 * which stays until `meta.db` is synced and the sums are durable (`unsure` pages: neither file is compared there).
 * Every other page of `meta.db` is synced and has a durable sum, whatever the copy holds.
 *
 * `meta.db` is compared as a whole before SQLite reads any of it: damage never becomes an answer, nor the content of
 * the next change. Only after that may a start go on. It costs the reading of the file, once.
 */

import * as fs from 'node:fs';
import { crc32 } from 'node:zlib';
import { systemErrorCode } from '../protocol/errors.ts';
import { type PageSums, readSumsOf, WAL_START, walPages } from './page-sums.ts';

const STEP_BYTES = 1024 * 1024;

export interface ComparedPages {
  /** Pages of meta.db that are wrong in both files, and those that were put back. */
  readonly damaged: number[];
  readonly healed: number[];
  /** Why a page could not be written to the copy. */
  copyError: unknown;
}

export interface PagePair {
  /** Descriptors; the copy's is undefined where it could not be opened. */
  readonly database: number;
  readonly copy: number | undefined;
  readonly sums: PageSums;
  /** Pages that the WAL holds: their sums may be old. */
  readonly unsure: ReadonlySet<number>;
}

export function copyFileOf(databasePath: string): string {
  return `${databasePath.replace(/\.db$/, '')}.copy`;
}

/**
 * Puts back every page of a database that nobody has opened yet. With `missing` also a whole `meta.db` that is not
 * there, if the copy has all of it. Errors: those of the disk.
 */
export function healBeforeOpening(
  databasePath: string,
  { missing }: { missing: boolean },
): ComparedPages | undefined {
  const sums = readSumsOf(databasePath)?.sums;
  if (sums === undefined) return undefined;
  if (!fs.existsSync(databasePath)) {
    if (missing) restoreWhole(databasePath, sums);
    return undefined;
  }
  let database: number;
  try {
    database = fs.openSync(databasePath, 'r+');
  } catch (error) {
    // Opening the database says it better.
    if (['EROFS', 'EACCES', 'EPERM', 'EISDIR'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw error;
  }
  const copy = openCopy(databasePath, 'r');
  try {
    const unsure = walPages(`${databasePath}-wal`, WAL_START).pages;
    const all: ComparedPages = { damaged: [], healed: [], copyError: undefined };
    const step = Math.max(1, Math.floor(STEP_BYTES / sums.pageBytes));
    for (let first = 1; first <= sums.sums.length; first += step) {
      const part = comparePages({ database, copy, sums, unsure }, first, step, { writeCopy: false });
      all.damaged.push(...part.damaged);
      all.healed.push(...part.healed);
    }
    return all;
  } finally {
    fs.closeSync(database);
    if (copy !== undefined) fs.closeSync(copy);
  }
}

/** Undefined when it is not there (to read) or cannot be opened. */
export function openCopy(databasePath: string, access: 'r' | 'r+'): number | undefined {
  const { O_RDONLY, O_RDWR, O_CREAT } = fs.constants;
  try {
    return fs.openSync(copyFileOf(databasePath), access === 'r' ? O_RDONLY : O_RDWR | O_CREAT, 0o600);
  } catch {
    return undefined;
  }
}

/** Compares `count` pages from `first` on and puts back what can be; durable in meta.db when it returns. */
export function comparePages(
  { database, copy, sums, unsure }: PagePair,
  first: number,
  count: number,
  { writeCopy }: { writeCopy: boolean },
): ComparedPages {
  const compared: ComparedPages = { damaged: [], healed: [], copyError: undefined };
  const { pageBytes } = sums;
  const pages = Math.min(count, sums.sums.length - (first - 1));
  if (pages <= 0) return compared;
  const here = readPages(database, { first, pages, pageBytes });
  // Without writing it the copy is read only where it is needed.
  const all = writeCopy && copy !== undefined ? readPages(copy, { first, pages, pageBytes }) : undefined;
  for (let index = 0; index < pages; index++) {
    const page = first + index;
    if (unsure.has(page)) continue;
    const own = here.subarray(index * pageBytes, (index + 1) * pageBytes);
    const fits = (bytes: Buffer) => crc32(bytes) === sums.sums[page - 1];
    const other = () =>
      all?.subarray(index * pageBytes, (index + 1) * pageBytes) ??
      (copy === undefined ? Buffer.alloc(0) : readPages(copy, { first: page, pages: 1, pageBytes }));
    if (fits(own)) {
      if (all !== undefined && !fits(other())) compared.copyError ??= put(copy, own, page, pageBytes);
      continue;
    }
    const spare = other();
    const isHealed = fits(spare) && put(database, spare, page, pageBytes) === undefined;
    (isHealed ? compared.healed : compared.damaged).push(page);
  }
  if (compared.healed.length > 0) fs.fdatasyncSync(database);
  return compared;
}

/** Pages that the file is too short for are zeros. */
export function readPages(
  descriptor: number,
  { first, pages, pageBytes }: { first: number; pages: number; pageBytes: number },
): Buffer {
  const buffer = Buffer.alloc(pages * pageBytes);
  fs.readSync(descriptor, buffer, 0, buffer.length, (first - 1) * pageBytes);
  return buffer;
}

/** Writes one or more pages; answers the error. */
export function put(descriptor: number | undefined, bytes: Buffer, page: number, pageBytes: number): unknown {
  if (descriptor === undefined) return undefined;
  try {
    const written = fs.writeSync(descriptor, bytes, 0, bytes.length, (page - 1) * pageBytes);
    return written === bytes.length
      ? undefined
      : new Error(`${written} of ${bytes.length} bytes were written`);
  } catch (error) {
    return error;
  }
}

/** Makes meta.db from a copy that has every page; otherwise nothing. */
function restoreWhole(databasePath: string, sums: PageSums): void {
  const copy = openCopy(databasePath, 'r');
  if (copy === undefined) return;
  const temporary = `${databasePath}.new`;
  const made = fs.openSync(temporary, 'w+', 0o600);
  try {
    const { pageBytes } = sums;
    const unsure = walPages(`${databasePath}-wal`, WAL_START).pages;
    const step = Math.max(1, Math.floor(STEP_BYTES / pageBytes));
    for (let first = 1; first <= sums.sums.length; first += step) {
      const pages = Math.min(step, sums.sums.length - (first - 1));
      const bytes = readPages(copy, { first, pages, pageBytes });
      fs.writeSync(made, bytes, 0, bytes.length, (first - 1) * pageBytes);
      const pair = { database: made, copy: undefined, sums, unsure };
      if (comparePages(pair, first, pages, { writeCopy: false }).damaged.length > 0) return;
    }
    fs.fdatasyncSync(made);
    fs.renameSync(temporary, databasePath);
  } finally {
    fs.closeSync(made);
    fs.closeSync(copy);
    fs.rmSync(temporary, { force: true });
  }
}
