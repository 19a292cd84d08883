/**
 * Opening small.db: its schema, its version, and what is wrong with it.
 *
 * A row is a chunk; `hash` has the index and the table keeps the order of arrival, so that a burst of settled
 * chunks is written side by side. Pages of 4 KiB: with 4 KiB chunks the file is 1.14 times its content, against
 * 2.0 with 8 KiB pages and 1.35 with 16 KiB ones, and reads are no slower.
 *
 * Version 2 added `block_sums`, the CRC-32 tables of chunk files (block-sums.ts). It has a rowid too: its rows of
 * 4 KiB would leave the leaves of a WITHOUT ROWID table for overflow pages, and in order of arrival the tables
 * of one file's chunks lie side by side.
 */

import { existsSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import { SMALL_DB_VERSION } from './layout.ts';

const BLOCK_SUMS = `
  CREATE TABLE block_sums (
    hash BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    sums BLOB NOT NULL
  ) STRICT;
`;
const SCHEMA = `
  CREATE TABLE small_chunk (
    hash BLOB NOT NULL UNIQUE,
    data BLOB NOT NULL
  ) STRICT;
  ${BLOCK_SUMS}
  PRAGMA user_version = ${SMALL_DB_VERSION};
`;

const REPAIR_HINT =
  'restore it from a backup, or run `warren fsck --repair`, which lists the files that lose data';

/** Makes an empty small.db. The file must not exist. */
export function createSmallDb(path: string): void {
  const database = new DatabaseSync(path);
  try {
    database.exec('PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
    database.exec(`BEGIN; ${SCHEMA} COMMIT`);
  } finally {
    database.close();
  }
}

/**
 * The connection for reads. Errors: WarrenError SMALL_DB_MISSING, SMALL_DB_DAMAGED, SMALL_DB_NEWER.
 */
export function openSmallDb(path: string): DatabaseSync {
  if (!existsSync(path)) {
    throw new WarrenError({
      code: 'SMALL_DB_MISSING',
      message: `The database of small chunks is missing: ${path}`,
      hint: REPAIR_HINT,
    });
  }
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path);
    database.exec('PRAGMA busy_timeout = 5000; PRAGMA cache_size = -8192; PRAGMA mmap_size = 0');
    let version = Number(database.prepare('PRAGMA user_version').get()?.['user_version']);
    if (version === 1) version = migrateFrom1(database);
    if (version > SMALL_DB_VERSION) throw newerVersion(path, version);
    if (version !== SMALL_DB_VERSION)
      throw new Error(`its version is ${version}, so it is not a finished one`);
    const mode = database.prepare('PRAGMA journal_mode').get()?.['journal_mode'];
    if (mode !== 'wal') throw new Error(`its journal mode is ${String(mode)} instead of wal`);
    database.prepare('SELECT rowid FROM small_chunk ORDER BY rowid DESC LIMIT 1').get();
    database.prepare('SELECT hash FROM small_chunk ORDER BY hash LIMIT 1').get();
    return database;
  } catch (error) {
    database?.close();
    if (error instanceof WarrenError) throw error;
    // A migration met a disk that is full or read-only: the database is whole, nobody may rebuild it for that.
    const failure = asSystemError(error);
    if (['ENOSPC', 'EROFS'].includes(systemErrorCode(failure) ?? '')) throw failure;
    throw new WarrenError({
      code: 'SMALL_DB_DAMAGED',
      message: `The database of small chunks cannot be read: ${path}: ${error instanceof Error ? error.message : String(error)}`,
      hint: REPAIR_HINT,
      cause: error,
    });
  }
}

/** Answers the version it leads to. */
function migrateFrom1(database: DatabaseSync): number {
  database.exec('PRAGMA synchronous = FULL');
  database.exec(`BEGIN IMMEDIATE; ${BLOCK_SUMS} PRAGMA user_version = 2; COMMIT`);
  return 2;
}

function newerVersion(path: string, version: number): WarrenError {
  return new WarrenError({
    code: 'SMALL_DB_NEWER',
    message: `${path} has format version ${version}; this Warren knows ${SMALL_DB_VERSION}`,
    hint: 'start the newer Warren that wrote it; nothing was changed',
  });
}

/** SQLite's result codes (https://www.sqlite.org/rescode.html) as the error codes of the disk behind them. */
export function asSystemError(error: unknown): Error {
  const failure = error instanceof Error ? error : new Error(String(error));
  const code = sqliteCode(error);
  if (code === undefined) return failure;
  return Object.assign(new Error(failure.message, { cause: error }), { code });
}

function sqliteCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number')
    return undefined;
  // The low byte of an extended code is its primary code.
  switch (error.errcode & 0xff) {
    case 8: // SQLITE_READONLY
      return 'EROFS';
    case 13: // SQLITE_FULL
      return 'ENOSPC';
    case 10: // SQLITE_IOERR
    case 11: // SQLITE_CORRUPT
    case 14: // SQLITE_CANTOPEN
    case 26: // SQLITE_NOTADB
      return 'EIO';
    default:
      return undefined;
  }
}
