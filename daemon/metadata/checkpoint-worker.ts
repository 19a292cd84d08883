/**
 * Worker thread that moves WAL pages into `meta.db`: the only place that waits for the disk under SQLite, and
 * the only one that writes `meta.db`, so it also keeps the sums of its pages (page-sums.ts) and their second copy
 * (page-copy.ts), compares them, and puts damaged pages back.
 *
 * PASSIVE never blocks the writer. With synchronous = FULL the checkpoint syncs the WAL before it copies and
 * the database after, so that the WAL may be started over.
 *
 * One message at a time: between two of them no page of `meta.db` changes, so a comparison cannot meet a page
 * that is being written.
 *
 * `meta.db` is also read through a descriptor of its own, which stays open until every connection is closed:
 * closing it would free the process's POSIX locks, and another program's SQLite could take the WAL away.
 */

import * as fs from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import type { ChunkHash } from '../protocol/ids.ts';
import { describeError } from '../protocol/errors.ts';
import { defined } from '../runtime/assert.ts';
import { type ChunkFiles, filesOfChunks } from './chunk-files.ts';
import { comparePages, openCopy, put, readPages } from './page-copy.ts';
import { pageBytesOf, type PageSums, readSumsOf, saveSumsOf, WAL_START, walPages } from './page-sums.ts';

export interface CheckpointAnswer {
  /** The version that the checkpoint saw. */
  readonly version: number;
  /** It was above the limit, and nothing was copied. */
  readonly refused: boolean;
  /** Pages in the WAL, and how many of them are in the database now. */
  readonly walPages: number;
  readonly donePages: number;
  /** Why pages could not be written to meta.copy. */
  readonly copyError: string | undefined;
}

/** A page whose bytes are not those that were written. */
export interface PageDamage {
  readonly page: number;
  /** The table or index that the page belongs to; empty when that cannot be told. */
  readonly table: string;
}

export interface VerifyAnswer {
  readonly damaged: readonly PageDamage[];
  /** Pages that were damaged and are right again. */
  readonly healed: number;
  readonly copyError: string | undefined;
  /** First page of the next part; past `pages` when all were compared. */
  readonly next: number;
  readonly pages: number;
}

export interface FilesAnswer {
  readonly found: readonly ChunkFiles[];
}

export type CheckpointRequest =
  /** Nothing above version `limit` may come into the database file. */
  | { readonly kind: 'checkpoint'; readonly limit: number }
  | { readonly kind: 'verify'; readonly from: number }
  | { readonly kind: 'files'; readonly hashes: readonly ChunkHash[] }
  /** What is there counts from now on (after a repair). */
  | { readonly kind: 'renew' }
  | { readonly kind: 'close'; readonly limit: number };

/** Pages compared between two messages: a few milliseconds. */
const VERIFY_PAGES = 256;
const BUILD_BYTES = 1024 * 1024;
const RUN_PAGES_MAX = 256;

const port = defined(parentPort, 'this module runs in a worker thread');
const { path } = workerData as { path: string };
const database = new DatabaseSync(path, { timeout: 5000 });
database.exec('PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -1024');
const statement = database.prepare('PRAGMA wal_checkpoint(PASSIVE)');
/** Pins the snapshot. Read-only: as the last connection to close it leaves the WAL alone. */
const pin = new DatabaseSync(path, { readOnly: true, timeout: 5000 });
pin.exec('PRAGMA temp_store = MEMORY');
const pinnedVersion = pin.prepare("SELECT value FROM setting WHERE key = 'version'");
const descriptor = fs.openSync(path, 'r+');
const copy = openCopy(path, 'r+');

let sums: PageSums | undefined;
let loaded = false;
/** Pages whose sum may be old until the next checkpoint has copied them from the WAL. */
let unsure = new Set<number>();
let copied = WAL_START;
let saved = true;
let pinned = false;

function load(): PageSums | undefined {
  if (!loaded) {
    const pageBytes = pageBytesOf(descriptor);
    if (pageBytes === undefined) return undefined;
    const found = readSumsOf(path);
    if (found?.sums.pageBytes === pageBytes) ({ sums, saved } = found);
    unsure = walPages(`${path}-wal`, WAL_START).pages;
    loaded = true;
  }
  return extend();
}

/** Takes the sums of pages that have none yet: all of them at first, later those that the file grew by. */
function extend(): PageSums | undefined {
  const pageBytes = sums?.pageBytes ?? pageBytesOf(descriptor);
  if (pageBytes === undefined) return undefined;
  const before = sums?.sums ?? new Uint32Array(0);
  const count = Math.floor(fs.fstatSync(descriptor).size / pageBytes);
  if (sums !== undefined && count <= before.length) return sums;
  const values = new Uint32Array(Math.max(count, before.length));
  values.set(before);
  const step = Math.max(1, Math.floor(BUILD_BYTES / pageBytes));
  for (let first = before.length; first < count; first += step) {
    const pages = Math.min(step, count - first);
    sumPages(values, first + 1, readPages(descriptor, { first: first + 1, pages, pageBytes }), pageBytes);
  }
  sums = { pageBytes, sums: values };
  saved = false;
  return sums;
}

