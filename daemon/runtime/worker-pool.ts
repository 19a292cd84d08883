/**
 * Worker threads that answer typed jobs: what would make the event loop wait (hashing, fsync, SQLite commits)
 * runs there.
 *
 * A pool has a table of jobs, `Jobs`: kind -> { job, result }. The thread's module calls `serveJobs` with one
 * handler for each kind; a handler runs to its end before the next job of that thread. A job goes to the
 * thread with the fewest jobs. A handler that throws rejects its job only, with the system error code kept;
 * a thread that ends unexpectedly rejects all its jobs and every later one: that is a defect, never a state
 * to work on in.
 *
 * File descriptors opened in a thread may be closed by another one (`trackUnmanagedFds` is off), so a thread
 * that ends must not leave any behind.
 */

import { parentPort, Worker } from 'node:worker_threads';
import { systemErrorCode } from '../protocol/errors.ts';
import { assert, AssertionError, defined } from './assert.ts';

/** kind -> what goes in and what comes out; both must survive a structured clone. */
export type JobTable<Jobs> = { [Kind in keyof Jobs]: { job: unknown; result: unknown } };

export interface WorkerPool<Jobs extends JobTable<Jobs>> {
  /** Runs one job. `transfer` lists the ArrayBuffers that move instead of being copied. */
  run<Kind extends keyof Jobs & string>(
    kind: Kind,
    job: Jobs[Kind]['job'],
    transfer?: readonly ArrayBuffer[],
  ): Promise<Jobs[Kind]['result']>;
  /** Waits for the jobs in flight, then ends the threads. */
  close(): Promise<void>;
}

/** More waiting jobs than this mean that a caller has no bound of its own. */
const JOBS_IN_FLIGHT_MAX = 16_384;

/** Of a worker thread: a larger one would only fill with garbage. */
export const YOUNG_GENERATION_MIB = 2;

interface Request {
  readonly id: number;
  readonly kind: string;
  readonly job: unknown;
}

type Reply =
  | { readonly id: number; readonly result: unknown }
  | {
      readonly id: number;
      readonly failure: { readonly message: string; readonly code: string | undefined };
    };

interface Thread {
  readonly worker: Worker;
  jobs: number;
}

interface Waiter {
  readonly thread: Thread;
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/**
 * Runs jobs in up to `threads` threads of the module at `url`. `startAtOnce` of them start now (default: all);
 * the others when a job comes and all that run have one. `name` is what a debugger shows.
 */
export function openWorkerPool<Jobs extends JobTable<Jobs>>(options: {
  url: URL;
  threads: number;
  startAtOnce?: number;
  name: string;
  workerData?: unknown;
}): WorkerPool<Jobs> {
  const waiters = new Map<number, Waiter>();
  let nextId = 1;
  let ending = false;
  let broken: Error | undefined;
  let drained: (() => void) | undefined;

  const threads = Array.from({ length: options.startAtOnce ?? options.threads }, startThread);

  function startThread(): Thread {
    const worker = new Worker(options.url, {
      name: options.name,
      trackUnmanagedFds: false,
      workerData: options.workerData,
      // Jobs carry their bytes outside V8's heap; a large young generation would only fill with old messages.
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MIB },
    });
    const thread: Thread = { worker, jobs: 0 };
    worker.on('message', (reply: Reply) => settle(reply));
    worker.on('error', (error: unknown) => fail(thread, error));
    worker.on('exit', (code) => fail(thread, new Error(`exit code ${code}`)));
    return thread;
  }

  function leastBusy(): Thread {
    const least = threads.reduce<Thread | undefined>(
      (best, thread) => (best === undefined || thread.jobs < best.jobs ? thread : best),
      undefined,
    );
    if (least !== undefined && (least.jobs === 0 || threads.length >= options.threads)) return least;
    const started = startThread();
    threads.push(started);
    return started;
  }

  function take(id: number): Waiter | undefined {
    const waiter = waiters.get(id);
    if (waiter === undefined) return undefined;
    waiters.delete(id);
    waiter.thread.jobs -= 1;
    if (waiters.size === 0) drained?.();
    return waiter;
  }

  function settle(reply: Reply): void {
    const waiter = take(reply.id);
    if (waiter === undefined) return;
    if ('result' in reply) waiter.resolve(reply.result);
    else waiter.reject(failureOf(reply.failure));
  }

  function fail(thread: Thread, error: unknown): void {
    if (ending && waiters.size === 0) return;
    const reason = error instanceof Error ? error.message : String(error);
    broken ??= new AssertionError(`worker thread ${options.name} ended: ${reason}`, { cause: error });
    for (const [id, waiter] of waiters) {
      if (waiter.thread === thread) take(id)?.reject(broken);
    }
  }

  return {
    run(kind, job, transfer = []) {
      assert(!ending, `no job for ${options.name} after close`);
      assert(
        waiters.size < JOBS_IN_FLIGHT_MAX,
        `at most ${JOBS_IN_FLIGHT_MAX} jobs wait for ${options.name}`,
      );
      if (broken !== undefined) return Promise.reject(broken);
      const thread = leastBusy();
      const id = nextId++;
      const request: Request = { id, kind, job };
      return new Promise((resolve, reject) => {
        thread.worker.postMessage(request, [...transfer]);
        thread.jobs += 1;
        // The reply to this id comes from this kind's handler, so its type is the kind's result.
        waiters.set(id, { thread, resolve, reject });
      });
    },
    async close() {
      ending = true;
      if (waiters.size > 0) await new Promise<void>((resolve) => (drained = resolve));
      await Promise.all(threads.map((thread) => thread.worker.terminate()));
    },
  };
}

/** Called once by a worker thread's module: answers jobs of each kind by its handler. */
export function serveJobs<Jobs extends JobTable<Jobs>>(
  handlers: {
    readonly [Kind in keyof Jobs]: (job: Jobs[Kind]['job']) => Jobs[Kind]['result'];
  },
): void {
  const byKind: Readonly<Record<string, (job: never) => unknown>> = handlers;
  const port = defined(parentPort, 'this module runs in a worker thread');
  port.on('message', ({ id, kind, job }: Request) => {
    let reply: Reply;
    try {
      reply = { id, result: defined(byKind[kind], `a handler for ${kind}`)(job as never) };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      reply = { id, failure: { message, code: systemErrorCode(error) } };
    }
    port.postMessage(reply);
  });
}

function failureOf(failure: { message: string; code: string | undefined }): Error {
  const error = new Error(failure.message);
  return failure.code === undefined ? error : Object.assign(error, { code: failure.code });
}
