/**
 * A file system in memory: a test double for the FUSE drivers and the floor for their measurements. It does what
 * the tests look at and no more (no permissions, no suid rules); everything is answered at once where the
 * interface allows it.
 */

import {
  type Attributes,
  type Caller,
  type DirectoryEntry,
  type FileSystem,
  type Invalidation,
  LOCK_END,
  type LockOwner,
  type NewNode,
  type RangeLock,
} from '../../daemon/filesystem/interface.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import {
  type Inode,
  type MountId,
  type Name,
  ROOT_INODE,
  type Timestamp,
} from '../../daemon/protocol/ids.ts';
import { createPagedData, PAGE, type PagedData } from './paged-data.ts';

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

interface Node {
  inode: Inode;
  mode: number;
  links: number;
  uid: number;
  gid: number;
  rdev: number;
  size: number;
  atime: Timestamp;
  mtime: Timestamp;
  ctime: Timestamp;
  parent: Inode;
  /** Made at the first write: a tree of many empty files stays small. */
  data: PagedData | undefined;
  target: Buffer;
  xattrs: Map<string, Buffer>;
  opens: number;
  /** Of a directory: name (latin1) to child; cookies are the order of making. */
  children: Map<string, { inode: Inode; cookie: number }>;
}

interface HeldLock extends LockOwner {
  inode: Inode;
  flock: boolean;
  lock: RangeLock;
}

export interface MemoryFileSystem extends FileSystem {
  /** Reports a change as if another mount had made it. */
  invalidate(event: Invalidation): void;
  /** Inodes the kernel forgot. */
  readonly forgotten: Set<Inode>;
  /** Calls seen, by name. */
  readonly calls: Map<string, number>;
}

