/** Opens `meta.db` and its settings, and closes it without a change when the start is refused. */

import * as fs from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { describeError, WarrenError } from '../protocol/errors.ts';
import { assert, defined } from '../runtime/assert.ts';
import type { Totals } from './apply-extents.ts';
import { query } from './rows.ts';
import { migrate } from './schema.ts';

/** More is left to the page cache of the kernel: a million files stay under 400 MiB in all. */
const CACHE_KIB = 32 * 1024;

/** Errors: METADATA_MISSING, METADATA_DAMAGED, METADATA_TOO_NEW, METADATA_UNUSABLE. */
export function openDatabase(file: string, create: boolean): DatabaseSync {
  if (!create && !fs.existsSync(file)) {
    throw new WarrenError({
      code: 'METADATA_MISSING',
      message: `${file} is not there, but this is the data directory of a file system.`,
      hint: 'Restore meta.db (with meta.db-wal and log/) from a backup. Without it the names of the files are lost; their chunks stay untouched.',
    });
  }
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(file, { timeout: 5000 });
    database.exec(
      `PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;
       PRAGMA cache_size = -${CACHE_KIB}; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY;`,
    );
    migrate(database, file);
    return database;
  } catch (error) {
    if (database !== undefined) closeUntouched(database, file);
    throw openError(file, error);
  }
}

type SettingKey = 'version' | 'settled' | 'inodes' | 'stored' | 'allocated' | 'next_inode';

export function openSettings(database: DatabaseSync, file: string) {
  try {
    const values = new Map<string, number>();
    for (const row of query(database, 'SELECT key, value FROM setting').all()) {
      values.set(row[0] as string, row[1] as number);
    }
    const get = (key: SettingKey) => defined(values.get(key), `setting ${key} is there`);
    for (const key of ['version', 'settled', 'inodes', 'stored', 'allocated', 'next_inode'] as const) {
      assert(Number.isSafeInteger(get(key)), `setting ${key} is a number`);
    }
    const update = database.prepare('UPDATE setting SET value = ? WHERE key = ?');
    const next = query(database, "SELECT value FROM setting WHERE key = 'next_inode'");
    let settled = get('settled');
    return {
      get,
      totals: (): Totals => ({
        inodes: get('inodes'),
        stored: get('stored'),
        allocated: get('allocated'),
      }),
      /** As it is now; operations from the log may have moved it. */
      nextInode: () => defined(next.get(), 'setting next_inode is there')[0] as number,
      /** `settled` as of the last save. */
      committedSettled: () => settled,
      save(version: number, settledNow: number, totals: Totals): void {
        update.run(version, 'version');
        update.run(settledNow, 'settled');
        update.run(totals.inodes, 'inodes');
        update.run(totals.stored, 'stored');
        update.run(totals.allocated, 'allocated');
        settled = settledNow;
      },
    };
  } catch (error) {
    closeUntouched(database, file);
    throw openError(file, error);
  }
}

/** Closing the last connection copies the WAL into meta.db, unless it is read-only; a refusal changes nothing. */
export function closeUntouched(database: DatabaseSync, file: string): void {
  let last: DatabaseSync | undefined;
  try {
    last = new DatabaseSync(file, { readOnly: true });
    last.prepare('SELECT count(*) FROM sqlite_schema').get();
  } catch {
    // What cannot be read has nothing to keep.
  }
  database.close();
  last?.close();
}

/** What a person should read of a failure to open `file`. */
export function openError(file: string, error: unknown): WarrenError {
  if (error instanceof WarrenError) return error;
  const text = describeError(error);
  if (/malformed|not a database|corrupt|invariant|no such table/i.test(text)) {
    return new WarrenError({
      code: 'METADATA_DAMAGED',
      message: `${file} is damaged: ${text}.`,
      hint: 'Nothing was changed. See what is wrong with `warren fsck`; restore meta.db, meta.db-wal and log/ from a backup, or let `warren fsck --repair` save what is readable.',
      cause: error,
    });
  }
  return new WarrenError({
    code: 'METADATA_UNUSABLE',
    message: `${file} cannot be opened: ${text}.`,
    hint: 'Check that the disk is writable and not full, and that the folder belongs to the user who runs warrend.',
    cause: error,
  });
}

/** Whether the error says that the disk is full. */
export function isFull(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  // SQLITE_FULL is 13.
  if ('errcode' in error && (Number(error.errcode) & 0xff) === 13) return true;
  return 'code' in error && error.code === 'ENOSPC';
}

/** Size of the disk that holds `directory`, bytes. */
export function diskBytes(directory: string): number {
  const { blocks, bsize } = fs.statfsSync(directory);
  return blocks * bsize;
}
