/**
 * Which inodes a mount's kernel may know, so that it is not told of others: a node of a cluster applies every change
 * of all nodes, and its kernel has seen few of the files. Telling costs a thread's wake-up each.
 *
 * A set of bits by a hash of the number: no false "no"; a false "yes" only tells the kernel in vain. Bits are never
 * taken out: FORGET is not counted.
 */

import type { Inode } from '../protocol/ids.ts';

/** 2 MiB: at a million files the chance of a false "yes" is 6 %. */
const BITS = 2 ** 24;

export interface KnownInodes {
  add(inode: Inode): void;
  has(inode: Inode): boolean;
}

export function knownInodes(): KnownInodes {
  const bits = new Uint8Array(BITS / 8);
  return {
    add(inode) {
      const bit = bitOf(inode);
      bits[bit >>> 3] = (bits[bit >>> 3] ?? 0) | (1 << (bit & 7));
    },
    has(inode) {
      const bit = bitOf(inode);
      return ((bits[bit >>> 3] ?? 0) & (1 << (bit & 7))) !== 0;
    },
  };
}

/** Numbers of one member differ in the low bits, members in the bits from 44 up. */
function bitOf(inode: Inode): number {
  return (inode ^ Math.imul(Math.floor(inode / 2 ** 24), 0x9e3779b1)) & (BITS - 1);
}
