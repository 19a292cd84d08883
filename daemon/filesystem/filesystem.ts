/**
 * The file system: POSIX operations on inodes, from metadata (names, attributes, extents) and chunks (bytes).
 *
 * The path of a change: checks that need no order (limits, names) here, then one operation is proposed; what
 * it did comes back as an outcome; kernels that may have cached something old are told. The path of a read:
 * straight from the metadata, with what is still in a write buffer laid over it.
 *
 * A size, a time or bytes that are only in memory are part of every answer. Operations that work on a file's
 * extents (truncate, punch, copy, seek) flush the file first, so that there is one order of things.
 *
 * An inode without a name stays until nobody has it open and the kernel has forgotten it; `maintenance.ts`
 * frees it then.
 */

import type { Outcome } from '../metadata/apply.ts';
import type { InodeRow } from '../metadata/rows.ts';
import { FsError } from '../protocol/errors.ts';
import {
  FILE_BYTES_MAX,
  type Inode,
  NAME_BYTES_MAX,
  type Name,
  NO_MOUNT,
  SMALL_CHUNK_BYTES_MAX,
  SYMLINK_BYTES_MAX,
} from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';
import { ACL_DEFAULT, inheritAcl } from './acl.ts';
import { changedContent, gainedName, invalidationsOf } from './applied.ts';
import type { Context, FileSystemOptions } from './context.ts';
import { dots } from './dot-entries.ts';
import { fileData } from './file-data.ts';
import type {
  Attributes,
  Caller,
  FileSystem,
  Invalidation,
  ListedEntry,
  MaybePromise,
  NewNode,
} from './interface.ts';
import { isAccessStale, isNewer, SETGID, SETUID } from './inode-rules.ts';
import { keptCaches } from './kept-caches.ts';
import { localLocks } from './locks.ts';
import { type Maintenance, startMaintenance } from './maintenance.ts';
import { CAPABILITY, clearPrivileges } from './privileges.ts';
import { rangeOperations } from './ranges.ts';
import { openRoom } from './room.ts';
import { attributeSetter } from './set-attributes.ts';
import { xattrOperations } from './xattrs.ts';

const TYPE_MASK = 0o170000;
const DIRECTORY = 0o040000;
const SYMLINK = 0o120000;
const BLOCK_BYTES = 4096;
/** How often a truncate flushes a file that is written at the same time before it goes ahead. */
const FLUSH_ROUNDS_MAX = 8;

export interface LocalFileSystem extends FileSystem {
  /** Flushes everything and waits until it is durable. */
  barrier(): Promise<void>;
  readonly maintenance: Maintenance;
  /** An operation of another node was applied: caches of it are old. */
  applied(operation: Operation, outcome: Outcome): void;
  /** The past has changed: nothing that is remembered of extents holds. */
  rewound(): void;
  readonly statistics: () => { openLocks: number; dirtyBytes: number };
  close(): Promise<void>;
}

