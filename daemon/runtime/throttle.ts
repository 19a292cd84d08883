/**
 * A limit in bytes per second that an operator can change at any time, shared by whoever should be slow together.
 * Bytes are paid for after they moved: `debtMs` says how long to rest before the next piece. At most one second's
 * worth is saved up while nothing moves.
 */

import { assert } from './assert.ts';
import type { Clock } from './clock.ts';

export interface Throttle {
  spend(bytes: number): void;
  /** Milliseconds to rest before more may move; 0: go on. */
  debtMs(): number;
  /** Undefined: no limit. */
  limit(): number | undefined;
  setLimit(bytesPerSecond: number | undefined): void;
}

export function openThrottle(clock: Clock, bytesPerSecond?: number): Throttle {
  let limit = bytesPerSecond;
  let saved = 0;
  let atMs = clock.monotonicMs();

  function refill(): void {
    const now = clock.monotonicMs();
    if (limit !== undefined) saved = Math.min(limit, saved + ((now - atMs) / 1000) * limit);
    atMs = now;
  }

  return {
    spend(bytes) {
      refill();
      if (limit !== undefined) saved -= bytes;
    },
    debtMs() {
      refill();
      return limit === undefined || saved >= 0 ? 0 : Math.ceil((-saved / limit) * 1000);
    },
    limit: () => limit,
    setLimit(next) {
      assert(next === undefined || next > 0, 'a limit lets something through');
      limit = next;
      saved = 0;
      atMs = clock.monotonicMs();
    },
  };
}
