/** What a merge works with: the state that lost, the state that stays, and the ways to change that one. */

import type { KeptState } from '../metadata/kept-state.ts';
import type { MetadataReads } from '../metadata/reads.ts';
import type { ExtentRow, InodeRow } from '../metadata/rows.ts';
import { type ChunkHash, FILE_BYTES_MAX, type Inode, type NodeId, type Timestamp } from '../protocol/ids.ts';
import type { Operation, OperationOutcome } from '../protocol/operations.ts';
import type { Touched } from './touched.ts';

export const TYPE_MASK = 0o170000;
export const DIRECTORY = 0o040000;
export const REGULAR = 0o100000;

export interface MergeChunks {
  read(chunk: { hash: ChunkHash; size: number }, offset: number, target: Buffer): Promise<void>;
  /** Makes the chunk durable on its homes, pinned until `unpin`. */
  store(data: Buffer): Promise<ChunkHash>;
  unpin(hash: ChunkHash): void;
  /** A small chunk of the local store or of another node. Errors: FsError EIO. */
  small(hash: ChunkHash): Promise<Uint8Array>;
}

export interface MergeWorld {
  /** The node that led the side that lost; in names of versions that are put aside. */
  readonly node: NodeId;
  readonly label: string;
  readonly losing: KeptState;
  /** The state that stays, as it is now. */
  readonly reads: MetadataReads;
  /** What the side that lost touched; undefined: not known, everything may be. */
  readonly here: Touched | undefined;
  /** What the other side touched, until now; undefined: not known, everything may be. */
  readonly there: Touched | undefined;
  readonly chunks: MergeChunks;
  propose(operation: Operation, payload?: ReadonlyMap<ChunkHash, Uint8Array>): Promise<OperationOutcome>;
  allocateInode(): Inode;
  now(): Timestamp;
  /** Whether this step was done by an earlier try. */
  isDone(step: string): boolean;
  done(step: string): void;
  warn(message: string, fields: Record<string, unknown>): void;
}

export function isDirectory(row: InodeRow): boolean {
  return (row.mode & TYPE_MASK) === DIRECTORY;
}

/** The inode when it has a name now. */
export function liveRow(reads: MetadataReads, inode: Inode): InodeRow | undefined {
  const row = reads.inode(inode);
  return row === undefined || row.links === 0 ? undefined : row;
}

/** Whether two files (of two states) hold the same: bytes by their chunks, size, target. */
export function sameContent(
  a: { readonly reads: MetadataReads; readonly row: InodeRow },
  b: { readonly reads: MetadataReads; readonly row: InodeRow },
): boolean {
  if (a.row.size !== b.row.size || a.row.rdev !== b.row.rdev) return false;
  if ((a.row.mode & TYPE_MASK) !== (b.row.mode & TYPE_MASK)) return false;
  if (!Buffer.from(a.row.target ?? []).equals(Buffer.from(b.row.target ?? []))) return false;
  const [left, right] = [a, b].map(({ reads, row }) => runs(reads.extents(row.inode, 0, FILE_BYTES_MAX)));
  return JSON.stringify(left) === JSON.stringify(right);
}

export function sameAttributes(a: InodeRow, b: InodeRow): boolean {
  return a.mode === b.mode && a.uid === b.uid && a.gid === b.gid && sameTime(a.mtime, b.mtime);
}

export function sameTime(a: Timestamp, b: Timestamp): boolean {
  return a.seconds === b.seconds && a.nanoseconds === b.nanoseconds;
}

/** Neighbours of one chunk joined: the same bytes may be cut differently. */
function runs(extents: readonly ExtentRow[]) {
  const joined: { offset: number; length: number; hash: ChunkHash; chunkOffset: number }[] = [];
  for (const { offset, length, hash, chunkOffset } of extents) {
    const last = joined.at(-1);
    const follows =
      last !== undefined &&
      last.hash === hash &&
      last.offset + last.length === offset &&
      last.chunkOffset + last.length === chunkOffset;
    if (follows) last.length += length;
    else joined.push({ offset, length, hash, chunkOffset });
  }
  return joined;
}
