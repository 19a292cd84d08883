/** Everything the file system asks of `meta.db` without changing it. Synchronous: a lookup costs microseconds. */

import type { DatabaseSync } from 'node:sqlite';
import type { ChunkHash, Inode, Name } from '../protocol/ids.ts';
import {
  type DentryRow,
  dentryRow,
  EXTENT_COLUMNS,
  type ExtentRow,
  extentRow,
  hashFromBytes,
  hashToBytes,
  INODE_COLUMNS,
  type InodeRow,
  inodeRow,
  query,
} from './rows.ts';

export interface FragmentedSlot {
  readonly inode: Inode;
  /** Start of the slot in the file, bytes. */
  readonly offset: number;
  readonly extents: number;
}

export interface MetadataReads {
  inode(inode: Inode): InodeRow | undefined;
  dentry(parent: Inode, name: Name): DentryRow | undefined;
  /** The child's inode row in one step. */
  child(parent: Inode, name: Name): InodeRow | undefined;
  /** Entries of a directory with a cookie greater than `cookie`, in the order of cookies. */
  list(parent: Inode, cookie: number, limit: number): DentryRow[];
  /** Extents that overlap `start` (inclusive) to `end` (exclusive), by offset. */
  extents(inode: Inode, start: number, end: number): ExtentRow[];
  xattr(inode: Inode, name: Uint8Array): Uint8Array | undefined;
  xattrs(inode: Inode): { name: Uint8Array; value: Uint8Array }[];
  /** An operation brought an extended attribute. */
  noteXattr(): void;
  /** Bytes of `start` to `end` that fallocate set aside and that have no content. */
  allocated(inode: Inode, start: number, end: number): number;
  /** Bytes of `start` to `end` that extents cover. */
  stored(inode: Inode, start: number, end: number): number;
  /** Offset of the extent that is `count` extents after `start`, if there are so many. */
  extentAfter(inode: Inode, start: number, count: number): number | undefined;
  /** An operation brought an allocation. */
  noteAllocation(): void;
  isOrphan(inode: Inode): boolean;
  orphans(limit: number): Inode[];
  unreferencedChunks(limit: number): { hash: ChunkHash; bytes: number }[];
  hasChunk(hash: ChunkHash): boolean;
  countExtents(inode: Inode, start: number, end: number): number;
  /** How many chunks there are and what they add up to; a scan. */
  chunkTotals(): { chunks: number; bytes: number };
}

