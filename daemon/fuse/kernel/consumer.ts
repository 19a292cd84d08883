/**
 * The main thread's side of the ring: wakes once for a burst and answers all of it in one synchronous loop, so
 * that operations of one burst meet in one transaction (they are proposed before any microtask runs).
 *
 * The loop ends at the requests that were there when it began: answers that settle in microtasks must not
 * wait for a kernel that keeps on asking, and after some rounds timers and sockets get their turn.
 *
 * Atomics.waitAsync wakes it: against postMessage 1.2 times the lookups and 1.7 to 2 times the 4 KiB reads in
 * rounds run in turn (bench/fuse-driver.ts), and the reader needs no flag to wake once for a burst.
 */

import { HEAD, READER_WAITS, type Ring, SLOT_BYTES, SLOTS, slotIndex, TAIL } from './ring.ts';

/** Bursts in a row before the event loop gets a turn. */
const ROUNDS_MAX = 8;

type Handle = (words: Uint32Array, bytes: Buffer) => void;

/** Calls `handle` for every request; it must not throw. Answers how to stop. */
export function startConsumer(ring: Ring, handle: Handle): () => void {
  const control = new Int32Array(ring.control);
  const slots = Array.from({ length: SLOTS }, (_, index) => ({
    words: new Uint32Array(ring.slots, index * SLOT_BYTES, SLOT_BYTES / 4),
    bytes: Buffer.from(ring.slots, index * SLOT_BYTES, SLOT_BYTES),
  }));
  let tail = 0;
  let rounds = 0;
  let stopped = false;

  const run = (): void => {
    if (stopped) return;
    const end = Atomics.load(control, HEAD);
    while (tail !== end) {
      const { words, bytes } = slots[slotIndex(tail)] as (typeof slots)[number];
      handle(words, bytes);
      tail = (tail + 1) | 0;
      Atomics.store(control, TAIL, tail);
      if (Atomics.load(control, READER_WAITS) === 1) Atomics.notify(control, TAIL);
    }
    const wait = Atomics.waitAsync(control, HEAD, tail);
    if (wait.async) {
      rounds = 0;
      void wait.value.then(run);
    } else if (++rounds < ROUNDS_MAX) queueMicrotask(run);
    else {
      rounds = 0;
      setImmediate(run);
    }
  };
  run();
  return () => {
    stopped = true;
  };
}
