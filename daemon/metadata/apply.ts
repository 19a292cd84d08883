/**
 * `apply`: the one way in which metadata changes.
 *
 * Deterministic: no clock, no randomness, no I/O beyond SQLite; the same operation on the same state gives the
 * same result on every node. An operation is checked in full before its first write, so that a refused one
 * (FsError) has changed nothing and the transaction that it shares with others goes on.
 *
 * Link counts as on ext4: a directory has two plus its subdirectories. What lost its last name keeps its row
 * with `links` 0 and an `orphan` row, until `reclaim`.
 */

import { FsError } from '../protocol/errors.ts';
import { FILE_BYTES_MAX, type Inode, LINKS_MAX, type Name, type Timestamp } from '../protocol/ids.ts';
import type { Operation, OperationOutcome, XattrChange } from '../protocol/operations.ts';
import { assert, defined, unreachable } from '../runtime/assert.ts';
import { allocationWriter } from './apply-allocations.ts';
import { extentWriter, type Payload, type SmallChunkSink, type Totals } from './apply-extents.ts';
import { applyStatements } from './apply-statements.ts';
import type { ClusterState } from './cluster-state.ts';
import type { Connection } from './connection.ts';
import type { MetadataReads } from './reads.ts';
import type { DentryRow, InodeRow } from './rows.ts';

const TYPE_MASK = 0o170000;
const DIRECTORY = 0o040000;
/** The cookie of an entry is its operation's version plus this; `.` and `..` have 1 and 2. */
const FIRST_COOKIE = 2;

export type Outcome = OperationOutcome;

export interface Apply {
  /** `version` is the operation's place in the log; `payload` the bytes of small chunks that it brings. */
  (operation: Operation, version: number, payload: Payload): Outcome;
  readonly totals: Totals;
}

const NOTHING: Outcome = {};

