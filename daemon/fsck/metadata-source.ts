/**
 * What a check reads of `meta.db`: findings, counts, chunks, paths. From a connection of this thread (a stopped
 * daemon's directory) or from a worker thread (a running daemon, whose event loop must not wait for a scan).
 */

import { DatabaseSync } from 'node:sqlite';
import { Worker } from 'node:worker_threads';
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
import { workerUrl } from '../runtime/worker-url.ts';
import type { CheckAnswer, CheckRequest } from './check-worker.ts';

export interface MetadataSource {
  /** Checks every rule; findings go to `report`. */
  check(report: (finding: Finding) => void): Promise<MetadataCounts>;
  /** Up to CHUNK_BATCH chunks with a row greater than `after`, by row; none: the end. */
  chunks(after: number): Promise<readonly CheckedChunk[]>;
  paths(hash: Uint8Array): Promise<readonly string[]>;
  close(): Promise<void>;
}

export function metadataHere(databasePath: string, { repair }: { repair: boolean }): MetadataSource {
  const database = new DatabaseSync(databasePath, { readOnly: !repair, timeout: 5000 });
  // Only the checkpoint worker may write meta.db itself: it keeps the sums of the pages.
  database.exec('PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0');
  return {
    check(report) {
      for (const finding of checkMetadata(database, { repair })) report(finding);
      return Promise.resolve(countRows(database));
    },
    chunks: (after) => Promise.resolve(listChunks(database, after, CHUNK_BATCH)),
    paths: (hash) => Promise.resolve(pathsOfChunk(database, hash)),
    close() {
      database.close();
      return Promise.resolve();
    },
  };
}

/** Errors of every call: the signal's reason, and those of SQLite as Error. */
export function metadataInWorker(databasePath: string, signal: AbortSignal | undefined): MetadataSource {
  const worker = new Worker(workerUrl(import.meta.url, './check-worker'), {
    workerData: { path: databasePath },
  });
  let waiting: PromiseWithResolvers<CheckAnswer> | undefined;
  let dead: Error | undefined;
  let onFinding: (finding: Finding) => void = () => undefined;
  /** Paths are asked for by several chunks at once: requests go one after the other. */
  let tail: Promise<unknown> = Promise.resolve();
  const end = (error: Error): void => {
    dead ??= error;
    waiting?.reject(dead);
    waiting = undefined;
  };
  worker.on('message', (answer: CheckAnswer) => {
    if (answer.kind === 'finding') {
      onFinding(answer.finding);
      return;
    }
    if (answer.kind === 'failed') waiting?.reject(new Error(answer.message));
    else waiting?.resolve(answer);
    waiting = undefined;
  });
  worker.on('error', end);
  worker.on('exit', () => end(new Error('the thread that checks the metadata has ended')));
  const abort = (): void => {
    end(signal?.reason instanceof Error ? signal.reason : new Error('the check was cancelled'));
  };
  signal?.addEventListener('abort', abort);

  function ask(request: CheckRequest): Promise<CheckAnswer> {
    const answer = tail.then(() => {
      if (dead !== undefined) throw dead;
      const current = Promise.withResolvers<CheckAnswer>();
      waiting = current;
      worker.postMessage(request);
      return current.promise;
    });
    tail = answer.catch(() => undefined);
    return answer;
  }

  return {
    async check(report) {
      onFinding = report;
      const answer = await ask({ kind: 'check' });
      if (answer.kind !== 'checked') throw new Error(`unexpected answer ${answer.kind}`);
      return answer.counts;
    },
    async chunks(after) {
      const answer = await ask({ kind: 'chunks', after });
      if (answer.kind !== 'chunks') throw new Error(`unexpected answer ${answer.kind}`);
      return answer.chunks;
    },
    async paths(hash) {
      const answer = await ask({ kind: 'paths', hash });
      if (answer.kind !== 'paths') throw new Error(`unexpected answer ${answer.kind}`);
      return answer.paths;
    },
    async close() {
      signal?.removeEventListener('abort', abort);
      // A scan in SQLite ends before the thread does; a read-only connection leaves nothing behind.
      await worker.terminate();
    },
  };
}
