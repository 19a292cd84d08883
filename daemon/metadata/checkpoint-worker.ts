/**
 * Worker thread that moves WAL pages into `meta.db`: the only place that waits for the disk under SQLite, and
 * the only one that writes `meta.db`, so it also keeps the sums of its pages (page-sums.ts) and compares them.
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
import { defined } from '../runtime/assert.ts';
import { type ChunkFiles, filesOfChunks } from './chunk-files.ts';
import {
  pageBytesOf,
  type PageSums,
  readPageSums,
  removePageSums,
  WAL_START,
  walPages,
  writePageSums,
} from './page-sums.ts';

export interface CheckpointAnswer {
  /** The version that the checkpoint saw. */
  readonly version: number;
  /** It was above the limit, and nothing was copied. */
  readonly refused: boolean;
  /** Pages in the WAL, and how many of them are in the database now. */
  readonly walPages: number;
  readonly donePages: number;
}

/** A page whose bytes are not those that were written. */
export interface PageDamage {
  readonly page: number;
  /** The table or index that the page belongs to; empty when that cannot be told. */
  readonly table: string;
}

export interface VerifyAnswer {
  readonly damaged: readonly PageDamage[];
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

const port = defined(parentPort, 'this module runs in a worker thread');
const { path } = workerData as { path: string };
const sumsFile = `${path.replace(/\.db$/, '')}.sums`;
const database = new DatabaseSync(path, { timeout: 5000 });
database.exec('PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -1024');
const statement = database.prepare('PRAGMA wal_checkpoint(PASSIVE)');
/** Pins the snapshot. Read-only: as the last connection to close it leaves the WAL alone. */
const pin = new DatabaseSync(path, { readOnly: true, timeout: 5000 });
pin.exec('PRAGMA temp_store = MEMORY');
const pinnedVersion = pin.prepare("SELECT value FROM setting WHERE key = 'version'");
const descriptor = fs.openSync(path, 'r');

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
    const found = readPageSums(sumsFile);
    if (found?.pageBytes === pageBytes) sums = found;
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
    readSums(first, pages, pageBytes, (index, sum) => {
      values[index] = sum;
    });
  }
  sums = { pageBytes, sums: values };
  saved = false;
  return sums;
}

function readSums(
  first: number,
  pages: number,
  pageBytes: number,
  each: (index: number, sum: number) => void,
): void {
  const buffer = Buffer.alloc(pages * pageBytes);
  // What the file is too short for stays zeros, and so differs.
  fs.readSync(descriptor, buffer, 0, buffer.length, first * pageBytes);
  for (let page = 0; page < pages; page++) {
    each(first + page, crc32(buffer.subarray(page * pageBytes, (page + 1) * pageBytes)));
  }
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
    return { version, refused: true, walPages: 0, donePages: 0 };
  }
  load();
  const { salt, pages } = walPages(`${path}-wal`, copied);
  for (const page of pages) unsure.add(page);
  const row = statement.get();
  const answer = {
    version,
    refused: false,
    walPages: Number(row?.['log'] ?? 0),
    donePages: Number(row?.['checkpointed'] ?? 0),
  };
  refresh(answer.donePages >= answer.walPages);
  copied = { salt, frames: Math.max(0, answer.donePages) };
  save();
  // Only now may SQLite start the WAL over: every sum of what it held is durable, or none is.
  pin.exec('COMMIT');
  pinned = false;
  return answer;
}

function refresh(complete: boolean): void {
  const known = extend();
  if (known === undefined) return;
  for (const page of unsure) {
    if (page < 1 || page > known.sums.length) continue;
    readSums(page - 1, 1, known.pageBytes, (index, sum) => {
      if (known.sums[index] === sum) return;
      known.sums[index] = sum;
      saved = false;
    });
  }
  if (complete) unsure = new Set();
}

function save(): void {
  if (sums === undefined || saved) return;
  try {
    writePageSums(sumsFile, sums);
    saved = true;
  } catch {
    // A full disk: without a file nothing is compared with old sums. If even this fails, the WAL stays pinned.
    removePageSums(sumsFile);
  }
}

function verify(from: number): VerifyAnswer {
  const known = load();
  if (known === undefined) return { damaged: [], next: 1, pages: 0 };
  save();
  const { sums: values, pageBytes } = known;
  const pages = Math.min(VERIFY_PAGES, Math.max(0, values.length - (from - 1)));
  const found: number[] = [];
  if (pages > 0) {
    readSums(from - 1, pages, pageBytes, (index, sum) => {
      if (values[index] !== sum && !unsure.has(index + 1)) found.push(index + 1);
    });
  }
  return { damaged: named(found), next: from + pages, pages: values.length };
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
    port.postMessage({ error: error instanceof Error ? error.message : String(error) });
  }
});