export function openApply(
  connection: Connection,
  reads: MetadataReads,
  cluster: ClusterState,
  totals: Totals,
  unsettled: SmallChunkSink,
): Apply {
  const extents = extentWriter(connection, totals, unsettled);
  const allocations = allocationWriter(connection, reads, totals);
  const write = applyStatements(connection);

  const handlers: { [K in Operation['kind']]: Handler<K> } = {
    make(operation, version) {
      const { entry } = operation;
      const isDirectory = (operation.mode & TYPE_MASK) === DIRECTORY;
      // Numbers are given once; a merge may make a file anew under its old one.
      if (reads.inode(operation.inode) !== undefined) throw new FsError('EEXIST');
      if (entry !== null) {
        const parent = liveDirectory(reads, entry.parent);
        if (reads.dentry(entry.parent, entry.name) !== undefined) throw new FsError('EEXIST');
        if (isDirectory && parent.links >= LINKS_MAX) throw new FsError('EMLINK');
        addEntry(entry.parent, entry.name, operation.inode, operation.mode, version);
        touchDirectory(entry.parent, isDirectory ? 1 : 0, operation.time);
      } else {
        write.orphanInsert(operation.inode);
      }
      write.inodeInsert(operation, entry === null ? 0 : isDirectory ? 2 : 1, isDirectory ? entry?.parent : 0);
      changeXattrs(operation.inode, operation.xattrs);
      totals.inodes++;
      return NOTHING;
    },

    link(operation, version) {
      const row = liveInode(reads, operation.inode);
      if ((row.mode & TYPE_MASK) === DIRECTORY) throw new FsError('EPERM');
      if (row.links >= LINKS_MAX) throw new FsError('EMLINK');
      liveDirectory(reads, operation.parent);
      if (reads.dentry(operation.parent, operation.name) !== undefined) throw new FsError('EEXIST');
      // A file without a name (O_TMPFILE) gets its first one.
      if (row.links === 0) {
        if (!reads.isOrphan(operation.inode)) throw new FsError('ENOENT');
        write.orphanDelete(operation.inode);
      }
      addEntry(operation.parent, operation.name, operation.inode, row.mode, version);
      write.setLinks(operation.inode, row.links + 1, operation.time);
      touchDirectory(operation.parent, 0, operation.time);
      return NOTHING;
    },

    unlink(operation) {
      liveDirectory(reads, operation.parent);
      const entry = existingEntry(reads, operation.parent, operation.name);
      if (entry.type === DIRECTORY) throw new FsError('EISDIR');
      write.dentryDelete(operation.parent, operation.name);
      touchDirectory(operation.parent, 0, operation.time);
      return { removed: dropLink(entry.inode, operation.time) };
    },

    rmdir(operation) {
      liveDirectory(reads, operation.parent);
      const entry = existingEntry(reads, operation.parent, operation.name);
      if (entry.type !== DIRECTORY) throw new FsError('ENOTDIR');
      if (reads.list(entry.inode, 0, 1).length > 0) throw new FsError('ENOTEMPTY');
      write.dentryDelete(operation.parent, operation.name);
      touchDirectory(operation.parent, -1, operation.time);
      return { removed: removeDirectory(entry.inode, operation.time) };
    },

    rename(operation, version) {
      return operation.exchange ? exchange(operation) : rename(operation, version);
    },

    attributes(operation) {
      const row = existingInode(reads, operation.inode);
      const size = operation.size;
      let removed = 0;
      if (size !== undefined) {
        if (size > FILE_BYTES_MAX) throw new FsError('EFBIG');
        if (size < row.size) removed = extents.remove(row.inode, size, FILE_BYTES_MAX);
        // What was set aside beyond the end goes too, as on ext4.
        if (size <= row.size) allocations.remove(row.inode, size, FILE_BYTES_MAX);
      }
      write.setAttributes(row, operation, row.stored - removed);
      changeXattrs(row.inode, operation.xattrs);
      return NOTHING;
    },

    write(operation, _version, payload) {
      const row = existingInode(reads, operation.inode);
      extents.check(operation.extents, payload);
      let added = 0;
      for (const extent of operation.extents) {
        allocations.remove(row.inode, extent.offset, extent.offset + extent.length);
        added += extents.put(row.inode, extent, payload);
      }
      write.setContent(row, added, operation);
      return NOTHING;
    },

    punch(operation) {
      const row = existingInode(reads, operation.inode);
      const end = operation.offset + operation.length;
      const removed = extents.remove(row.inode, operation.offset, end);
      allocations.remove(row.inode, operation.offset, end);
      write.setContent(row, -removed, operation);
      return NOTHING;
    },

    allocate(operation) {
      const row = existingInode(reads, operation.inode);
      const end = operation.offset + operation.length;
      const removed = operation.zero ? extents.remove(row.inode, operation.offset, end) : 0;
      allocations.add(row.inode, operation.offset, end);
      write.setContent(row, -removed, operation);
      return NOTHING;
    },

    copy(operation) {
      existingInode(reads, operation.from);
      const to = existingInode(reads, operation.to);
      const found = reads.extents(
        operation.from,
        operation.fromOffset,
        operation.fromOffset + operation.length,
      );
      allocations.remove(operation.to, operation.toOffset, operation.toOffset + operation.length);
      const added = extents.copy(found, operation);
      const sizeAtLeast = operation.toOffset + operation.length;
      write.setContent(to, added, { sizeAtLeast, time: operation.time });
      return NOTHING;
    },

    fold(operation, _version, payload) {
      const row = existingInode(reads, operation.inode);
      const end = operation.offset + operation.length;
      const found = reads.extents(row.inode, operation.offset, end);
      const unchanged =
        found.length === operation.expected.length &&
        found.every((extent, index) => {
          const expected = defined(operation.expected[index], 'the lists have one length');
          return (
            extent.offset === expected.offset &&
            extent.length === expected.length &&
            extent.hash === expected.hash &&
            extent.chunkOffset === expected.chunkOffset
          );
        });
      if (!unchanged) throw new FsError('EAGAIN');
      extents.check(operation.extents, payload);
      let added = -extents.remove(row.inode, operation.offset, end);
      for (const extent of operation.extents) added += extents.put(row.inode, extent, payload);
      assert(added === 0, 'a fold keeps the number of stored bytes');
      return NOTHING;
    },

    reclaim(operation) {
      let left = operation.extentsMax;
      let count = 0;
      for (const inode of operation.inodes) {
        const row = reads.inode(inode);
        // An orphan that got a name meanwhile (link of an O_TMPFILE) is none any more.
        if (row === undefined || row.links > 0 || !reads.isOrphan(inode)) continue;
        left -= extents.removeSome(inode, left);
        if (left <= 0) break;
        allocations.remove(inode, 0, FILE_BYTES_MAX);
        write.xattrDeleteAll(inode);
        write.orphanDelete(inode);
        write.inodeDelete(inode);
        totals.inodes--;
        count++;
      }
      return { count };
    },

    'drop-chunks'(operation) {
      let count = 0;
      for (const hash of operation.hashes) if (extents.dropChunk(hash)) count++;
      return { count };
    },

    'settle-name'(operation, version, payload) {
      return settleName(operation, version, payload);
    },

    replace(operation) {
      return replaceContent(operation);
    },

    'conflict-add'(operation, version) {
      reads.conflicts.add(version, operation.conflict);
      return NOTHING;
    },

    'conflict-resolve'(operation) {
      reads.conflicts.remove(operation.id);
      return NOTHING;
    },

    lead(operation, version) {
      cluster.lead(operation, version);
      return NOTHING;
    },

    member(operation) {
      cluster.setMember(operation.member);
      return NOTHING;
    },

    settings(operation) {
      cluster.setSettings(operation.settings);
      return NOTHING;
    },
  };

  function settleName(
    { parent, name, expected, changed, inode, time }: Extract<Operation, { kind: 'settle-name' }>,
    version: number,
    payload: Payload,
  ): Outcome {
    liveDirectory(reads, parent);
    const found = reads.dentry(parent, name);
    if ((found?.inode ?? null) !== expected) throw new FsError('EAGAIN');
    if (found?.type === DIRECTORY) throw new FsError('EISDIR');
    if (found !== undefined && changed !== null) unchangedSince(existingInode(reads, found.inode), changed);
    if (inode === expected) return NOTHING;
    if (inode !== null) {
      const row = liveInode(reads, inode);
      if ((row.mode & TYPE_MASK) === DIRECTORY) throw new FsError('EPERM');
      if (row.links >= LINKS_MAX) throw new FsError('EMLINK');
      if (row.links === 0 && !reads.isOrphan(inode)) throw new FsError('ENOENT');
    }
    const outcome =
      found === undefined
        ? NOTHING
        : handlers.unlink({ kind: 'unlink', parent, name, time }, version, payload);
    if (inode !== null) handlers.link({ kind: 'link', inode, parent, name, time }, version, payload);
    return outcome;
  }

  function replaceContent(operation: Extract<Operation, { kind: 'replace' }>): Outcome {
    const row = liveInode(reads, operation.inode);
    const from = liveInode(reads, operation.from);
    unchangedSince(row, operation.changed);
    if ((row.mode & TYPE_MASK) !== (from.mode & TYPE_MASK) || from.links > 0) throw new FsError('EINVAL');
    const found = reads.extents(from.inode, 0, FILE_BYTES_MAX);
    const added = extents.copy(found, {
      fromOffset: 0,
      to: row.inode,
      toOffset: 0,
      length: FILE_BYTES_MAX,
    });
    const { mode, uid, gid, size, atime, mtime } = from;
    const { inode, time } = operation;
    write.setAttributes(
      row,
      { kind: 'attributes', inode, mode, uid, gid, size, atime, mtime, xattrs: [], time },
      row.stored + added,
    );
    write.xattrDeleteAll(inode);
    changeXattrs(inode, reads.xattrs(from.inode));
    return { removed: { inode: from.inode, orphaned: true } };
  }

  function rename(operation: Extract<Operation, { kind: 'rename' }>, version: number): Outcome {
    const { from, to, time } = operation;
    liveDirectory(reads, from.parent);
    const toParent = liveDirectory(reads, to.parent);
    const source = existingEntry(reads, from.parent, from.name);
    const target = reads.dentry(to.parent, to.name);
    const isDirectory = source.type === DIRECTORY;
    if (isDirectory) refuseLoop(reads, source.inode, to.parent);
    if (target !== undefined) {
      if (operation.noReplace) throw new FsError('EEXIST');
      if (target.inode === source.inode) return NOTHING;
      if (isDirectory && target.type !== DIRECTORY) throw new FsError('ENOTDIR');
      if (!isDirectory && target.type === DIRECTORY) throw new FsError('EISDIR');
      if (isDirectory && reads.list(target.inode, 0, 1).length > 0) throw new FsError('ENOTEMPTY');
    }
    const crosses = from.parent !== to.parent;
    if (isDirectory && crosses && target === undefined && toParent.links >= LINKS_MAX) {
      throw new FsError('EMLINK');
    }

    write.dentryDelete(from.parent, from.name);
    let removed: Outcome['removed'];
    if (target === undefined) {
      addEntry(to.parent, to.name, source.inode, source.type, version);
    } else {
      write.dentrySetInode(to.parent, to.name, source.inode, source.type);
      removed = isDirectory ? removeDirectory(target.inode, time) : dropLink(target.inode, time);
    }
    if (isDirectory && crosses) write.setParent(source.inode, to.parent);
    write.setChanged(source.inode, time);
    const fromLinks = isDirectory && (crosses || target !== undefined) ? -1 : 0;
    const toLinks = isDirectory && crosses && target === undefined ? 1 : 0;
    touchDirectory(from.parent, fromLinks, time);
    if (crosses) touchDirectory(to.parent, toLinks, time);
    return { moved: [source.inode], ...(removed === undefined ? {} : { removed }) };
  }

  function exchange(operation: Extract<Operation, { kind: 'rename' }>): Outcome {
    const { from, to, time } = operation;
    liveDirectory(reads, from.parent);
    liveDirectory(reads, to.parent);
    const source = existingEntry(reads, from.parent, from.name);
    const target = existingEntry(reads, to.parent, to.name);
    if (source.type === DIRECTORY) refuseLoop(reads, source.inode, to.parent);
    if (target.type === DIRECTORY) refuseLoop(reads, target.inode, from.parent);
    write.dentrySetInode(from.parent, from.name, target.inode, target.type);
    write.dentrySetInode(to.parent, to.name, source.inode, source.type);
    const crosses = from.parent !== to.parent;
    const sourceIsDirectory = source.type === DIRECTORY ? 1 : 0;
    const targetIsDirectory = target.type === DIRECTORY ? 1 : 0;
    if (crosses && sourceIsDirectory === 1) write.setParent(source.inode, to.parent);
    if (crosses && targetIsDirectory === 1) write.setParent(target.inode, from.parent);
    write.setChanged(source.inode, time);
    write.setChanged(target.inode, time);
    touchDirectory(from.parent, crosses ? targetIsDirectory - sourceIsDirectory : 0, time);
    if (crosses) touchDirectory(to.parent, sourceIsDirectory - targetIsDirectory, time);
    return { moved: [source.inode, target.inode] };
  }

  function addEntry(parent: Inode, name: Name, inode: Inode, mode: number, version: number): void {
    write.dentryInsert(parent, name, inode, mode & TYPE_MASK, version + FIRST_COOKIE);
  }

  function touchDirectory(inode: Inode, linksDelta: number, time: Timestamp): void {
    write.touchDirectory(inode, linksDelta, time);
  }

  function dropLink(inode: Inode, time: Timestamp): { inode: Inode; orphaned: boolean } {
    const row = defined(reads.inode(inode), `dentry refers to inode ${inode}`);
    write.setLinks(inode, row.links - 1, time);
    if (row.links === 1) write.orphanInsert(inode);
    return { inode, orphaned: row.links === 1 };
  }

  function removeDirectory(inode: Inode, time: Timestamp): { inode: Inode; orphaned: boolean } {
    write.setLinks(inode, 0, time);
    write.orphanInsert(inode);
    return { inode, orphaned: true };
  }

  function changeXattrs(inode: Inode, changes: readonly XattrChange[]): void {
    for (const { name, value } of changes) {
      if (value === null) write.xattrDelete(inode, name);
      else write.xattrPut(inode, name, value);
      reads.noteXattr(name);
    }
  }

  const apply = ((operation, version, payload) => {
    switch (operation.kind) {
      case 'make':
        return handlers.make(operation, version, payload);
      case 'link':
        return handlers.link(operation, version, payload);
      case 'unlink':
        return handlers.unlink(operation, version, payload);
      case 'rmdir':
        return handlers.rmdir(operation, version, payload);
      case 'rename':
        return handlers.rename(operation, version, payload);
      case 'attributes':
        return handlers.attributes(operation, version, payload);
      case 'write':
        return handlers.write(operation, version, payload);
      case 'punch':
        return handlers.punch(operation, version, payload);
      case 'allocate':
        return handlers.allocate(operation, version, payload);
      case 'copy':
        return handlers.copy(operation, version, payload);
      case 'fold':
        return handlers.fold(operation, version, payload);
      case 'reclaim':
        return handlers.reclaim(operation, version, payload);
      case 'drop-chunks':
        return handlers['drop-chunks'](operation, version, payload);
      case 'settle-name':
        return handlers['settle-name'](operation, version, payload);
      case 'replace':
        return handlers.replace(operation, version, payload);
      case 'conflict-add':
        return handlers['conflict-add'](operation, version, payload);
      case 'conflict-resolve':
        return handlers['conflict-resolve'](operation, version, payload);
      case 'lead':
        return handlers.lead(operation, version, payload);
      case 'member':
        return handlers.member(operation, version, payload);
      case 'settings':
        return handlers.settings(operation, version, payload);
      default:
        return unreachable(operation);
    }
  }) as { (operation: Operation, version: number, payload: Payload): Outcome };
  return Object.assign(apply, { totals });
}

