/**
 * Rows of `meta.db` as values, and the one place that knows the order of their columns.
 *
 * Statements answer arrays (`setReturnArrays`): an inode row as an object costs about half more in node:sqlite.
 */

import type { DatabaseSync, SQLInputValue, SQLOutputValue, StatementSync } from 'node:sqlite';
import type { ChunkHash, Inode, Name, Timestamp } from '../protocol/ids.ts';

export interface InodeRow {
  readonly inode: Inode;
  readonly mode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  /** Bytes that extents cover. */
  readonly stored: number;
  readonly atime: Timestamp;
  readonly mtime: Timestamp;
  readonly ctime: Timestamp;
  /** `..` of a directory, 0 otherwise. */
  readonly parent: Inode;
  readonly target: Uint8Array | null;
}

export interface DentryRow {
  readonly name: Name;
  readonly inode: Inode;
  readonly type: number;
  readonly cookie: number;
}

export interface ExtentRow {
  readonly offset: number;
  readonly length: number;
  /** Row of the chunk in this database. */
  readonly chunk: number;
  readonly chunkOffset: number;
  readonly hash: ChunkHash;
  readonly chunkBytes: number;
}

export const INODE_COLUMNS =
  'inode, mode, links, uid, gid, rdev, size, stored, atime_s, atime_ns, mtime_s, mtime_ns, ctime_s, ctime_ns, parent, target';
export const EXTENT_COLUMNS =
  'extent.offset, extent.length, extent.chunk, extent.chunk_offset, chunk.hash, chunk.bytes';

/** `first` is the place of its first column. */
export function inodeRow(row: readonly SQLOutputValue[], first = 0): InodeRow {
  return {
    inode: row[first] as Inode,
    mode: row[first + 1] as number,
    links: row[first + 2] as number,
    uid: row[first + 3] as number,
    gid: row[first + 4] as number,
    rdev: row[first + 5] as number,
    size: row[first + 6] as number,
    stored: row[first + 7] as number,
    atime: { seconds: row[first + 8] as number, nanoseconds: row[first + 9] as number },
    mtime: { seconds: row[first + 10] as number, nanoseconds: row[first + 11] as number },
    ctime: { seconds: row[first + 12] as number, nanoseconds: row[first + 13] as number },
    parent: row[first + 14] as Inode,
    target: row[first + 15] as Uint8Array | null,
  };
}

/** How many columns `dentryRow` takes. */
export const DENTRY_COLUMNS = 4;

export function dentryRow(row: readonly SQLOutputValue[]): DentryRow {
  return {
    name: row[0] as Uint8Array,
    inode: row[1] as Inode,
    type: row[2] as number,
    cookie: row[3] as number,
  };
}

export function extentRow(row: readonly SQLOutputValue[]): ExtentRow {
  return {
    offset: row[0] as number,
    length: row[1] as number,
    chunk: row[2] as number,
    chunkOffset: row[3] as number,
    hash: hashFromBytes(row[4] as Uint8Array),
    chunkBytes: row[5] as number,
  };
}

export function hashFromBytes(bytes: Uint8Array): ChunkHash {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex') as ChunkHash;
}

export function hashToBytes(hash: ChunkHash): Uint8Array {
  return Buffer.from(hash, 'hex');
}

export type Row = readonly SQLOutputValue[];

/** A prepared statement that answers arrays. */
export interface Query {
  get(...values: SQLInputValue[]): Row | undefined;
  all(...values: SQLInputValue[]): Row[];
  iterate(...values: SQLInputValue[]): Iterable<Row>;
}

export function query(database: DatabaseSync, sql: string): Query {
  const statement: StatementSync = database.prepare(sql);
  statement.setReturnArrays(true);
  // node:sqlite's types describe object rows only; with setReturnArrays they are arrays.
  return statement as unknown as Query;
}
