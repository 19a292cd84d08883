/**
 * Keeps the event loop turning for a moment after a request instead of letting its thread sleep.
 *
 * A program that works on files asks again within microseconds of an answer. Waking a sleeping thread on
 * another core of a virtual machine takes 30 to 60 µs, and twice per request. With the loop awake, creating a
 * file took 90 µs instead of 263 µs, an unknown-name lookup 27 µs instead of 91 µs (medians, one run). Timers,
 * promises and other descriptors have their turn as ever.
 *
 * The price is a core's time: bounded by POLL_MS after a request (POLL_WAITING_MS while an answer waits for a
 * disk), and by giving up for a while when polling keeps finding nothing. An idle mount costs nothing.
 *
 * Where programs compete for the cores, polling is wrong: the scheduler takes the core from a thread that has used
 * its share and lets it wait for milliseconds, but runs one that has slept at once. With 14 runnable threads on 2 cores,
 * random reads of 4 KiB reached 0.55 of bindfs's rate with polling and 0.86 without (medians of two rounds). So time that was
 * lost to others ends polling for a while.
 */

const POLL_MS = 0.2;
const POLL_WAITING_MS = 1;
/** After this many polls in a row that found no request, the next PAUSE_REQUESTS requests start none. */
const MISSES_MAX = 16;
const PAUSE_REQUESTS = 64;
/** How often the thread's own time is compared with the clock, and how much may be missing. Waits for a quick disk are. */
const COMPARE_MS = 1;
const LOST_MS_MAX = 1.5;
/** No polling for so long after the core was taken away; longer each time, until polling has gone well for a while. */
const LOST_PAUSE_MS = 50;
const LOST_PAUSE_MS_MAX = 1600;
const WENT_WELL_MS = 100;

export interface PollingEvents {
  readonly isWaiting: () => boolean;
  readonly turnEnded: () => void;
}

export interface Polling {
  /** A request came. */
  touch(): void;
}

/** `isWaiting`: whether answers are still to come. `turnEnded` is called at the end of each turn that had a request. */
export function startPolling({ isWaiting, turnEnded }: PollingEvents): Polling {
  let touchedMs = 0;
  let activeMs = 0;
  let polling = false;
  let found = false;
  let misses = 0;
  let paused = 0;
  const contention = watchContention();

  const again = (): void => {
    turnEnded();
    const now = performance.now();
    // The next request follows the answer, so the time counts from there.
    if (now - touchedMs < POLL_WAITING_MS && isWaiting()) activeMs = now;
    // Asked first: a lost core is noticed when the time for polling is over.
    const contended = contention.found(now);
    if (now - activeMs < POLL_MS && !contended) {
      setImmediate(again);
      return;
    }
    polling = false;
    misses = found ? 0 : misses + 1;
    if (misses < MISSES_MAX) return;
    misses = 0;
    paused = PAUSE_REQUESTS;
  };

  return {
    touch() {
      touchedMs = activeMs = performance.now();
      if (polling) {
        found = true;
        return;
      }
      if (paused > 0 || contention.pauses(touchedMs)) {
        paused = Math.max(0, paused - 1);
        setImmediate(turnEnded);
        return;
      }
      polling = true;
      found = false;
      contention.begin(touchedMs);
      setImmediate(again);
    },
  };
}

/** Finds out, while the loop polls, whether other programs take its core away. */
function watchContention() {
  let comparedMs = 0;
  let comparedCpuMs = 0;
  let pausedUntilMs = 0;
  let pauseMs = LOST_PAUSE_MS;
  /** How long polling went on without a loss. */
  let wellMs = 0;

  function compare(now: number): void {
    const { user, system } = process.threadCpuUsage();
    comparedMs = now;
    comparedCpuMs = (user + system) / 1000;
  }

  return {
    pauses: (now: number): boolean => now < pausedUntilMs,
    begin: compare,
    found(now: number): boolean {
      const passedMs = now - comparedMs;
      if (passedMs < COMPARE_MS) return false;
      const before = comparedCpuMs;
      compare(now);
      if (passedMs - (comparedCpuMs - before) < LOST_MS_MAX) {
        wellMs += passedMs;
        if (wellMs >= WENT_WELL_MS) pauseMs = LOST_PAUSE_MS;
        return false;
      }
      wellMs = 0;
      pausedUntilMs = now + pauseMs;
      pauseMs = Math.min(pauseMs * 2, LOST_PAUSE_MS_MAX);
      return true;
    },
  };
}
