/**
 * What a client remembers of answers, and which answers came too late to be remembered.
 *
 * Everything is kept under the inode it is about, so that one event drops it all. A listing keeps the names; the
 * attributes are those of the inodes, and without one of them the listing is asked for again.
 *
 * An event that was handled while a call was under way may be newer than its answer (`isStale`); so may the end of a
 * change of this client's own (`isOwnChange`: the kernel knows of those itself, but the answer is not kept).
 */

import type { Inode } from '../protocol/ids.ts';
import { type Lru, openLru } from '../runtime/lru.ts';

/** Remembered answers, entries of listings counted each. */
const ENTRIES_MAX = 200_000;
/** Inodes of which the last change is remembered; beyond it every call under way counts as too late. */
const TOUCHED_MAX = 65_536;

export interface RemoteCache {
  /** A mark of now, for a call that is about to be sent. */
  now(): number;
  isStale(since: number, inodes: readonly Inode[]): boolean;
  isOwnChange(since: number, inodes: readonly Inode[]): boolean;
  /** An event says that what is known of the inode is old. */
  event(inode: Inode): void;
  /** A change of this client's own begins or ends. */
  own(inode: Inode): void;
  dropAll(): void;
  get(inode: Inode, key: string): unknown;
  set(inode: Inode, key: string, value: unknown, weight?: number): void;
}

interface Marks {
  mark(inode: Inode, tick: number): void;
  markAll(tick: number): void;
  after(since: number, inodes: readonly Inode[]): boolean;
}

export function remoteCache(): RemoteCache {
  const entries: Lru<Inode, { weight: number; values: Map<string, unknown> }> = openLru({
    weightMax: ENTRIES_MAX,
  });
  const events = marks();
  const owns = marks();
  let tick = 0;
  return {
    now: () => tick,
    isStale: (since, inodes) => events.after(since, inodes),
    isOwnChange: (since, inodes) => owns.after(since, inodes),
    event(inode) {
      events.mark(inode, ++tick);
      entries.delete(inode);
    },
    own(inode) {
      owns.mark(inode, ++tick);
      entries.delete(inode);
    },
    dropAll() {
      events.markAll(++tick);
      entries.clear();
    },
    get: (inode, key) => entries.get(inode)?.values.get(key),
    set(inode, key, value, weight = 1) {
      const entry = entries.get(inode) ?? { weight: 0, values: new Map<string, unknown>() };
      if (!entry.values.has(key)) entry.weight += weight;
      entry.values.set(key, value);
      entries.set(inode, entry, entry.weight);
    },
  };
}

function marks(): Marks {
  const last = new Map<Inode, number>();
  let floor = 0;
  return {
    mark(inode, tick) {
      if (last.size >= TOUCHED_MAX) {
        last.clear();
        floor = tick;
      }
      last.set(inode, tick);
    },
    markAll(tick) {
      last.clear();
      floor = tick;
    },
    after: (since, inodes) => floor > since || inodes.some((inode) => (last.get(inode) ?? 0) > since),
  };
}
