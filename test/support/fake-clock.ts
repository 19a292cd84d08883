/** A clock that stands still until a test moves it, and sleeps that end when it does. */

import type { Sleep } from '../../daemon/runtime/background-worker.ts';
import type { Clock } from '../../daemon/runtime/clock.ts';

export interface FakeClock extends Clock {
  /** Moves the time; sleeps that are over by then end. */
  advance(ms: number): void;
  readonly sleep: Sleep;
}

export function fakeClock(): FakeClock {
  const startMs = Date.now();
  const sleepers = new Set<{ readonly untilMs: number; readonly wake: () => void }>();
  let elapsedMs = 0;
  return {
    now() {
      const ms = startMs + elapsedMs;
      return { seconds: Math.floor(ms / 1000), nanoseconds: (ms % 1000) * 1_000_000 };
    },
    monotonicMs: () => elapsedMs,
    advance(ms) {
      elapsedMs += ms;
      for (const sleeper of sleepers) if (sleeper.untilMs <= elapsedMs) sleeper.wake();
    },
    sleep(ms, signal) {
      if (signal.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        const wake = (): void => {
          sleepers.delete(sleeper);
          signal.removeEventListener('abort', wake);
          resolve();
        };
        const sleeper = { untilMs: elapsedMs + ms, wake };
        sleepers.add(sleeper);
        signal.addEventListener('abort', wake);
      });
    },
  };
}
