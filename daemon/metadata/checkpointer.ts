/** Starts and talks to the checkpoint worker: one checkpoint at a time. */

import { Worker } from 'node:worker_threads';
import { assert } from '../runtime/assert.ts';
import { workerUrl } from '../runtime/worker-url.ts';
import type { CheckpointAnswer } from './checkpoint-worker.ts';

export interface Checkpointer {
  run(): Promise<CheckpointAnswer>;
  close(): Promise<void>;
}

export function openCheckpointer(databasePath: string): Checkpointer {
  const worker = new Worker(workerUrl(import.meta.url, './checkpoint-worker'), {
    workerData: { path: databasePath },
  });
  worker.unref();
  let waiting: PromiseWithResolvers<CheckpointAnswer> | undefined;
  worker.on('message', (answer: CheckpointAnswer | { error: string }) => {
    if ('error' in answer) waiting?.reject(new Error(answer.error));
    else waiting?.resolve(answer);
    waiting = undefined;
  });
  worker.on('error', (error) => {
    waiting?.reject(error);
    waiting = undefined;
  });
  return {
    run() {
      assert(waiting === undefined, 'one checkpoint at a time');
      waiting = Promise.withResolvers<CheckpointAnswer>();
      worker.ref();
      worker.postMessage('checkpoint');
      return waiting.promise.finally(() => worker.unref());
    },
    async close() {
      worker.ref();
      const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      worker.postMessage('close');
      await exited;
    },
  };
}
