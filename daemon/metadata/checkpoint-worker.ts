/**
 * Worker thread that moves WAL pages into `meta.db`: the only place that waits for the disk under SQLite.
 *
 * PASSIVE never blocks the writer. With synchronous = FULL the checkpoint syncs the WAL before it copies and
 * the database after, so that the WAL may be started over.
 */

import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import { defined } from '../runtime/assert.ts';

export interface CheckpointAnswer {
  /** Pages in the WAL, and how many of them are in the database now. */
  readonly walPages: number;
  readonly donePages: number;
}

const port = defined(parentPort, 'this module runs in a worker thread');
const database = new DatabaseSync((workerData as { path: string }).path, { timeout: 5000 });
database.exec('PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -1024');
const statement = database.prepare('PRAGMA wal_checkpoint(PASSIVE)');

port.on('message', (message: 'checkpoint' | 'close') => {
  if (message === 'close') {
    database.close();
    port.close();
    return;
  }
  try {
    const row = statement.get();
    const answer: CheckpointAnswer = {
      walPages: Number(row?.['log'] ?? 0),
      donePages: Number(row?.['checkpointed'] ?? 0),
    };
    port.postMessage(answer);
  } catch (error) {
    port.postMessage({ error: error instanceof Error ? error.message : String(error) });
  }
});
