/**
 * Opens a data directory for this process alone.
 *
 * A room of its own below metadata and chunks: both put their files into the directory, neither owns it. Its
 * format lies in protocol, because the command line makes directories without loading the daemon.
 *
 * What can go wrong: two daemons on one directory (the second would destroy the first one's work), a directory
 * of another node or a newer release, wrong permissions, a read-only disk. All of it is found before anything
 * is written.
 *
 * The idea: `lock.db` is held in an exclusive SQLite transaction for the life of the process. SQLite's lock is
 * a POSIX lock: the kernel frees it with the process, however it ends, so a stale lock cannot be. SQLite also
 * refuses a second opening within one process, which a bare POSIX lock would not. `lock.pid` is only for the
 * message; nothing is decided by it.
 *
 * Invariant: nothing else in the process opens `lock.db`; closing any descriptor of it would drop the lock.
 */

import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import {
  assertPrivate,
  type DataDirectoryFormat,
  readDataDirectoryFormat,
  withDirectoryErrors,
} from '../protocol/data-directory-format.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';

const SQLITE_BUSY = 5;
const SQLITE_LOCKED = 6;

export interface DataDirectory {
  readonly path: string;
  readonly format: DataDirectoryFormat;
  /** Frees the lock; last of all. */
  close(): void;
}

/**
 * Opens and locks `path`. `nodeId` is the configured one; leave it out where any node's data will do (fsck -d).
 * Errors: DATA_DIRECTORY_MISSING, DATA_DIRECTORY_NOT_WARREN, DATA_DIRECTORY_DAMAGED, DATA_DIRECTORY_NEWER,
 * DATA_DIRECTORY_OTHER_NODE, DATA_DIRECTORY_PERMISSIONS, DATA_DIRECTORY_READ_ONLY, DATA_DIRECTORY_IN_USE.
 */
export function openDataDirectory(path: string, options: { nodeId?: NodeId } = {}): DataDirectory {
  if (!existsSync(path)) {
    // Made by `warren init` only: a disk that is not mounted must not look like a new, empty file system.
    throw new WarrenError({
      code: 'DATA_DIRECTORY_MISSING',
      message: `The data directory ${path} does not exist.`,
      hint: `mount the disk that holds it, or make a new one with \`warren init -d ${path}\``,
    });
  }
  const format = readDataDirectoryFormat(path);
  if (format === undefined) {
    throw new WarrenError({
      code: 'DATA_DIRECTORY_NOT_WARREN',
      message: `${path} is not a Warren data directory: it has no format.json.`,
      hint: `mount the disk that holds it, or make a new one with \`warren init -d ${path}\``,
    });
  }
  if (options.nodeId !== undefined && format.nodeId !== options.nodeId) {
    throw new WarrenError({
      code: 'DATA_DIRECTORY_OTHER_NODE',
      message: `${path} belongs to node "${format.nodeId}", and this node is "${options.nodeId}".`,
      hint: `set id = "${format.nodeId}" in section [node], or name this node's own data_dir`,
    });
  }
  withDirectoryErrors(path, 'used', () => {
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    assertPrivate(path);
  });
  const lock = lockDirectory(path);
  return { path, format, close: () => lock.close() };
}

function lockDirectory(path: string): DatabaseSync {
  const holderFile = join(path, 'lock.pid');
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(join(path, 'lock.db'), { timeout: 0 });
    database.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
    writeFileSync(holderFile, `${process.pid}\n`, { mode: 0o600 });
    return database;
  } catch (error) {
    database?.close();
    if (!isBusy(error)) return withDirectoryErrors(path, 'locked', () => raise(error));
    const holder = readHolder(holderFile);
    throw new WarrenError({
      code: 'DATA_DIRECTORY_IN_USE',
      message: `${path} is in use by another warrend${holder === undefined ? '' : ` (process ${holder})`}.`,
      hint: 'stop that daemon first, or give this one a data_dir of its own',
      cause: error,
    });
  }
}

function isBusy(error: unknown): boolean {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return false;
  // The low byte is the primary result code.
  const code = error.errcode & 0xff;
  return code === SQLITE_BUSY || code === SQLITE_LOCKED;
}

function readHolder(file: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(file, 'utf8'), 10);
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

function raise(error: unknown): never {
  throw error;
}
