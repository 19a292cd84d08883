/**
 * Time comes in through a constructor so that a simulator can drive it. `now` is wall-clock time for time
 * stamps, `monotonicMs` never goes back and is for waits and measurements.
 */

import type { Timestamp } from '../protocol/ids.ts';

/** Calls later; answers how to cancel. Rooms that take their timers from outside run in simulated time too. */
export interface Timers {
  after(delayMs: number, callback: () => void): () => void;
}

/** The machine's timers. They do not keep the process alive. */
export function systemTimers(): Timers {
  return {
    after(delayMs, callback) {
      const timer = setTimeout(callback, delayMs).unref();
      return () => clearTimeout(timer);
    },
  };
}

export interface Clock {
  now(): Timestamp;
  monotonicMs(): number;
}

/** The machine's clocks. Time stamps have the clock's millisecond plus a counter that keeps them growing. */
export function systemClock(): Clock {
  let lastMs = 0;
  let tick = 0;
  return {
    now() {
      const ms = Date.now();
      // Two stamps in one millisecond differ by a microsecond, so that "newer than" works for quick programs.
      tick = ms === lastMs ? Math.min(tick + 1, 999) : 0;
      lastMs = ms;
      const seconds = Math.floor(ms / 1000);
      return { seconds, nanoseconds: (ms - seconds * 1000) * 1_000_000 + tick * 1000 };
    },
    monotonicMs() {
      return performance.now();
    },
  };
}