/** Takes the sums of the pages in `bytes`, the first of which is `first`; answers whether one changed. */
function sumPages(values: Uint32Array, first: number, bytes: Buffer, pageBytes: number): boolean {
  let changed = false;
  for (let at = 0, index = first - 1; at < bytes.length; at += pageBytes, index++) {
    const sum = crc32(bytes.subarray(at, at + pageBytes));
    changed ||= values[index] !== sum;
    values[index] = sum;
  }
  return changed;
}

function checkpoint(limit: number): CheckpointAnswer {
  if (!pinned) {
    pin.exec('BEGIN');
    pinned = true;
  }
  // A checkpoint does not go past the pinned snapshot, so commits that come meanwhile are not taken.
  const version = Number(pinnedVersion.get()?.['value']);
  if (version > limit) {
    pin.exec('COMMIT');
    pinned = false;
    return { version, refused: true, walPages: 0, donePages: 0, copyError: undefined };
  }
  load();
  const { salt, pages } = walPages(`${path}-wal`, copied);
  for (const page of pages) unsure.add(page);
  const row = statement.get();
  const wal = Number(row?.['log'] ?? 0);
  const done = Number(row?.['checkpointed'] ?? 0);
  const copyError = refresh(done >= wal);
  copied = { salt, frames: Math.max(0, done) };
  save();
  // Only now may SQLite start the WAL over: every sum of what it held is durable, or none is.
  pin.exec('COMMIT');
  pinned = false;
  return { version, refused: false, walPages: wal, donePages: done, copyError: textOf(copyError) };
}

/** Takes the sums of the pages that changed and writes them to the copy; answers what kept it from that. */
function refresh(complete: boolean): unknown {
  const known = extend();
  if (known === undefined) return undefined;
  const { pageBytes } = known;
  let copyError: unknown;
  for (const { first, pages } of runsOf(unsure, known.sums.length)) {
    const bytes = readPages(descriptor, { first, pages, pageBytes });
    if (sumPages(known.sums, first, bytes, pageBytes)) saved = false;
    copyError ??= put(copy, bytes, first, pageBytes);
  }
  if (complete) unsure = new Set();
  return copyError;
}

/** Pages that lie side by side are read and written at once. */
function* runsOf(pages: ReadonlySet<number>, last: number): Generator<{ first: number; pages: number }> {
  let first = 0;
  let count = 0;
  for (const page of [...pages].sort((a, b) => a - b)) {
    if (page < 1 || page > last) continue;
    if (page === first + count && count < RUN_PAGES_MAX) {
      count++;
      continue;
    }
    if (count > 0) yield { first, pages: count };
    first = page;
    count = 1;
  }
  if (count > 0) yield { first, pages: count };
}

function save(): void {
  // If not even the old sums can be removed, the WAL stays pinned.
  if (sums !== undefined && !saved) saved = saveSumsOf(path, sums);
}

function verify(from: number): VerifyAnswer {
  const known = load();
  if (known === undefined) return { damaged: [], healed: 0, copyError: undefined, next: 1, pages: 0 };
  save();
  const pages = known.sums.length;
  const pair = { database: descriptor, copy, sums: known, unsure };
  const { damaged, healed, copyError } = comparePages(pair, from, VERIFY_PAGES, { writeCopy: true });
  const next = Math.min(from + VERIFY_PAGES, pages + 1);
  return { damaged: named(damaged), healed: healed.length, copyError: textOf(copyError), next, pages };
}

function textOf(error: unknown): string | undefined {
  if (copy === undefined) return 'it cannot be opened';
  return error === undefined ? undefined : describeError(error);
}

/** One scan for all of them; damage may be in its way. */
function named(pages: readonly number[]): PageDamage[] {
  if (pages.length === 0) return [];
  const names = new Map<number, string>();
  try {
    const rows = database.prepare(`SELECT pageno, name FROM dbstat WHERE pageno IN (${pages.join(',')})`);
    for (const row of rows.iterate()) names.set(Number(row['pageno']), String(row['name']));
  } catch {
    // The names are a help, no more.
  }
  return pages.map((page) => ({ page, table: names.get(page) ?? '' }));
}

function renew(): void {
  sums = undefined;
  saved = false;
  load();
  save();
}

function close(limit: number): void {
  let whole = false;
  try {
    const answer = checkpoint(limit);
    whole = !answer.refused && answer.donePages >= answer.walPages;
  } catch {
    // Its pages have no sums yet.
  }
  // Closing last, a connection that may write moves what is in the WAL; the read-only one leaves it.
  if (whole) pin.close();
  database.close();
  if (!whole) pin.close();
  fs.closeSync(descriptor);
  if (copy !== undefined) fs.closeSync(copy);
}

port.on('message', (request: CheckpointRequest) => {
  try {
    switch (request.kind) {
      case 'checkpoint':
        port.postMessage(checkpoint(request.limit));
        return;
      case 'verify':
        port.postMessage(verify(request.from));
        return;
      case 'files':
        port.postMessage({ found: filesOfChunks(database, request.hashes) } satisfies FilesAnswer);
        return;
      case 'renew':
        renew();
        port.postMessage({});
        return;
      case 'close':
        close(request.limit);
        port.close();
        return;
    }
  } catch (error) {
    port.postMessage({ error: describeError(error) });
  }
});
