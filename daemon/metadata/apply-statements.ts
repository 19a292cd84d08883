/** The statements with which `apply` changes inodes, names and attributes; each is one row. */

import type { DatabaseSync } from 'node:sqlite';
import type { Inode, Name, Timestamp } from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';
import type { InodeRow } from './rows.ts';

export function writeStatements(database: DatabaseSync) {
  const inodeInsert = database.prepare(
    'INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)',
  );
  const inodeDelete = database.prepare('DELETE FROM inode WHERE inode = ?');
  const dentryInsert = database.prepare('INSERT INTO dentry VALUES (?, ?, ?, ?, ?)');
  const dentryDelete = database.prepare('DELETE FROM dentry WHERE parent = ? AND name = ?');
  const dentrySetInode = database.prepare(
    'UPDATE dentry SET inode = ?, type = ? WHERE parent = ? AND name = ?',
  );
  const touch = database.prepare(
    'UPDATE inode SET links = links + ?2, mtime_s = ?3, mtime_ns = ?4, ctime_s = ?3, ctime_ns = ?4 WHERE inode = ?1',
  );
  const setLinks = database.prepare('UPDATE inode SET links = ?, ctime_s = ?, ctime_ns = ? WHERE inode = ?');
  const setParent = database.prepare('UPDATE inode SET parent = ? WHERE inode = ?');
  const setChanged = database.prepare('UPDATE inode SET ctime_s = ?, ctime_ns = ? WHERE inode = ?');
  const setContent = database.prepare(
    'UPDATE inode SET size = ?2, stored = ?3, mtime_s = ?4, mtime_ns = ?5, ctime_s = ?4, ctime_ns = ?5 WHERE inode = ?1',
  );
  const setAttributes = database.prepare(
    'UPDATE inode SET mode = ?, uid = ?, gid = ?, size = ?, stored = ?, atime_s = ?, atime_ns = ?, mtime_s = ?, mtime_ns = ?, ctime_s = ?, ctime_ns = ? WHERE inode = ?',
  );
  const orphanInsert = database.prepare('INSERT INTO orphan VALUES (?)');
  const orphanDelete = database.prepare('DELETE FROM orphan WHERE inode = ?');
  const xattrPut = database.prepare('INSERT OR REPLACE INTO xattr VALUES (?, ?, ?)');
  const xattrDelete = database.prepare('DELETE FROM xattr WHERE inode = ? AND name = ?');
  const xattrDeleteAll = database.prepare('DELETE FROM xattr WHERE inode = ?');
  const nextInode = database.prepare("SELECT value FROM setting WHERE key = 'next_inode'");
  const setNextInode = database.prepare("UPDATE setting SET value = ? WHERE key = 'next_inode'");

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
    nextInode: () => Number(nextInode.get()?.['value']),
    setNextInode: (value: number) => setNextInode.run(value),
  };
}
