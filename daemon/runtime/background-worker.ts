/**
 * The one shape of background work (after Garage's `util/background`): a worker does one unit of work at a time,
 * says what it does, and can be paused. Between units it yields to the event loop and rests for its throttle.
 *
 * What can go wrong is in the unit: an error is kept for the status, logged once while it stays the same, and the
 * unit is tried again after a pause that doubles. A worker never ends by itself.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { describeError } from '../protocol/errors.ts';
import { assert } from './assert.ts';
import type { Log } from './log.ts';
import type { Throttle } from './throttle.ts';

const ERROR_PAUSE_MS_MIN = 1000;
const ERROR_PAUSE_MS_MAX = 5 * 60_000;

/** Waits, or ends early (without an error) when the signal aborts. */
export type Sleep = (ms: number, signal: AbortSignal) => Promise<void>;

export const systemSleep: Sleep = async (ms, signal) => {
  await delay(ms, undefined, { signal, ref: false }).catch(() => undefined);
};

export type UnitOutcome =
  /** There may be more: go on after paying for `bytes`. */
  | { readonly kind: 'worked'; readonly bytes: number }
  /** Nothing to do until woken, or until this time has passed. */
  | { readonly kind: 'idle'; readonly nextMs: number };

export interface WorkerQueue {
  readonly items: number;
  readonly bytes: number;
  /** Bytes done of the current round or burst, for the progress. */
  readonly doneBytes: number;
  readonly secondsLeft: number | undefined;
}

export interface WorkerStatus extends WorkerQueue {
  readonly name: string;
  readonly state: 'idle' | 'working' | 'paused' | 'failing';
  readonly lastError: string | undefined;
  readonly bytesPerSecondMax: number | undefined;
}

export interface BackgroundWorker {
  /** There may be something to do. */
  wake(): void;
  pause(): void;
  resume(): void;
  status(): WorkerStatus;
  /** Ends after the current unit, which sees its signal aborted. */
  close(): Promise<void>;
}

export interface WorkerOptions {
  readonly name: string;
  readonly unit: (signal: AbortSignal) => Promise<UnitOutcome>;
  readonly queue: () => WorkerQueue;
  readonly throttle: Throttle;
  readonly sleep: Sleep;
  readonly log: Log;
}

export function startWorker(options: WorkerOptions): BackgroundWorker {
  const { name, sleep, throttle, log } = options;
  const closing = new AbortController();
  let resting = new AbortController();
  let woken = false;
  let paused = false;
  let working = false;
  let lastError: string | undefined;
  let errorPauseMs = ERROR_PAUSE_MS_MIN;
  const ended = run();

  function wake(): void {
    woken = true;
    resting.abort();
  }

  /** Rests unless something happened since the last unit began. */
  async function rest(ms: number, canBeWoken: boolean): Promise<void> {
    if (closing.signal.aborted || (canBeWoken && woken)) return;
    resting = new AbortController();
    await sleep(ms, canBeWoken ? AbortSignal.any([closing.signal, resting.signal]) : closing.signal);
  }

  async function run(): Promise<void> {
    await new Promise(setImmediate);
    while (!closing.signal.aborted) {
      if (paused) {
        woken = false;
        await rest(ERROR_PAUSE_MS_MAX, true);
        continue;
      }
      const debtMs = throttle.debtMs();
      if (debtMs > 0) {
        await rest(debtMs, false);
        continue;
      }
      woken = false;
      await once();
      await new Promise(setImmediate);
    }
  }

  async function once(): Promise<void> {
    let outcome: UnitOutcome;
    working = true;
    try {
      outcome = await options.unit(closing.signal);
      working = false;
      lastError = undefined;
      errorPauseMs = ERROR_PAUSE_MS_MIN;
    } catch (error) {
      working = false;
      if (closing.signal.aborted) return;
      const text = describeError(error);
      if (text !== lastError) log.warn(`${name} failed; it is tried again`, { error: text });
      lastError = text;
      const pauseMs = errorPauseMs;
      errorPauseMs = Math.min(2 * errorPauseMs, ERROR_PAUSE_MS_MAX);
      await rest(pauseMs, true);
      return;
    }
    if (outcome.kind === 'worked') throttle.spend(outcome.bytes);
    else await rest(outcome.nextMs, true);
  }

  return {
    wake,
    pause() {
      paused = true;
    },
    resume() {
      paused = false;
      wake();
    },
    status: () => ({
      name,
      state: paused ? 'paused' : lastError !== undefined ? 'failing' : working ? 'working' : 'idle',
      lastError,
      bytesPerSecondMax: throttle.limit(),
      ...options.queue(),
    }),
    async close() {
      assert(!closing.signal.aborted, `${name} is closed once`);
      closing.abort();
      await ended;
    },
  };
}
