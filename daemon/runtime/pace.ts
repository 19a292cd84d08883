/**
 * Whether a device answers so fast that the event loop may wait for it.
 *
 * Handing a call to a thread and hearing back costs 40 to 90 µs on the machines this was measured on: as much as a
 * solid-state disk needs for 4 KiB. So a small call that nobody else waits behind is made on the event loop as
 * long as such calls were quick.
 *
 * What can go wrong: the device turns slow and everybody waits with the one who asked. Calls are then made by threads
 * again, for PAUSE_FACTOR times as long as the last call took, and twice that for each further attempt that fails:
 * a disk that is always slow costs the event loop less and less, and one that hangs costs one wait.
 */

/** A device whose calls take more than this on average is slow: the threads' share of its time is small. */
const TYPICAL_MS = 1;
/** A single call above this is slow. */
const OUTLIER_MS = 5;
/** What one call counts at most in the average, and how much of the average it is. */
const COUNTED_MS_MAX = 2;
const CALL_SHARE = 1 / 16;
const PAUSE_FACTOR = 16;
const PAUSE_MS_MAX = 60_000;
/** So many quick calls in a row, and the next slow one counts as the first. */
const QUICK_CALLS = 32;

export interface Pace {
  /** Runs `call` if the device is quick, and watches the time; undefined when it was not run. */
  run<Result>(call: () => Result): Result | undefined;
}

/** `nowMs` is a monotonic clock. */
export function openPace(nowMs: () => number = () => performance.now()): Pace {
  let averageMs = TYPICAL_MS / 2;
  let pausedUntilMs = 0;
  let pauses = 0;
  let quickCalls = 0;

  function note(startMs: number, endMs: number): void {
    const ms = endMs - startMs;
    averageMs += (Math.min(ms, COUNTED_MS_MAX) - averageMs) * CALL_SHARE;
    if (ms <= OUTLIER_MS && averageMs <= TYPICAL_MS) {
      quickCalls += 1;
      if (quickCalls >= QUICK_CALLS) pauses = 0;
      return;
    }
    quickCalls = 0;
    averageMs = TYPICAL_MS / 2;
    pausedUntilMs = endMs + Math.min(ms * PAUSE_FACTOR * 2 ** pauses, PAUSE_MS_MAX);
    pauses = Math.min(pauses + 1, 30);
  }

  return {
    run(call) {
      const startMs = nowMs();
      if (startMs < pausedUntilMs) return undefined;
      try {
        return call();
      } finally {
        note(startMs, nowMs());
      }
    },
  };
}
