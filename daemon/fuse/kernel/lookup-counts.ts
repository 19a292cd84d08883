/**
 * How many references the kernel holds to each inode: one for every entry answered, taken back by FORGET.
 *
 * A FORGET can cross a new lookup of the same inode on its way, so "the kernel forgot it" is known only from
 * the count. The counts are spread over many small maps because a map that grows copies itself: one map of a
 * million inodes would stop the event loop for about 100 ms, and a Map ends at 2^24 entries.
 */

import type { Inode } from '../../protocol/ids.ts';

const SHARDS = 1024;

export interface LookupCounts {
  add(inode: Inode): void;
  /** True when the kernel now holds no reference. */
  forget(inode: Inode, count: number): boolean;
  has(inode: Inode): boolean;
}

export function createLookupCounts(): LookupCounts {
  const shards = Array.from({ length: SHARDS }, () => new Map<Inode, number>());
  const shardOf = (inode: Inode) => shards[inode % SHARDS] as Map<Inode, number>;
  return {
    add(inode) {
      const shard = shardOf(inode);
      shard.set(inode, (shard.get(inode) ?? 0) + 1);
    },
    forget(inode, count) {
      const shard = shardOf(inode);
      const held = shard.get(inode);
      // The root is referenced from the mount on, without a lookup.
      if (held === undefined) return false;
      if (held > count) {
        shard.set(inode, held - count);
        return false;
      }
      shard.delete(inode);
      return true;
    },
    has(inode) {
      return shardOf(inode).has(inode);
    },
  };
}
