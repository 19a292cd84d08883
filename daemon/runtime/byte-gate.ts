/**
 * Bounds the bytes that are somewhere at once: who wants to bring more waits, in the order of asking. One piece
 * is always let through when nothing else is inside, however large, so that nobody waits for ever.
 */

import { assert } from './assert.ts';

export interface ByteGate {
  /** Waits for room, then holds it while `work` runs. */
  run<Result>(bytes: number, work: () => Promise<Result>): Promise<Result>;
  readonly bytes: number;
  readonly waiting: number;
}

/** `waitingMax`: more callers at once are a defect of theirs. */
export function openByteGate(options: { readonly bytesMax: number; readonly waitingMax: number }): ByteGate {
  const waiters: { readonly bytes: number; readonly enter: () => void }[] = [];
  let inside = 0;

  const fits = (bytes: number): boolean => inside === 0 || inside + bytes <= options.bytesMax;

  function leave(bytes: number): void {
    inside -= bytes;
    for (let next = waiters[0]; next !== undefined && fits(next.bytes); next = waiters[0]) {
      waiters.shift();
      inside += next.bytes;
      next.enter();
    }
  }

  return {
    get bytes() {
      return inside;
    },
    get waiting() {
      return waiters.length;
    },
    async run(bytes, work) {
      if (waiters.length === 0 && fits(bytes)) inside += bytes;
      else {
        assert(waiters.length < options.waitingMax, `at most ${options.waitingMax} wait at a gate`);
        await new Promise<void>((enter) => waiters.push({ bytes, enter }));
      }
      try {
        return await work();
      } finally {
        leave(bytes);
      }
    },
  };
}
