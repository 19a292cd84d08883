/** Starts and talks to the checkpoint worker: one request at a time, in order. */

import { Worker } from 'node:worker_threads';
import type { ChunkHash } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';
import { YOUNG_GENERATION_MIB } from '../runtime/worker-pool.ts';
import { workerUrl } from '../runtime/worker-url.ts';
import type {
  CheckpointAnswer,
  CheckpointRequest,
  FilesAnswer,
  PageDamage,
  VerifyAnswer,
} from './checkpoint-worker.ts';
import { CHUNK_FILES_MAX, type ChunkFiles } from './chunk-files.ts';

/** Damaged pages that are named; a file with more is lost as a whole. */
const DAMAGED_PAGES_MAX = 100;

export interface VerifiedPages {
  readonly damaged: readonly PageDamage[];
  /** How many were damaged and are right again. */
  readonly healed: number;
  /** Why meta.copy lacks pages. */
  readonly copyError: string | undefined;
}

export interface Checkpointer {
  /** Nothing above version `limit` comes into the database file. */
  run(limit: number): Promise<CheckpointAnswer>;
  /**
   * Compares every page of meta.db and of meta.copy with its sum and puts back what is damaged; rests `pauseMs`
   * after each MiB.
   */
  verify(options: { pauseMs: number; signal: AbortSignal }): Promise<VerifiedPages>;
  /** Files that use the chunks, as of the last commit; at most CHUNK_FILES_MAX chunks. A scan. */
  filesOfChunks(hashes: readonly ChunkHash[]): Promise<readonly ChunkFiles[]>;
  /** The pages as they are now count as right. */
  renew(): Promise<void>;
  /**
   * Checkpoints once more, up to `limit`, and closes. To be the last connection to go, so that no other one writes
   * meta.db.
   */
  close(limit: number): Promise<void>;
}

export function openCheckpointer(databasePath: string): Checkpointer {
  const worker = new Worker(workerUrl(import.meta.url, './checkpoint-worker'), {
    workerData: { path: databasePath },
    // Its descriptor of meta.db must outlive it if it fails: closing one frees the locks of all.
    trackUnmanagedFds: false,
    resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MIB },
  });
  worker.unref();
  let waiting: PromiseWithResolvers<unknown> | undefined;
  let dead: Error | undefined;
  let tail: Promise<unknown> = Promise.resolve();
  const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  worker.on('message', (answer: { error?: string }) => {
    if (answer.error === undefined) waiting?.resolve(answer);
    else waiting?.reject(new Error(answer.error));
    waiting = undefined;
  });
  const end = (error: Error) => {
    dead ??= error;
    waiting?.reject(error);
    waiting = undefined;
  };
  worker.on('error', end);
  worker.on('exit', () => end(new Error('the checkpoint worker has ended')));

  function ask<T>(request: CheckpointRequest): Promise<T> {
    const answer = tail.then(() => {
      if (dead !== undefined) throw dead;
      const current = Promise.withResolvers<unknown>();
      waiting = current;
      worker.ref();
      worker.postMessage(request);
      return current.promise.finally(() => worker.unref());
    });
    tail = answer.catch(() => {});
    return answer as Promise<T>;
  }

  return {
    run: (limit) => ask({ kind: 'checkpoint', limit }),
    async verify({ pauseMs, signal }) {
      const damaged: PageDamage[] = [];
      let healed = 0;
      let copyError: string | undefined;
      for (let from = 1; ; ) {
        signal.throwIfAborted();
        const answer = await ask<VerifyAnswer>({ kind: 'verify', from });
        damaged.push(...answer.damaged.slice(0, DAMAGED_PAGES_MAX - damaged.length));
        healed += answer.healed;
        copyError ??= answer.copyError;
        if (answer.next > answer.pages || damaged.length >= DAMAGED_PAGES_MAX)
          return { damaged, healed, copyError };
        from = answer.next;
        if (pauseMs > 0) await pause(pauseMs, signal);
      }
    },
    async filesOfChunks(hashes) {
      assert(hashes.length <= CHUNK_FILES_MAX, `at most ${CHUNK_FILES_MAX} chunks are asked for at once`);
      return (await ask<FilesAnswer>({ kind: 'files', hashes })).found;
    },
    renew: () => ask({ kind: 'renew' }),
    async close(limit) {
      await tail;
      worker.ref();
      if (dead === undefined) worker.postMessage({ kind: 'close', limit } satisfies CheckpointRequest);
      await exited;
    },
  };
}

/** Keeps nobody awake: a process may end in the middle of a comparison. */
function pause(pauseMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, pauseMs).unref();
    signal.addEventListener('abort', done);
  });
}