export function openFileSystem(options: FileSystemOptions): LocalFileSystem {
  const { metadata, chunks, clock } = options;
  const { reads } = metadata;
  const listeners = new Set<(event: Invalidation) => void>();
  const locks = options.locks ?? localLocks();
  const kept = keptCaches();
  const emit = (event: Invalidation) => {
    for (const listener of listeners) listener(event);
  };
  const data = fileData({
    metadata,
    chunks,
    clock,
    chunkBytes: options.chunkBytes,
    emit,
    onSmallExtents: (inode, offset) => maintenance.noteSmallExtents(inode, offset),
  });
  const parts = { ...options, data, emit, row, settle };
  const room = openRoom(parts);
  const context: Context = { ...parts, room };
  const maintenance = startMaintenance(context);
  const ranges = rangeOperations(context);
  const xattrs = xattrOperations(context);
  const setattr = attributeSetter(context, attributes);

  function row(inode: Inode): InodeRow {
    const found = reads.inode(inode);
    if (found === undefined) throw new FsError('ESTALE');
    return found;
  }

  /** `row`, remembered for an open file as long as nothing at all changes: a read then asks SQLite nothing. */
  function rowOfOpen(inode: Inode): InodeRow {
    const file = data.state(inode);
    if (file === undefined) return row(inode);
    const { version } = metadata.status();
    if (file.row === undefined || file.rowVersion !== version) {
      file.row = row(inode);
      file.rowVersion = version;
    }
    return file.row;
  }

  function attributes(found: InodeRow): Attributes {
    const file = data.state(found.inode);
    const size = file?.size ?? found.size;
    const stored =
      file?.size === undefined
        ? found.stored
        : Math.max(found.stored, Math.min(size, found.stored + file.buffer.bytes()));
    const modified = file?.modified;
    return {
      inode: found.inode,
      mode: found.mode,
      links: found.links,
      uid: found.uid,
      gid: found.gid,
      rdev: found.rdev,
      size: (found.mode & TYPE_MASK) === DIRECTORY ? BLOCK_BYTES : size,
      blocks: Math.ceil((stored + reads.allocated(found.inode, 0, FILE_BYTES_MAX)) / 512),
      atime: found.atime,
      mtime: modified ?? found.mtime,
      ctime: modified !== undefined && isNewer(modified, found.ctime) ? modified : found.ctime,
    };
  }

  async function settle(inode: Inode): Promise<void> {
    for (let round = 0; round < FLUSH_ROUNDS_MAX; round++) {
      const flushed = data.flush(inode);
      if (flushed === undefined) return;
      await flushed;
    }
  }

  function checkName(name: Name): void {
    if (name.byteLength > NAME_BYTES_MAX) throw new FsError('ENAMETOOLONG');
  }

  async function make(
    caller: Caller,
    parent: Inode,
    name: Name | null,
    node: NewNode & { target?: Uint8Array },
  ): Promise<Attributes> {
    if (name !== null) checkName(name);
    const directory = reads.inode(parent);
    // A removed directory takes no new names; nor a file without one.
    if (directory === undefined || directory.links === 0) throw new FsError('ENOENT');
    const isDirectory = (node.mode & TYPE_MASK) === DIRECTORY;
    const isSymlink = (node.mode & TYPE_MASK) === SYMLINK;
    const inheritsGroup = (directory.mode & SETGID) !== 0;
    const { mode, xattrs: inherited } = isSymlink
      ? { mode: node.mode, xattrs: [] }
      : inheritAcl(reads.xattr(parent, ACL_DEFAULT), node.mode, { umask: node.umask, isDirectory });
    const time = clock.now();
    const inode = metadata.allocateInode();
    await metadata.propose({
      kind: 'make',
      inode,
      entry: name === null ? null : { parent, name: Buffer.copyBytesFrom(name) },
      mode: inheritsGroup && isDirectory ? mode | SETGID : mode,
      uid: caller.uid,
      gid: inheritsGroup ? directory.gid : caller.gid,
      rdev: node.rdev ?? 0,
      target: node.target === undefined ? null : Buffer.copyBytesFrom(node.target),
      xattrs: inherited,
      time,
    });
    if (name !== null) changedEntry(caller, parent, name);
    return attributes(row(inode));
  }

  function changedEntry(caller: Caller, parent: Inode, name: Name): void {
    if (listeners.size === 0) return;
    emit({ kind: 'entry', parent, name, mount: caller.mount });
    emit({ kind: 'attributes', inode: parent, mount: caller.mount });
  }

  function changedInode(caller: Caller, inode: Inode): void {
    emit({ kind: 'attributes', inode, mount: caller.mount });
  }

  function lostName(caller: Caller, outcome: Outcome): void {
    if (outcome.removed === undefined) return;
    changedInode(caller, outcome.removed.inode);
    if (outcome.removed.orphaned) maintenance.orphaned(outcome.removed.inode, caller.mount);
  }

  /** Notes an access if relatime says so; answers whether it did. */
  function noteAccess(found: InodeRow): boolean {
    const now = clock.now();
    if (!isAccessStale(found, now) || metadata.status().readOnly !== undefined) return false;
    const noted = metadata.propose({
      kind: 'attributes',
      inode: found.inode,
      atime: now,
      xattrs: [],
      time: null,
    });
    // A time of access that cannot be noted must not fail the read.
    noted.catch(() => {});
    return true;
  }

  return {
    lookup(parent, name) {
      if (name.byteLength > NAME_BYTES_MAX) throw new FsError('ENAMETOOLONG');
      const found = reads.child(parent, name);
      return found === undefined ? undefined : attributes(found);
    },
    getattr: (inode) => attributes(row(inode)),
    setattr,
    mknod: (caller, parent, name, node) => make(caller, parent, name, node),
    async symlink(caller, parent, name, target) {
      if (target.byteLength > SYMLINK_BYTES_MAX) throw new FsError('ENAMETOOLONG');
      return make(caller, parent, name, { mode: SYMLINK | 0o777, umask: 0, target });
    },
    readlink(_caller, inode) {
      const found = row(inode);
      if (found.target === null) throw new FsError('EINVAL');
      noteAccess(found);
      return found.target;
    },
    async link(caller, inode, parent, name) {
      checkName(name);
      const copied = Buffer.copyBytesFrom(name);
      await metadata.propose({ kind: 'link', inode, parent, name: copied, time: clock.now() });
      maintenance.named(inode);
      changedEntry(caller, parent, name);
      changedInode(caller, inode);
      return attributes(row(inode));
    },
    async unlink(caller, parent, name) {
      const copied = Buffer.copyBytesFrom(name);
      const outcome = await metadata.propose({ kind: 'unlink', parent, name: copied, time: clock.now() });
      changedEntry(caller, parent, copied);
      lostName(caller, outcome);
    },
    async rmdir(caller, parent, name) {
      const copied = Buffer.copyBytesFrom(name);
      const outcome = await metadata.propose({ kind: 'rmdir', parent, name: copied, time: clock.now() });
      changedEntry(caller, parent, copied);
      lostName(caller, outcome);
    },
    async rename(caller, from, to, flags) {
      checkName(to.name);
      const source = { parent: from.parent, name: Buffer.copyBytesFrom(from.name) };
      const target = { parent: to.parent, name: Buffer.copyBytesFrom(to.name) };
      const outcome = await metadata.propose({
        kind: 'rename',
        from: source,
        to: target,
        ...flags,
        time: clock.now(),
      });
      changedEntry(caller, source.parent, source.name);
      changedEntry(caller, target.parent, target.name);
      for (const inode of outcome.moved ?? []) changedInode(caller, inode);
      lostName(caller, outcome);
    },
    async create(caller, parent, name, node) {
      const made = await make(caller, parent, name, node);
      data.open(made.inode, caller.mount).capabilityFree = true;
      return made;
    },
    async tmpfile(caller, parent, node) {
      const made = await make(caller, parent, null, node);
      data.open(made.inode, caller.mount).capabilityFree = true;
      maintenance.orphaned(made.inode, caller.mount);
      return made;
    },
    open(caller, inode, flags) {
      const found = row(inode);
      if (!flags.truncate) {
        data.open(inode, caller.mount);
        return { keepCache: kept.mayKeep(inode) };
      }
      const killPrivileges = flags.killPrivileges === true;
      return setattr(caller, inode, { size: 0, ...(killPrivileges ? { killPrivileges } : {}) }).then(() => {
        data.open(found.inode, caller.mount);
        return { keepCache: true };
      });
    },
    release(caller, inode) {
      // The kernel forgets an inode without a name right after its last close; that frees it.
      return data.release(inode, caller.mount);
    },
    flush(caller, inode, owner) {
      const flushed = data.flush(inode);
      const drop = () => locks.drop(inode, { mount: caller.mount, owner });
      // On other machines the next owner must see what this one wrote.
      if (flushed === undefined || !locks.shared()) return drop() ?? flushed;
      return thenAlways(flushed, drop);
    },
    async fsync(inode, _dataOnly, caller) {
      await data.flush(inode);
      await metadata.barrier(caller?.alone);
    },
    read(caller, inode, offset, target) {
      const found = rowOfOpen(inode);
      noteAccess(found);
      const size = data.state(inode)?.size ?? found.size;
      return data.read(inode, { size, offset, alone: caller.alone === true }, target);
    },
    write(caller, inode, offset, bytes, flags) {
      const file = data.stateOf(inode);
      const found = row(inode);
      const size = file.size ?? found.size;
      const start = flags.append ? size : offset;
      if (start >= FILE_BYTES_MAX) throw new FsError('EFBIG');
      const fitting =
        start + bytes.byteLength > FILE_BYTES_MAX ? bytes.subarray(0, FILE_BYTES_MAX - start) : bytes;
      const readOnly = metadata.status().readOnly;
      if (readOnly !== undefined) throw new FsError('EROFS', readOnly);
      room.write(inode, start, fitting.byteLength);
      // Another mount has grown the file: the kernel wrote its page at the wrong place.
      if (start !== offset) emit({ kind: 'data', inode, offset: 0, length: 0, mount: NO_MOUNT });
      const privileged = flags.killPrivileges && (found.mode & (SETUID | SETGID)) !== 0;
      if (!privileged && file.capabilityFree) return data.write(file, start, fitting, caller.mount);
      if (!privileged && reads.xattr(inode, CAPABILITY) === undefined) {
        file.capabilityFree = true;
        return data.write(file, start, fitting, caller.mount);
      }
      const written = data.write(file, start, fitting, caller.mount);
      file.capabilityFree = true;
      return clearPrivileges(context, found).then(() => written);
    },
    async allocate(caller, inode, mode, range) {
      await ranges.allocate(caller, inode, mode, range);
      if (caller.uid !== 0) await clearPrivileges(context, row(inode));
    },
    seek: (inode, offset, whence) => ranges.seek(inode, offset, whence),
    async copyRange(caller, from, to, length) {
      const copied = await ranges.copyRange(caller, from, to, length);
      // The kernel that asked takes its atime for right.
      if (copied > 0 && noteAccess(row(from.inode)))
        emit({ kind: 'attributes', inode: from.inode, mount: NO_MOUNT });
      if (copied > 0 && caller.uid !== 0) await clearPrivileges(context, row(to.inode));
      return copied;
    },

    readdir(inode, cookie, limit) {
      const entries = dots(row(inode), cookie);
      const left = limit - entries.length;
      if (left > 0) entries.push(...reads.list(inode, Math.max(cookie, 2), left));
      return entries;
    },
    readdirPlus(inode, cookie, limit) {
      const directory = row(inode);
      const listed: ListedEntry[] = dots(directory, cookie).map((entry) => ({
        entry,
        attributes: undefined,
      }));
      const left = limit - listed.length;
      if (left <= 0) return listed;
      for (const { entry, inode: found } of reads.listWithInodes(inode, Math.max(cookie, 2), left)) {
        listed.push({ entry, attributes: found === undefined ? undefined : attributes(found) });
      }
      return listed;
    },
    touchAccess: (_caller, inode) => void noteAccess(row(inode)),
    statfs() {
      const usage = options.cluster?.usage() ?? chunks.usage();
      const { inodes } = metadata.status();
      const free = Math.floor(Math.max(0, usage.availableBytes - room.kept()) / BLOCK_BYTES);
      return {
        blockBytes: BLOCK_BYTES,
        blocks: Math.floor(usage.diskBytes / BLOCK_BYTES),
        blocksFree: free,
        blocksAvailable: free,
        files: inodes + free,
        filesFree: free,
        nameBytesMax: NAME_BYTES_MAX,
      };
    },
    ...xattrs,
    getLock: (inode, owner, lock) => locks.get(inode, owner, lock),
    setLock(caller, inode, owner, lock, { wait, flock }) {
      row(inode);
      const set = () => locks.set(inode, owner, lock, { wait, flock, signal: caller.signal });
      if (lock.type !== 'unlock' || !locks.shared()) return set();
      return thenAlways(data.flush(inode), set);
    },
    releaseFlock: (inode, owner) => locks.releaseFlock(inode, owner),
    forget: (inode) => maintenance.forgotten(inode),
    onInvalidate(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async dropMount(mount) {
      locks.dropMount(mount);
      data.dropMount(mount);
      maintenance.mountDropped();
      await data.flushAll();
    },
    openFiles: (mount) => data.openCount(mount),
    async barrier() {
      await data.flushAll();
      await metadata.barrier();
    },
    maintenance,
    applied(operation, outcome) {
      const content = changedContent(operation);
      if (content !== undefined) data.changed(content);
      if (listeners.size > 0) invalidationsOf(operation, outcome).forEach(emit);
      if (outcome.removed?.orphaned === true) maintenance.orphaned(outcome.removed.inode, NO_MOUNT);
      for (const inode of gainedName(operation)) maintenance.named(inode);
      if (operation.kind !== 'write') return;
      for (const { offset, chunkBytes } of operation.extents) {
        if (chunkBytes <= SMALL_CHUNK_BYTES_MAX) maintenance.noteSmallExtents(operation.inode, offset);
      }
    },
    rewound() {
      kept.dropAll();
      emit({ kind: 'everything', mount: NO_MOUNT });
      for (const inode of data.changedAll()) {
        emit({ kind: 'data', inode, offset: 0, length: 0, mount: NO_MOUNT });
        emit({ kind: 'attributes', inode, mount: NO_MOUNT });
      }
    },
    statistics: () => ({ openLocks: locks.count(), dirtyBytes: data.dirtyBytes() }),
    async close() {
      await data.close();
      await maintenance.close();
    },
  };
}

async function thenAlways(first: MaybePromise<void>, last: () => MaybePromise<void>): Promise<void> {
  try {
    await first;
  } finally {
    await last();
  }
}
