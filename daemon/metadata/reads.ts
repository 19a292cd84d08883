/** Everything the file system asks of `meta.db` without changing it. Synchronous: a lookup costs microseconds. */

import type { ClusterSettings, Member } from '../protocol/cluster.ts';
import type { ChunkHash, Inode, Name } from '../protocol/ids.ts';
import type { ClusterState } from './cluster-state.ts';
import { type Conflicts, openConflicts } from './conflicts.ts';
import type { Connection } from './connection.ts';
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
  /** Bytes of `start` to `end` that fallocate set aside and that have no content. */
  allocated(inode: Inode, start: number, end: number): number;
  /** Bytes of `start` to `end` that extents cover. */
  stored(inode: Inode, start: number, end: number): number;
  /** Offset of the extent that is `count` extents after `start`, if there are so many. */
  extentAfter(inode: Inode, start: number, count: number): number | undefined;
  /** An operation brought an allocation. */
  noteAllocation(): void;
  /** The database was opened anew and may hold another state. */
  reload(): void;
  isOrphan(inode: Inode): boolean;
  orphans(limit: number): Inode[];
  unreferencedChunks(limit: number): { hash: ChunkHash; bytes: number }[];
  hasChunk(hash: ChunkHash): boolean;
  /** Chunks in use with a row greater than `row`, by row: a scan in pieces. */
  chunksAfter(row: number, limit: number): { row: number; hash: ChunkHash; bytes: number }[];
  countExtents(inode: Inode, start: number, end: number): number;
  /** Members of the cluster, by number; none on a node that never was in one. */
  members(): readonly Member[];
  settings(): ClusterSettings;
  readonly conflicts: Conflicts;
  /** A name of `inode` in the directory: a scan of it. */
  nameIn(parent: Inode, inode: Inode): Name | undefined;
  /** How many chunks there are and what they add up to; a scan. */
  chunkTotals(): { chunks: number; bytes: number };
}

export function metadataReads(connection: Connection, cluster: ClusterState): MetadataReads {
  const inode = connection.query(`SELECT ${INODE_COLUMNS} FROM inode WHERE inode = ?`);
  const dentry = connection.query(
    'SELECT name, inode, type, cookie FROM dentry WHERE parent = ? AND name = ?',
  );
  const child = connection.query(
    `SELECT ${COLUMNS_OF_I} FROM dentry d JOIN inode i ON i.inode = d.inode WHERE d.parent = ? AND d.name = ?`,
  );
  const list = connection.query(
    'SELECT name, inode, type, cookie FROM dentry WHERE parent = ? AND cookie > ? ORDER BY cookie LIMIT ?',
  );
  const listWithInodes = connection.query(
    `SELECT d.name, d.inode, d.type, d.cookie, ${COLUMNS_OF_I} FROM dentry d LEFT JOIN inode i ON i.inode = d.inode
     WHERE d.parent = ? AND d.cookie > ? ORDER BY d.cookie LIMIT ?`,
  );
  // The extent that starts at or before `start` is found first, so that the scan begins at the right row.
  const extents =
    connection.query(`SELECT ${EXTENT_COLUMNS} FROM extent JOIN chunk ON chunk.chunk = extent.chunk
     WHERE extent.inode = ?1 AND extent.offset < ?3 AND extent.offset >= coalesce(
       (SELECT max(e.offset) FROM extent e WHERE e.inode = ?1 AND e.offset <= ?2), 0)
     ORDER BY extent.offset`);
  const xattr = connection.query('SELECT value FROM xattr WHERE inode = ? AND name = ?');
  const xattrs = connection.query('SELECT name, value FROM xattr WHERE inode = ? ORDER BY name');
  // `ls -l` asks each file for its ACL, and mostly there is no attribute anywhere: that answer costs nothing.
  const firstXattrs = connection.query(
    `SELECT count(*), total(name = ?) FROM (SELECT name FROM xattr LIMIT ${XATTRS_SCANNED_MAX})`,
  );
  let anyXattr = false;
  let anyLabel = false;
  const overlap = (table: string) =>
    connection.query(
      `SELECT coalesce(sum(min(offset + length, ?3) - max(offset, ?2)), 0) FROM ${table}
       WHERE inode = ?1 AND offset < ?3 AND offset + length > ?2 AND offset >= coalesce(
         (SELECT max(e.offset) FROM ${table} e WHERE e.inode = ?1 AND e.offset <= ?2), 0)`,
    );
  const extentAfter = connection.query(
    'SELECT offset FROM extent WHERE inode = ? AND offset > ? ORDER BY offset LIMIT 1 OFFSET ?',
  );
  const allocated = overlap('allocation');
  const stored = overlap('extent');
  // As with attributes: mostly there are none, and then nothing is looked up.
  const firstAllocation = connection.query('SELECT 1 FROM allocation LIMIT 1');
  let anyAllocation = false;
  const orphan = connection.query('SELECT 1 FROM orphan WHERE inode = ?');
  const orphans = connection.query('SELECT inode FROM orphan ORDER BY inode LIMIT ?');
  const unreferenced = connection.query(
    'SELECT hash, bytes FROM chunk WHERE refs = 0 ORDER BY chunk LIMIT ?',
  );
  const chunkByHash = connection.query('SELECT 1 FROM chunk WHERE hash = ?');
  const chunksAfter = connection.query(
    'SELECT chunk, hash, bytes FROM chunk WHERE chunk > ? AND refs > 0 ORDER BY chunk LIMIT ?',
  );
  const countExtents = connection.query(
    'SELECT count(*) FROM extent WHERE inode = ? AND offset >= ? AND offset < ?',
  );
  const nameIn = connection.query('SELECT name FROM dentry WHERE parent = ? AND inode = ? LIMIT 1');
  const conflicts = openConflicts(connection);
  const chunkTotals = connection.query('SELECT count(*), coalesce(sum(bytes), 0) FROM chunk WHERE refs > 0');

  function lookForXattrs(): void {
    const [xattrs = 0, labels = 0] = (firstXattrs.get(SECURITY_LABEL) ?? []) as readonly number[];
    anyXattr = xattrs !== 0;
    anyLabel = labels !== 0 || xattrs === XATTRS_SCANNED_MAX;
  }

  function reload(): void {
    lookForXattrs();
    anyAllocation = firstAllocation.get() !== undefined;
  }
  reload();

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
    reload,
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
    chunksAfter: (row, limit) =>
      chunksAfter.all(row, limit).map((found) => ({
        row: found[0] as number,
        hash: hashFromBytes(found[1] as Uint8Array),
        bytes: found[2] as number,
      })),
    countExtents: (number, start, end) => countExtents.get(number, start, end)?.[0] as number,
    conflicts,
    nameIn: (parent, number) => nameIn.get(parent, number)?.[0] as Name | undefined,
    members: () => cluster.members(),
    settings: () => cluster.settings(),
    chunkTotals() {
      const row = chunkTotals.get();
      return { chunks: (row?.[0] as number | undefined) ?? 0, bytes: (row?.[1] as number | undefined) ?? 0 };
    },
  };
}
