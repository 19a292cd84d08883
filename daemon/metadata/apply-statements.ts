/** The statements by which `apply` changes inodes, names and attributes; extents have their own (apply-extents.ts). */

import type { Inode, Name, Timestamp } from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';
import type { Connection } from './connection.ts';
import type { InodeRow } from './rows.ts';

export function applyStatements(connection: Connection) {
  const inodeInsert = connection.command(
    'INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)',
  );
  const inodeDelete = connection.command('DELETE FROM inode WHERE inode = ?');
  const dentryInsert = connection.command('INSERT INTO dentry VALUES (?, ?, ?, ?, ?)');
  const dentryDelete = connection.command('DELETE FROM dentry WHERE parent = ? AND name = ?');
  const dentrySetInode = connection.command(
    'UPDATE dentry SET inode = ?, type = ? WHERE parent = ? AND name = ?',
  );
  const touch = connection.command(
    'UPDATE inode SET links = links + ?2, mtime_s = ?3, mtime_ns = ?4, ctime_s = ?3, ctime_ns = ?4 WHERE inode = ?1',
  );
  const setLinks = connection.command(
    'UPDATE inode SET links = ?, ctime_s = ?, ctime_ns = ? WHERE inode = ?',
  );
  const setParent = connection.command('UPDATE inode SET parent = ? WHERE inode = ?');
  const setChanged = connection.command('UPDATE inode SET ctime_s = ?, ctime_ns = ? WHERE inode = ?');
  const setContent = connection.command(
    'UPDATE inode SET size = ?2, stored = ?3, mtime_s = ?4, mtime_ns = ?5, ctime_s = ?4, ctime_ns = ?5 WHERE inode = ?1',
  );
  const setAttributes = connection.command(
    'UPDATE inode SET mode = ?, uid = ?, gid = ?, size = ?, stored = ?, atime_s = ?, atime_ns = ?, mtime_s = ?, mtime_ns = ?, ctime_s = ?, ctime_ns = ? WHERE inode = ?',
  );
  const orphanInsert = connection.command('INSERT INTO orphan VALUES (?)');
  const orphanDelete = connection.command('DELETE FROM orphan WHERE inode = ?');
  const xattrPut = connection.command('INSERT OR REPLACE INTO xattr VALUES (?, ?, ?)');
  const xattrDelete = connection.command('DELETE FROM xattr WHERE inode = ? AND name = ?');
  const xattrDeleteAll = connection.command('DELETE FROM xattr WHERE inode = ?');

  return {
    inodeInsert(operation: Extract<Operation, { kind: 'make' }>, links: number, parent: number | undefined) {
      const { seconds, nanoseconds } = operation.time;
      const size = operation.target?.byteLength ?? 0;
      inodeInsert.run(
        operation.inode,
        operation.mode,
        links,
        operation.uid,
        operation.gid,
        operation.rdev,
        size,
        seconds,
        nanoseconds,
        seconds,
        nanoseconds,
        seconds,
        nanoseconds,
        parent ?? 0,
        operation.target,
      );
    },
    inodeDelete: (inode: Inode) => inodeDelete.run(inode),
    dentryInsert: (parent: Inode, name: Name, inode: Inode, type: number, cookie: number) =>
      dentryInsert.run(parent, name, inode, type, cookie),
    dentryDelete: (parent: Inode, name: Name) => dentryDelete.run(parent, name),
    dentrySetInode: (parent: Inode, name: Name, inode: Inode, type: number) =>
      dentrySetInode.run(inode, type, parent, name),
    touchDirectory: (inode: Inode, linksDelta: number, time: Timestamp) =>
      touch.run(inode, linksDelta, time.seconds, time.nanoseconds),
    setLinks: (inode: Inode, links: number, time: Timestamp) =>
      setLinks.run(links, time.seconds, time.nanoseconds, inode),
    setParent: (inode: Inode, parent: Inode) => setParent.run(parent, inode),
    setChanged: (inode: Inode, time: Timestamp) => setChanged.run(time.seconds, time.nanoseconds, inode),
    setContent(row: InodeRow, storedDelta: number, change: { sizeAtLeast: number; time: Timestamp }) {
      const { seconds, nanoseconds } = change.time;
      const size = Math.max(row.size, change.sizeAtLeast);
      setContent.run(row.inode, size, row.stored + storedDelta, seconds, nanoseconds);
    },
    setAttributes(row: InodeRow, operation: Extract<Operation, { kind: 'attributes' }>, stored: number) {
      const atime = operation.atime ?? row.atime;
      const mtime = operation.mtime ?? row.mtime;
      const ctime = operation.time ?? row.ctime;
      setAttributes.run(
        operation.mode ?? row.mode,
        operation.uid ?? row.uid,
        operation.gid ?? row.gid,
        operation.size ?? row.size,
        stored,
        atime.seconds,
        atime.nanoseconds,
        mtime.seconds,
        mtime.nanoseconds,
        ctime.seconds,
        ctime.nanoseconds,
        row.inode,
      );
    },
    orphanInsert: (inode: Inode) => orphanInsert.run(inode),
    orphanDelete: (inode: Inode) => orphanDelete.run(inode),
    xattrPut: (inode: Inode, name: Uint8Array, value: Uint8Array) => xattrPut.run(inode, name, value),
    xattrDelete: (inode: Inode, name: Uint8Array) => xattrDelete.run(inode, name),
    xattrDeleteAll: (inode: Inode) => xattrDeleteAll.run(inode),
  };
}