type Handler<K extends Operation['kind']> = (
  operation: Extract<Operation, { kind: K }>,
  version: number,
  payload: Payload,
) => Outcome;

function existingInode(reads: MetadataReads, inode: Inode): InodeRow {
  const row = reads.inode(inode);
  if (row === undefined) throw new FsError('ESTALE');
  return row;
}

function liveInode(reads: MetadataReads, inode: Inode): InodeRow {
  const row = reads.inode(inode);
  if (row === undefined) throw new FsError('ENOENT');
  return row;
}

/** A directory that still has a name; nothing may be made in a removed one. */
function liveDirectory(reads: MetadataReads, inode: Inode): InodeRow {
  const row = liveInode(reads, inode);
  if ((row.mode & TYPE_MASK) !== DIRECTORY) throw new FsError('ENOTDIR');
  if (row.links === 0) throw new FsError('ENOENT');
  return row;
}

function existingEntry(reads: MetadataReads, parent: Inode, name: Name): DentryRow {
  const entry = reads.dentry(parent, name);
  if (entry === undefined) throw new FsError('ENOENT');
  return entry;
}

function unchangedSince(row: InodeRow, { seconds, nanoseconds }: Timestamp): void {
  if (row.ctime.seconds !== seconds || row.ctime.nanoseconds !== nanoseconds) throw new FsError('EAGAIN');
}

/** A directory may not become its own descendant. */
function refuseLoop(reads: MetadataReads, moved: Inode, destination: Inode): void {
  let current = destination;
  for (;;) {
    if (current === moved) throw new FsError('EINVAL');
    const row = defined(reads.inode(current), `directory ${current} has a row`);
    if (row.parent === current || row.links === 0) return;
    current = row.parent;
  }
}
