/** What the parts of the file system (names, ranges, xattrs, background work) are given to work with. */

import type { ChunkStore } from '../chunks/interface.ts';
import type { Metadata } from '../metadata/metadata.ts';
import type { InodeRow } from '../metadata/rows.ts';
import type { Inode } from '../protocol/ids.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { FileData } from './file-data.ts';
import type { Invalidation } from './interface.ts';
import type { Locks } from './locks.ts';
import type { Room } from './room.ts';

export interface FileSystemOptions {
  readonly metadata: Metadata;
  readonly chunks: ChunkStore;
  readonly clock: Clock;
  readonly log: Log;
  /** Largest chunk to make, bytes: a power of two, at most CHUNK_BYTES_MAX. */
  readonly chunkBytes: number;
  /** Default: those of a machine that is alone. */
  readonly locks?: Locks;
  /** Left out: this machine is alone. */
  readonly cluster?: ClusterView;
}

/** What the file system must know of the other nodes. */
export interface ClusterView {
  /** This node orders the changes, and does the background work that changes metadata. */
  leads(): boolean;
  /** Which of these inodes without a name other nodes have open. Rejects when one of them cannot say. */
  heldElsewhere(inodes: readonly Inode[]): Promise<ReadonlySet<Inode>>;
  /** Disk of all storing nodes together, as `df` shows it; undefined: this machine's. */
  usage(): { readonly diskBytes: number; readonly availableBytes: number } | undefined;
}

/** What the parts of the file system share. */
export interface Context extends FileSystemOptions {
  readonly data: FileData;
  readonly emit: (event: Invalidation) => void;
  /** The inode's row; ESTALE when it is gone. */
  readonly row: (inode: Inode) => InodeRow;
  /** Where new content may go. */
  readonly room: Room;
  /** Nothing of the file is only in memory when this resolves. */
  readonly settle: (inode: Inode) => Promise<void>;
}