export function metadataReads(database: DatabaseSync): MetadataReads {
  const inode = query(database, `SELECT ${INODE_COLUMNS} FROM inode WHERE inode = ?`);
  const dentry = query(
    database,
    'SELECT name, inode, type, cookie FROM dentry WHERE parent = ? AND name = ?',
  );
  const child = query(
    database,
    `SELECT ${INODE_COLUMNS.replaceAll(/(\w+)/g, 'i.$1')} FROM dentry d JOIN inode i ON i.inode = d.inode WHERE d.parent = ? AND d.name = ?`,
  );
  const list = query(
    database,
    'SELECT name, inode, type, cookie FROM dentry WHERE parent = ? AND cookie > ? ORDER BY cookie LIMIT ?',
  );
  // The extent that starts at or before `start` is found first, so that the scan begins at the right row.
  const extents = query(
    database,
    `SELECT ${EXTENT_COLUMNS} FROM extent JOIN chunk ON chunk.chunk = extent.chunk
     WHERE extent.inode = ?1 AND extent.offset < ?3 AND extent.offset >= coalesce(
       (SELECT max(e.offset) FROM extent e WHERE e.inode = ?1 AND e.offset <= ?2), 0)
     ORDER BY extent.offset`,
  );
  const xattr = query(database, 'SELECT value FROM xattr WHERE inode = ? AND name = ?');
  const xattrs = query(database, 'SELECT name, value FROM xattr WHERE inode = ? ORDER BY name');
  // `ls -l` asks each file for its ACL, and mostly there is no attribute anywhere: that answer costs nothing.
  let anyXattr = query(database, 'SELECT 1 FROM xattr LIMIT 1').get() !== undefined;
  const overlap = (table: string) =>
    query(
      database,
      `SELECT coalesce(sum(min(offset + length, ?3) - max(offset, ?2)), 0) FROM ${table}
       WHERE inode = ?1 AND offset < ?3 AND offset + length > ?2 AND offset >= coalesce(
         (SELECT max(e.offset) FROM ${table} e WHERE e.inode = ?1 AND e.offset <= ?2), 0)`,
    );
  const extentAfter = query(
    database,
    'SELECT offset FROM extent WHERE inode = ? AND offset > ? ORDER BY offset LIMIT 1 OFFSET ?',
  );
  const allocated = overlap('allocation');
  const stored = overlap('extent');
  // As with attributes: mostly there are none, and then nothing is looked up.
  let anyAllocation = query(database, 'SELECT 1 FROM allocation LIMIT 1').get() !== undefined;
  const orphan = query(database, 'SELECT 1 FROM orphan WHERE inode = ?');
  const orphans = query(database, 'SELECT inode FROM orphan ORDER BY inode LIMIT ?');
  const unreferenced = query(database, 'SELECT hash, bytes FROM chunk WHERE refs = 0 ORDER BY chunk LIMIT ?');
  const chunkByHash = query(database, 'SELECT 1 FROM chunk WHERE hash = ?');
  const countExtents = query(
    database,
    'SELECT count(*) FROM extent WHERE inode = ? AND offset >= ? AND offset < ?',
  );
  const chunkTotals = query(database, 'SELECT count(*), coalesce(sum(bytes), 0) FROM chunk WHERE refs > 0');

  return {
    inode(number) {
      const row = inode.get(number);
      return row === undefined ? undefined : inodeRow(row);
    },
    dentry(parent, name) {
      const row = dentry.get(parent, name);
      return row === undefined ? undefined : dentryRow(row);
    },
    child(parent, name) {
      const row = child.get(parent, name);
      return row === undefined ? undefined : inodeRow(row);
    },
    list: (parent, cookie, limit) => list.all(parent, cookie, limit).map(dentryRow),
    extents(number, start, end) {
      const rows = extents.all(number, start, end).map(extentRow);
      const first = rows[0];
      // The row found for `start` may end before it.
      return first !== undefined && first.offset + first.length <= start ? rows.slice(1) : rows;
    },
    xattr: (number, name) =>
      anyXattr ? (xattr.get(number, name)?.[0] as Uint8Array | undefined) : undefined,
    xattrs: (number) =>
      xattrs.all(number).map((row) => ({ name: row[0] as Uint8Array, value: row[1] as Uint8Array })),
    noteXattr() {
      anyXattr = true;
    },
    allocated: (number, start, end) =>
      anyAllocation ? (allocated.get(number, start, end)?.[0] as number) : 0,
    stored: (number, start, end) => stored.get(number, start, end)?.[0] as number,
    extentAfter: (number, start, count) => extentAfter.get(number, start, count)?.[0] as number | undefined,
    noteAllocation() {
      anyAllocation = true;
    },
    isOrphan: (number) => orphan.get(number) !== undefined,
    orphans: (limit) => orphans.all(limit).map((row) => row[0] as Inode),
    unreferencedChunks: (limit) =>
      unreferenced
        .all(limit)
        .map((row) => ({ hash: hashFromBytes(row[0] as Uint8Array), bytes: row[1] as number })),
    hasChunk: (hash) => chunkByHash.get(hashToBytes(hash)) !== undefined,
    countExtents: (number, start, end) => countExtents.get(number, start, end)?.[0] as number,
    chunkTotals() {
      const row = chunkTotals.get();
      return { chunks: (row?.[0] as number | undefined) ?? 0, bytes: (row?.[1] as number | undefined) ?? 0 };
    },
  };
}
