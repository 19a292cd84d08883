/**
 * Worker thread that checks the metadata of a running daemon on a read-only connection of its own.
 *
 * A read transaction keeps the WAL from being started over, so that it grows by what is written meanwhile.
 * Therefore the rules share a snapshot for SNAPSHOT_MS_MAX only and then go on with a newer one (each rule is
 * whole by itself), and no transaction is open while chunks are looked at.
 */

import * as os from 'node:os';
import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import {
  CHUNK_BATCH,
  type CheckedChunk,
  checkMetadata,
  countRows,
  listChunks,
  type MetadataCounts,
  pathsOfChunk,
} from '../metadata/check.ts';
import type { Finding } from '../protocol/control-api.ts';
import { defined } from '../runtime/assert.ts';

export type CheckRequest =
  | { readonly kind: 'check' }
  | { readonly kind: 'chunks'; readonly after: number }
  | { readonly kind: 'paths'; readonly hash: Uint8Array };

export type CheckAnswer =
  /** Any number of these before `checked`. */
  | { readonly kind: 'finding'; readonly finding: Finding }
  | { readonly kind: 'checked'; readonly counts: MetadataCounts }
  | { readonly kind: 'chunks'; readonly chunks: readonly CheckedChunk[] }
  | { readonly kind: 'paths'; readonly paths: readonly string[] }
  | { readonly kind: 'failed'; readonly message: string };

const SNAPSHOT_MS_MAX = 5000;
/** A check takes what the daemon leaves of the processor. */
const NICE = 10;

const port = defined(parentPort, 'this module runs in a worker thread');
const { path } = workerData as { path: string };
// On Linux this is the calling thread's alone.
os.setPriority(NICE);
const database = new DatabaseSync(path, { readOnly: true, timeout: 5000 });
database.exec('PRAGMA temp_store = MEMORY');

function check(): CheckAnswer {
  let startedMs = performance.now();
  const renew = (): boolean => {
    if (performance.now() - startedMs < SNAPSHOT_MS_MAX) return false;
    database.exec('COMMIT; BEGIN');
    startedMs = performance.now();
    return true;
  };
  database.exec('BEGIN');
  try {
    for (const finding of checkMetadata(database, { repair: false, renew }))
      send({ kind: 'finding', finding });
    return { kind: 'checked', counts: countRows(database) };
  } finally {
    database.exec('ROLLBACK');
  }
}

function answer(request: CheckRequest): CheckAnswer {
  switch (request.kind) {
    case 'check':
      return check();
    case 'chunks':
      return { kind: 'chunks', chunks: listChunks(database, request.after, CHUNK_BATCH) };
    case 'paths':
      return { kind: 'paths', paths: pathsOfChunk(database, request.hash) };
  }
}

function send(message: CheckAnswer): void {
  port.postMessage(message);
}

port.on('message', (request: CheckRequest) => {
  try {
    send(answer(request));
  } catch (error) {
    send({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
  }
});
