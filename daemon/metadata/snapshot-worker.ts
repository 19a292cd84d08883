/** Worker thread that checks the file of a snapshot and prepares it (snapshots.ts): seconds for a large one. */

import * as fs from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import { defined } from '../runtime/assert.ts';

export interface SnapshotCheck {
  /** Why the file cannot be used. */
  readonly problem?: string;
  readonly format: number;
  readonly version: number;
  readonly epoch: number | undefined;
}

const UNKNOWN = { format: 0, version: 0, epoch: undefined };
const port = defined(parentPort, 'this module runs in a worker thread');
const { file } = workerData as { file: string };

port.postMessage(check());

function check(): SnapshotCheck {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(file, { timeout: 5000 });
    const found = String(database.prepare('PRAGMA quick_check(1)').get()?.['quick_check']);
    if (found !== 'ok') return { ...UNKNOWN, problem: `it is damaged (${found})` };
    const format = Number(database.prepare('PRAGMA user_version').get()?.['user_version']);
    const version = Number(
      database.prepare("SELECT value FROM setting WHERE key = 'version'").get()?.['value'],
    );
    const epoch = database.prepare('SELECT max(epoch) AS epoch FROM epoch').get()?.['epoch'];
    // One file without a WAL: it is moved by its name. Small chunks that are not here are fetched when needed.
    database.exec(
      `PRAGMA journal_mode = DELETE; UPDATE setting SET value = ${version} WHERE key = 'settled'`,
    );
    database.close();
    database = undefined;
    const descriptor = fs.openSync(file, 'r');
    try {
      fs.fdatasyncSync(descriptor);
    } finally {
      fs.closeSync(descriptor);
    }
    return { format, version, epoch: epoch === null || epoch === undefined ? undefined : Number(epoch) };
  } catch (error) {
    return { ...UNKNOWN, problem: error instanceof Error ? error.message : String(error) };
  } finally {
    database?.close();
  }
}