/** `owner` has the root directory. */
export function createMemoryFileSystem(owner = { uid: 0, gid: 0 }): MemoryFileSystem {
  const nodes = new Map<Inode, Node>();
  const listeners = new Set<(event: Invalidation) => void>();
  const forgotten = new Set<Inode>();
  const calls = new Map<string, number>();
  const locks: HeldLock[] = [];
  let lockWaiters: (() => void)[] = [];
  const openCounts = new Map<MountId, number>();
  let nextInode = ROOT_INODE as number;
  let nextCookie = 3;
  let tick = 0;

  const now = (): Timestamp => {
    const ms = Date.now();
    tick = (tick + 1) % 1_000_000;
    return { seconds: Math.floor(ms / 1000), nanoseconds: (ms % 1000) * 1_000_000 + tick };
  };
  const count = (name: string) => calls.set(name, (calls.get(name) ?? 0) + 1);
  const emit = (event: Invalidation) => {
    for (const listener of listeners) listener(event);
  };
  const node = (inode: Inode): Node => {
    const found = nodes.get(inode);
    if (found === undefined) throw new FsError('ESTALE');
    return found;
  };
  const make = (
    caller: { uid: number; gid: number },
    parent: Inode,
    { mode, umask, rdev }: NewNode,
  ): Node => {
    const time = now();
    const inode = nextInode++ as Inode;
    const masked = (mode & S_IFMT) === S_IFLNK ? mode : mode & ~umask;
    const made: Node = {
      inode,
      mode: masked,
      links: (mode & S_IFMT) === S_IFDIR ? 2 : 1,
      uid: caller.uid,
      gid: caller.gid,
      rdev: rdev ?? 0,
      size: 0,
      atime: time,
      mtime: time,
      ctime: time,
      parent,
      data: undefined,
      target: EMPTY,
      xattrs: new Map(),
      opens: 0,
      children: new Map(),
    };
    nodes.set(inode, made);
    return made;
  };
  make(owner, ROOT_INODE, { mode: S_IFDIR | 0o755, umask: 0 });

  const key = (name: Name) => Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
  const child = (parent: Inode, name: Name): Node | undefined => {
    const entry = node(parent).children.get(key(name));
    return entry === undefined ? undefined : node(entry.inode);
  };
  const existing = (parent: Inode, name: Name): Node => {
    const found = child(parent, name);
    if (found === undefined) throw new FsError('ENOENT');
    return found;
  };
  const touch = (directory: Node) => {
    directory.mtime = directory.ctime = now();
  };
  const entryChanged = (caller: Caller, parent: Inode, name: Name) => {
    touch(node(parent));
    emit({ kind: 'entry', parent, name, mount: caller.mount });
    emit({ kind: 'attributes', inode: parent, mount: caller.mount });
  };
  const put = (caller: Caller, parent: Inode, name: Name, made: Node) => {
    node(parent).children.set(key(name), { inode: made.inode, cookie: nextCookie++ });
    if (isDirectory(made)) {
      made.parent = parent;
      node(parent).links++;
    }
    entryChanged(caller, parent, name);
  };
  const take = (caller: Caller, parent: Inode, name: Name, taken: Node) => {
    node(parent).children.delete(key(name));
    if (isDirectory(taken)) node(parent).links--;
    entryChanged(caller, parent, name);
  };
  const drop = (gone: Node) => {
    gone.links -= isDirectory(gone) ? 2 : 1;
    gone.ctime = now();
    collect(gone);
  };
  const collect = (gone: Node) => {
    if (gone.links <= 0 && gone.opens === 0) nodes.delete(gone.inode);
  };
  const opened = (caller: Caller, file: Node, delta: number) => {
    file.opens += delta;
    openCounts.set(caller.mount, (openCounts.get(caller.mount) ?? 0) + delta);
  };
  const resize = (file: Node, size: number) => {
    if (size < file.size) file.data?.clear(size, Number.MAX_SAFE_INTEGER);
    file.size = size;
  };
  const store = (file: Node, offset: number, data: Uint8Array) => {
    file.data ??= createPagedData();
    file.data.write(offset, data);
    file.size = Math.max(file.size, offset + data.length);
    file.mtime = file.ctime = now();
  };
  const changed = (caller: Caller, file: Node, offset: number, length: number) =>
    emit({ kind: 'data', inode: file.inode, offset, length, mount: caller.mount });
  const conflict = (inode: Inode, owner: LockOwner, lock: RangeLock, flock: boolean): HeldLock | undefined =>
    locks.find(
      (held) =>
        held.inode === inode &&
        held.flock === flock &&
        !(held.mount === owner.mount && held.owner === owner.owner) &&
        held.lock.start <= lock.end &&
        lock.start <= held.lock.end &&
        (held.lock.type === 'write' || lock.type === 'write'),
    );
  /** Removes the owner's locks in the range; what sticks out on either side stays. */
  const unlock = (inode: Inode, owner: LockOwner, range: { start: bigint; end: bigint }, flock: boolean) => {
    for (const held of locks.splice(0)) {
      const mine =
        held.inode === inode &&
        held.flock === flock &&
        held.mount === owner.mount &&
        held.owner === owner.owner;
      if (!mine || held.lock.end < range.start || range.end < held.lock.start) {
        locks.push(held);
        continue;
      }
      if (held.lock.start < range.start)
        locks.push({ ...held, lock: { ...held.lock, end: range.start - 1n } });
      if (held.lock.end > range.end) locks.push({ ...held, lock: { ...held.lock, start: range.end + 1n } });
    }
    for (const wake of lockWaiters.splice(0)) wake();
  };
  const setNow = (
    caller: Caller,
    inode: Inode,
    owner: LockOwner,
    lock: RangeLock,
    options: { wait: boolean; flock: boolean },
  ): void | Promise<void> => {
    if (lock.type !== 'unlock' && conflict(inode, owner, lock, options.flock) !== undefined) {
      if (!options.wait) throw new FsError('EAGAIN');
      return new Promise<void>((resolve, reject) => {
        if (caller.signal?.aborted) return reject(new FsError('EINTR'));
        caller.signal?.addEventListener('abort', () => reject(new FsError('EINTR')));
        lockWaiters.push(resolve);
      }).then(() => setNow(caller, inode, owner, lock, options));
    }
    unlock(inode, owner, lock, options.flock);
    if (lock.type !== 'unlock') locks.push({ ...owner, inode, flock: options.flock, lock });
  };
  const everything = { start: 0n, end: LOCK_END };

  return {
    forgotten,
    calls,
    invalidate: emit,
    lookup(parent, name) {
      count('lookup');
      const found = child(parent, name);
      return found === undefined ? undefined : attributes(found);
    },
    getattr: (inode) => attributes(node(inode)),
    async setattr(caller, inode, changes) {
      const file = node(inode);
      if (changes.mode !== undefined) file.mode = (file.mode & S_IFMT) | changes.mode;
      if (changes.uid !== undefined) file.uid = changes.uid;
      if (changes.gid !== undefined) file.gid = changes.gid;
      if (changes.size !== undefined) {
        resize(file, changes.size);
        file.mtime = now();
        changed(caller, file, 0, 0);
      }
      if (changes.killPrivileges) file.mode &= ~0o6000;
      if (changes.atime !== undefined) file.atime = changes.atime === 'now' ? now() : changes.atime;
      if (changes.mtime !== undefined) file.mtime = changes.mtime === 'now' ? now() : changes.mtime;
      file.ctime = now();
      emit({ kind: 'attributes', inode, mount: caller.mount });
      return attributes(file);
    },
    async mknod(caller, parent, name, newNode) {
      if (child(parent, name) !== undefined) throw new FsError('EEXIST');
      const made = make(caller, parent, newNode);
      put(caller, parent, name, made);
      return attributes(made);
    },
    async symlink(caller, parent, name, target) {
      if (child(parent, name) !== undefined) throw new FsError('EEXIST');
      const made = make(caller, parent, { mode: S_IFLNK | 0o777, umask: 0 });
      made.target = Buffer.from(target);
      made.size = target.length;
      put(caller, parent, name, made);
      return attributes(made);
    },
    readlink: (_caller, inode) => node(inode).target,
    async link(caller, inode, parent, name) {
      if (child(parent, name) !== undefined) throw new FsError('EEXIST');
      const file = node(inode);
      file.links++;
      file.ctime = now();
      put(caller, parent, name, file);
      return attributes(file);
    },
    async unlink(caller, parent, name) {
      const file = existing(parent, name);
      take(caller, parent, name, file);
      drop(file);
    },
    async rmdir(caller, parent, name) {
      const directory = existing(parent, name);
      if (directory.children.size > 0) throw new FsError('ENOTEMPTY');
      take(caller, parent, name, directory);
      drop(directory);
    },
    async rename(caller, from, to, flags) {
      const moved = existing(from.parent, from.name);
      const replaced = child(to.parent, to.name);
      if (flags.noReplace && replaced !== undefined) throw new FsError('EEXIST');
      if (flags.exchange && replaced === undefined) throw new FsError('ENOENT');
      if (replaced === moved) return;
      if (!flags.exchange && replaced !== undefined && replaced.children.size > 0)
        throw new FsError('ENOTEMPTY');
      take(caller, from.parent, from.name, moved);
      if (replaced !== undefined) take(caller, to.parent, to.name, replaced);
      put(caller, to.parent, to.name, moved);
      if (flags.exchange && replaced !== undefined) put(caller, from.parent, from.name, replaced);
      else if (replaced !== undefined) drop(replaced);
    },
    async create(caller, parent, name, newNode) {
      count('create');
      if (child(parent, name) !== undefined) throw new FsError('EEXIST');
      const made = make(caller, parent, newNode);
      opened(caller, made, 1);
      put(caller, parent, name, made);
      return attributes(made);
    },
    async tmpfile(caller, parent, newNode) {
      const made = make(caller, parent, newNode);
      made.links = 0;
      opened(caller, made, 1);
      return attributes(made);
    },
    open(caller, inode, flags) {
      const file = node(inode);
      if (flags.truncate) {
        resize(file, 0);
        file.mtime = file.ctime = now();
        changed(caller, file, 0, 0);
      }
      opened(caller, file, 1);
      return { keepCache: true };
    },
    release(caller, inode) {
      const file = node(inode);
      opened(caller, file, -1);
      collect(file);
    },
    flush(caller, inode, owner) {
      unlock(inode, { mount: caller.mount, owner }, everything, false);
    },
    async fsync() {
      count('fsync');
    },
    read(_caller, inode, offset, target) {
      count('read');
      const file = node(inode);
      const end = Math.min(file.size, offset + target.length);
      if (offset >= end) return 0;
      if (file.data === undefined) target.fill(0, 0, end - offset);
      else file.data.read(offset, target, 0, end - offset);
      return end - offset;
    },
    write(caller, inode, offset, data, options) {
      count('write');
      const file = node(inode);
      const at = options.append ? file.size : offset;
      store(file, at, data);
      if (options.killPrivileges) file.mode &= ~0o6000;
      changed(caller, file, at, data.length);
      return data.length;
    },
    async allocate(caller, inode, mode, { offset, length }) {
      const file = node(inode);
      const end = offset + length;
      file.data ??= createPagedData();
      if (mode.kind !== 'allocate') file.data.clear(offset, end);
      if (mode.kind !== 'punch-hole') {
        if (!mode.keepSize && end > file.size) resize(file, end);
        file.data.allocate(offset, end);
      }
      changed(caller, file, offset, length);
    },
    async seek(inode, offset, whence) {
      const file = node(inode);
      if (offset >= file.size) throw new FsError('ENXIO');
      for (let page = Math.floor(offset / PAGE); page * PAGE < file.size; page++) {
        if ((file.data?.isData(page * PAGE) ?? false) === (whence === 'data'))
          return Math.max(offset, page * PAGE);
      }
      if (whence === 'data') throw new FsError('ENXIO');
      return file.size;
    },
    async copyRange(caller, from, to, length) {
      const source = node(from.inode);
      const end = Math.min(source.size, from.offset + length);
      if (end <= from.offset) return 0;
      const data = Buffer.alloc(end - from.offset);
      source.data?.read(from.offset, data, 0, data.length);
      store(node(to.inode), to.offset, data);
      changed(caller, node(to.inode), to.offset, data.length);
      return data.length;
    },
    readdir(inode, cookie, limit) {
      count('readdir');
      const directory = node(inode);
      const entries: DirectoryEntry[] = [];
      if (cookie < 1) entries.push({ inode, name: Buffer.from('.'), type: S_IFDIR, cookie: 1 });
      if (cookie < 2)
        entries.push({ inode: directory.parent, name: Buffer.from('..'), type: S_IFDIR, cookie: 2 });
      for (const [name, entry] of childrenAfter(directory, cookie)) {
        if (entries.length >= limit) break;
        const type = node(entry.inode).mode & S_IFMT;
        entries.push({ inode: entry.inode, name: Buffer.from(name, 'latin1'), type, cookie: entry.cookie });
      }
      return entries;
    },
    touchAccess: () => undefined,
    statfs: () => ({
      blockBytes: PAGE,
      blocks: 1_000_000,
      blocksFree: 600_000,
      blocksAvailable: 500_000,
      files: 2000,
      filesFree: 1000,
      nameBytesMax: 255,
    }),
    getxattr: (inode, name) => node(inode).xattrs.get(key(name)),
    listxattr: (_caller, inode) => [...node(inode).xattrs.keys()].map((name) => Buffer.from(name, 'latin1')),
    async setxattr(_caller, inode, name, value, mode) {
      const { xattrs } = node(inode);
      if (mode.create && xattrs.has(key(name))) throw new FsError('EEXIST');
      if (mode.replace && !xattrs.has(key(name))) throw new FsError('ENODATA');
      xattrs.set(key(name), Buffer.from(value));
    },
    async removexattr(_caller, inode, name) {
      if (!node(inode).xattrs.delete(key(name))) throw new FsError('ENODATA');
    },
    getLock: (inode, owner, lock) => conflict(inode, owner, lock, false)?.lock,
    setLock: setNow,
    releaseFlock(inode, owner) {
      unlock(inode, owner, everything, true);
    },
    forget(inode) {
      forgotten.add(inode);
    },
    onInvalidate(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async dropMount(mount) {
      openCounts.delete(mount);
      for (const held of locks.splice(0)) if (held.mount !== mount) locks.push(held);
    },
    openFiles: (mount) => openCounts.get(mount) ?? 0,
  };
}

const EMPTY = Buffer.alloc(0);

function isDirectory(node: Node): boolean {
  return (node.mode & S_IFMT) === S_IFDIR;
}

function attributes(node: Node): Attributes {
  const regular = (node.mode & S_IFMT) === S_IFREG;
  return {
    inode: node.inode,
    mode: node.mode,
    links: Math.max(node.links, 0),
    uid: node.uid,
    gid: node.gid,
    rdev: node.rdev,
    size: node.size,
    blocks: regular ? (node.data?.pages() ?? 0) * (PAGE / 512) : 0,
    atime: node.atime,
    mtime: node.mtime,
    ctime: node.ctime,
  };
}

/** One listing in progress per directory is remembered, so that a large one is not searched again each time. */
let listing:
  | { directory: Node; cookie: number; rest: [string, { inode: Inode; cookie: number }][]; at: number }
  | undefined;

function* childrenAfter(
  directory: Node,
  cookie: number,
): Generator<[string, { inode: Inode; cookie: number }]> {
  if (listing?.directory !== directory || listing.cookie > cookie) {
    listing = { directory, cookie: 0, rest: [...directory.children], at: 0 };
  }
  const current = listing;
  while (current.at < current.rest.length && (current.rest[current.at]?.[1].cookie ?? 0) <= cookie)
    current.at++;
  current.cookie = cookie;
  for (let index = current.at; index < current.rest.length; index++) {
    const one = current.rest[index];
    if (one !== undefined && directory.children.get(one[0])?.cookie === one[1].cookie) yield one;
  }
}
