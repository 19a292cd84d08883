/**
 * Simulated time and chance. Everything that happens in a run is an event at a moment; between two events all promises
 * settle. Work of the real machine (a sync, a file) is waited for while simulated time stands still, so a run depends on
 * its seed alone.
 */

import { setImmediate as turn } from 'node:timers/promises';

export interface World {
  nowMs(): number;
  /** Numbers in [0, 1). */
  random(): number;
  /** A whole number in [from, to]. */
  between(from: number, to: number): number;
  chance(probability: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** Runs `action` later; a promise that it returns is waited for before anything else happens. */
  at(delayMs: number, action: () => unknown): void;
  /** Simulated time stands still until `work` of the real machine is done. */
  hold<T>(work: Promise<T>): Promise<T>;
  run(untilMs: number, done?: () => boolean): Promise<void>;
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly action: () => unknown;
}

export function createWorld(seed: number): World {
  let state = (seed * 2_654_435_761) >>> 0;
  let nowMs = 0;
  let orders = 0;
  const queue: Event[] = [];
  let held: Promise<unknown>[] = [];

  // mulberry32
  function random(): number {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }

  function earlier(a: Event, b: Event): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
  }

  function push(event: Event): void {
    let index = queue.push(event) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!earlier(event, queue[parent]!)) break;
      queue[index] = queue[parent]!;
      index = parent;
    }
    queue[index] = event;
  }

  function pop(): Event | undefined {
    const first = queue[0];
    const last = queue.pop();
    if (first === undefined || last === undefined || queue.length === 0) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= queue.length) break;
      if (child + 1 < queue.length && earlier(queue[child + 1]!, queue[child]!)) child++;
      if (!earlier(queue[child]!, last)) break;
      queue[index] = queue[child]!;
      index = child;
    }
    queue[index] = last;
    return first;
  }

  return {
    nowMs: () => nowMs,
    random,
    between: (from, to) => from + Math.floor(random() * (to - from + 1)),
    chance: (probability) => random() < probability,
    pick: (items) => items[Math.floor(random() * items.length)]!,
    at(delayMs, action) {
      push({ atMs: nowMs + Math.max(0, delayMs), order: ++orders, action });
    },
    hold(work) {
      held.push(work.catch(() => {}));
      return work;
    },
    async run(untilMs, done) {
      while (queue[0] !== undefined && queue[0].atMs <= untilMs) {
        const { atMs, action } = pop()!;
        nowMs = atMs;
        await action();
        await turn();
        while (held.length > 0) {
          const waiting = held;
          held = [];
          await Promise.all(waiting);
          await turn();
        }
        if (done?.() === true) return;
      }
      nowMs = untilMs;
    },
  };
}
