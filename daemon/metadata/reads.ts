/** Everything the file system asks of `meta.db` without changing it. Synchronous: a lookup costs microseconds. */

import type { DatabaseSync } from 'node:sqlite';
import type { ChunkHash, Inode, Name } from '../protocol/ids.ts';
import {
  DENTRY_COLUMNS,
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

/** The attribute that a program of SELinux asks every file for. */
export const SECURITY_LABEL = Buffer.from('security.selinux');
/** Extended attributes looked at for a label when the database is opened: some milliseconds. */
const XATTRS_SCANNED_MAX = 100_000;

const COLUMNS_OF_I = INODE_COLUMNS.replaceAll(/(\w+)/g, 'i.$1');

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
  /** As `list`, each with its inode: one statement for all, because each costs SQLite two locks of the WAL. */
  listWithInodes(
    parent: Inode,
    cookie: number,
    limit: number,
  ): { entry: DentryRow; inode: InodeRow | undefined }[];
  /** Extents that overlap `start` (inclusive) to `end` (exclusive), by offset. */
  extents(inode: Inode, start: number, end: number): ExtentRow[];
  xattr(inode: Inode, name: Uint8Array): Uint8Array | undefined;
  xattrs(inode: Inode): { name: Uint8Array; value: Uint8Array }[];
  /** Whether some inode may have a security label: false only when none has. */
  mayHaveLabel(): boolean;
  /** An operation brought an extended attribute. */
  noteXattr(name: Uint8Array): void;
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
    `SELECT ${COLUMNS_OF_I} FROM dentry d JOIN inode i ON i.inode = d.inode WHERE d.parent = ? AND d.name = ?`,
  );
  const list = query(
    database,
    'SELECT name, inode, type, cookie FROM dentry WHERE parent = ? AND cookie > ? ORDER BY cookie LIMIT ?',
  );
  const listWithInodes = query(
    database,
    `SELECT d.name, d.inode, d.type, d.cookie, ${COLUMNS_OF_I} FROM dentry d LEFT JOIN inode i ON i.inode = d.inode
     WHERE d.parent = ? AND d.cookie > ? ORDER BY d.cookie LIMIT ?`,
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
  const firstXattrs = query(
    database,
    `SELECT count(*), total(name = ?) FROM (SELECT name FROM xattr LIMIT ${XATTRS_SCANNED_MAX})`,
  );
  const [xattrsSeen, labelsSeen] = (firstXattrs.get(SECURITY_LABEL) ?? []) as readonly number[];
  let anyXattr = xattrsSeen !== 0;
  let anyLabel = labelsSeen !== 0 || xattrsSeen === XATTRS_SCANNED_MAX;
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
    listWithInodes: (parent, cookie, limit) =>
      listWithInodes.all(parent, cookie, limit).map((row) => ({
        entry: dentryRow(row),
        inode: row[DENTRY_COLUMNS] === null ? undefined : inodeRow(row, DENTRY_COLUMNS),
      })),
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
    mayHaveLabel: () => anyLabel,
    noteXattr(name) {
      anyXattr = true;
      if (SECURITY_LABEL.equals(name)) anyLabel = true;
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
