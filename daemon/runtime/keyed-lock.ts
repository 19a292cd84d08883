/**
 * Mutual exclusion by key: work on one key runs one after the other, in the order it was asked for; different
 * keys do not wait for each other. A failed piece of work does not keep the next from running. The map holds
 * only keys that have work, so it is bounded by what its callers have in flight.
 */

export interface KeyedLock<Key> {
  /** Runs `work` when all earlier work on `key` has ended; answers what it answers. */
  run<Result>(key: Key, work: () => Promise<Result>): Promise<Result>;
  /** How many keys have work. */
  readonly size: number;
}

export function openKeyedLock<Key>(): KeyedLock<Key> {
  const tails = new Map<Key, Promise<void>>();
  return {
    get size() {
      return tails.size;
    },
    async run(key, work) {
      const before = tails.get(key);
      const { promise: tail, resolve: release } = Promise.withResolvers<void>();
      tails.set(key, tail);
      try {
        if (before !== undefined) await before;
        return await work();
      } finally {
        if (tails.get(key) === tail) tails.delete(key);
        release();
      }
    },
  };
}
