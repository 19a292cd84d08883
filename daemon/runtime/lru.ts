/**
 * A map that forgets what was used longest ago once its entries weigh too much.
 *
 * A `Map` keeps insertion order, so "use" is delete and insert again and the oldest is the first key: every
 * operation is constant time. Weights are what the user counts (entries, bytes); the sum never exceeds
 * `weightMax` after an operation returns. An entry heavier than `weightMax` is not kept.
 */

import { assert } from './assert.ts';

export interface Lru<Key, Value> {
  readonly size: number;
  readonly weight: number;
  /** The value, which becomes the most recently used; undefined when it is not there. */
  get(key: Key): Value | undefined;
  /** The value without touching its age. */
  peek(key: Key): Value | undefined;
  /** Puts or replaces; a replaced or displaced value goes to `onEvict`. Default weight: 1. */
  set(key: Key, value: Value, weight?: number): void;
  /** Takes the entry out and answers its value; `onEvict` is not called, the caller has it now. */
  delete(key: Key): Value | undefined;
  /** Evicts everything. */
  clear(): void;
}

export interface LruOptions<Key, Value> {
  /** Sum of the weights of all entries, at most. */
  readonly weightMax: number;
  /** Called for each value that was displaced, replaced or cleared. Must not change this map. */
  readonly onEvict?: (key: Key, value: Value) => void;
}

export function openLru<Key, Value>(options: LruOptions<Key, Value>): Lru<Key, Value> {
  assert(options.weightMax > 0, 'an LRU has room for something');
  const entries = new Map<Key, { value: Value; weight: number }>();
  let weight = 0;

  function take(key: Key): Value | undefined {
    const entry = entries.get(key);
    if (entry === undefined) return undefined;
    entries.delete(key);
    weight -= entry.weight;
    return entry.value;
  }

  function evict(key: Key): void {
    const entry = entries.get(key);
    if (entry === undefined) return;
    entries.delete(key);
    weight -= entry.weight;
    options.onEvict?.(key, entry.value);
  }

  return {
    get size() {
      return entries.size;
    },
    get weight() {
      return weight;
    },
    get(key) {
      const entry = entries.get(key);
      if (entry === undefined) return undefined;
      entries.delete(key);
      entries.set(key, entry);
      return entry.value;
    },
    peek: (key) => entries.get(key)?.value,
    set(key, value, valueWeight = 1) {
      assert(valueWeight >= 0, 'a weight is not negative');
      evict(key);
      entries.set(key, { value, weight: valueWeight });
      weight += valueWeight;
      while (weight > options.weightMax) {
        const oldest = entries.keys().next();
        assert(oldest.done !== true, 'an empty LRU weighs nothing');
        evict(oldest.value);
      }
    },
    delete: take,
    clear() {
      for (const key of entries.keys()) evict(key);
    },
  };
}
