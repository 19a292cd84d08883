/**
 * An operation: one change of metadata as a typed value. The leader decides everything that is not a function
 * of the state (inode number, time), so that every node that applies the same operation to the same state
 * gets the same result. Operations are what the log holds and what nodes will send each other.
 *
 * `time` is the moment of the change; it becomes the ctime (and mtime) of what the operation touches.
 */

import type { ClusterSettings, Member } from './cluster.ts';
import type { Conflict } from './conflict.ts';
import type { ChunkHash, Epoch, Inode, Name, NodeId, Timestamp } from './ids.ts';

/** Part of a file that gets new content: `length` bytes of the chunk from `chunkOffset`. Within one slot. */
export interface NewExtent {
  readonly offset: number;
  readonly length: number;
  readonly hash: ChunkHash;
  readonly chunkBytes: number;
  readonly chunkOffset: number;
}

/** One extended attribute to set (`value`) or to remove (null). */
export interface XattrChange {
  readonly name: Uint8Array;
  readonly value: Uint8Array | null;
}

export type Operation =
  /** A new inode, with a name or (O_TMPFILE) without one. */
  | {
      readonly kind: 'make';
      readonly inode: Inode;
      readonly entry: { readonly parent: Inode; readonly name: Name } | null;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
      readonly rdev: number;
      readonly target: Uint8Array | null;
      readonly xattrs: readonly XattrChange[];
      readonly time: Timestamp;
    }
  | {
      readonly kind: 'link';
      readonly inode: Inode;
      readonly parent: Inode;
      readonly name: Name;
      readonly time: Timestamp;
    }
  /** An inode whose last name goes becomes an orphan; `reclaim` frees it. */
  | { readonly kind: 'unlink'; readonly parent: Inode; readonly name: Name; readonly time: Timestamp }
  | { readonly kind: 'rmdir'; readonly parent: Inode; readonly name: Name; readonly time: Timestamp }
  | {
      readonly kind: 'rename';
      readonly from: { readonly parent: Inode; readonly name: Name };
      readonly to: { readonly parent: Inode; readonly name: Name };
      readonly noReplace: boolean;
      readonly exchange: boolean;
      readonly time: Timestamp;
    }
  /** Sets what is given. `size` cuts or grows with a hole. `time` null leaves ctime (an atime by reading). */
  | {
      readonly kind: 'attributes';
      readonly inode: Inode;
      readonly mode?: number;
      readonly uid?: number;
      readonly gid?: number;
      readonly size?: number;
      readonly atime?: Timestamp;
      readonly mtime?: Timestamp;
      readonly xattrs: readonly XattrChange[];
      readonly time: Timestamp | null;
    }
  /** New content. The file grows to `sizeAtLeast`; `mode` is set when setuid or setgid were cleared. */
  | {
      readonly kind: 'write';
      readonly inode: Inode;
      readonly extents: readonly NewExtent[];
      readonly sizeAtLeast: number;
      readonly time: Timestamp;
    }
  /** The range becomes a hole. */
  | {
      readonly kind: 'punch';
      readonly inode: Inode;
      readonly offset: number;
      readonly length: number;
      readonly sizeAtLeast: number;
      readonly time: Timestamp;
    }
  /** Space for the parts of the range without content is set aside; with `zero` the range becomes a hole first. */
  | {
      readonly kind: 'allocate';
      readonly inode: Inode;
      readonly offset: number;
      readonly length: number;
      readonly zero: boolean;
      readonly sizeAtLeast: number;
      readonly time: Timestamp;
    }
  /** The target range gets the source range's extents; no data are copied. */
  | {
      readonly kind: 'copy';
      readonly from: Inode;
      readonly fromOffset: number;
      readonly to: Inode;
      readonly toOffset: number;
      readonly length: number;
      readonly time: Timestamp;
    }
  /** Replaces the extents of a range by others with the same bytes; refused when `expected` is not there now. */
  | {
      readonly kind: 'fold';
      readonly inode: Inode;
      readonly offset: number;
      readonly length: number;
      readonly expected: readonly NewExtent[];
      readonly extents: readonly NewExtent[];
    }
  /** Frees orphans, up to `extentsMax` extents; an orphan with more stays for the next one. */
  | { readonly kind: 'reclaim'; readonly inodes: readonly Inode[]; readonly extentsMax: number }
  /** Deletes chunks with no reference; those that gained one stay. */
  | { readonly kind: 'drop-chunks'; readonly hashes: readonly ChunkHash[] }
  /**
   * Merging two histories: the name becomes one of `inode`, or goes (null). Refused (EAGAIN) when it is not as it was
   * seen: `expected` has it (null: nobody), unchanged since `changed`, its ctime. Never a directory.
   */
  | {
      readonly kind: 'settle-name';
      readonly parent: Inode;
      readonly name: Name;
      readonly expected: Inode | null;
      readonly changed: Timestamp | null;
      readonly inode: Inode | null;
      readonly time: Timestamp;
    }
  /**
   * Merging two histories: content and attributes of `from`, a file without a name, for `inode`. Refused (EAGAIN) when
   * `changed` is no longer its ctime.
   */
  | {
      readonly kind: 'replace';
      readonly inode: Inode;
      readonly from: Inode;
      readonly changed: Timestamp;
      readonly time: Timestamp;
    }
  /** A conflict for people to decide; its number is the version of this operation. */
  | { readonly kind: 'conflict-add'; readonly conflict: Omit<Conflict, 'id'> }
  /** It is decided. */
  | { readonly kind: 'conflict-resolve'; readonly id: number }
  /** The first entry of a leadership. */
  | { readonly kind: 'lead'; readonly leader: NodeId; readonly epoch: Epoch }
  /** A new or changed member. */
  | { readonly kind: 'member'; readonly member: Member }
  /** Settings of the cluster; a missing key stays. */
  | { readonly kind: 'settings'; readonly settings: Partial<ClusterSettings> };

/** What an operation did, for those who hold caches of it. The same on every node. */
export interface OperationOutcome {
  /** The inode that lost a name (unlink, rmdir, rename over it). */
  readonly removed?: { readonly inode: Inode; readonly orphaned: boolean };
  /** The inode that moved (rename), or both (exchange). */
  readonly moved?: readonly Inode[];
  /** `reclaim`: how many orphans are gone; `drop-chunks`: how many chunks. */
  readonly count?: number;
}
