/** A file system in memory for driver tests: simple on purpose, so that a failure points at the driver. */

import type { Attributes, Caller, FileSystem } from '../../daemon/filesystem/interface.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import { type Inode, type Name, ROOT_INODE } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

interface Node {
  attributes: Attributes;
  data: Buffer;
  readonly children: Map<string, Inode>;
  readonly xattrs: Map<string, Uint8Array>;
}

const clock = systemClock();
/** Bytes as a map key, one character each. */
const key = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');
const bytes = (text: string) => Buffer.from(text, 'latin1');

export interface MemoryFileSystem extends FileSystem {
  readonly calls: string[];
}

export function memoryFileSystem(owner: { uid: number; gid: number }): MemoryFileSystem {
  const nodes = new Map<Inode, Node>();
  const calls: string[] = [];
  let lastInode = 0;
  let open = 0;

  function add(mode: number, rdev = 0): Node {
    lastInode += 1;
    const now = clock.now();
    const attributes = {
      inode: lastInode as Inode,
      mode,
      links: (mode & S_IFMT) === S_IFDIR ? 2 : 1,
      ...owner,
      rdev,
      size: 0,
      blocks: 0,
      atime: now,
      mtime: now,
      ctime: now,
    };
    const node = { attributes, data: Buffer.alloc(0), children: new Map(), xattrs: new Map() };
    nodes.set(attributes.inode, node);
    return node;
  }
  function get(inode: Inode): Node {
    const node = nodes.get(inode);
    if (node === undefined) throw new FsError('ESTALE');
    return node;
  }
  function change(node: Node, changes: Partial<Attributes>): Attributes {
    node.attributes = { ...node.attributes, ctime: clock.now(), ...changes };
    return node.attributes;
  }
  function resize(node: Node, size: number): void {
    const data = Buffer.alloc(size);
    node.data.copy(data);
    node.data = data;
    change(node, { size, blocks: Math.ceil(size / 512), mtime: clock.now() });
  }
  function insert(parent: Inode, name: Name, node: Node): Attributes {
    if (get(parent).children.has(key(name))) throw new FsError('EEXIST');
    get(parent).children.set(key(name), node.attributes.inode);
    return node.attributes;
  }
  function child(parent: Inode, name: Name): Node {
    const inode = get(parent).children.get(key(name));
    if (inode === undefined) throw new FsError('ENOENT');
    return get(inode);
  }
  function drop(parent: Inode, name: Name): void {
    const node = child(parent, name);
    get(parent).children.delete(key(name));
    change(node, { links: node.attributes.links - 1 });
  }
  const refused = (): never => {
    throw new FsError('ENOSYS');
  };
  add(S_IFDIR | 0o755);

  return {
    calls,
    lookup: (parent, name) => {
      const inode = get(parent).children.get(key(name));
      return inode === undefined ? undefined : get(inode).attributes;
    },
    getattr: (inode) => get(inode).attributes,
    async setattr(_caller: Caller, inode, changes) {
      const node = get(inode);
      if (changes.size !== undefined) resize(node, changes.size);
      const { mode, uid, gid, atime, mtime } = changes;
      return change(node, {
        ...(mode === undefined ? {} : { mode: (node.attributes.mode & S_IFMT) | mode }),
        ...(uid === undefined ? {} : { uid }),
        ...(gid === undefined ? {} : { gid }),
        ...(atime === undefined ? {} : { atime: atime === 'now' ? clock.now() : atime }),
        ...(mtime === undefined ? {} : { mtime: mtime === 'now' ? clock.now() : mtime }),
      });
    },
    mknod: async (_caller, parent, name, { mode, rdev }) => insert(parent, name, add(mode, rdev)),
    async symlink(_caller, parent, name, target) {
      const node = add(S_IFLNK | 0o777);
      node.data = Buffer.from(target);
      change(node, { size: target.length });
      return insert(parent, name, node);
    },
    readlink: (_caller, inode) => get(inode).data,
    async link(_caller, inode, parent, name) {
      insert(parent, name, get(inode));
      return change(get(inode), { links: get(inode).attributes.links + 1 });
    },
    unlink: async (_caller, parent, name) => drop(parent, name),
    async rmdir(_caller, parent, name) {
      if (child(parent, name).children.size > 0) throw new FsError('ENOTEMPTY');
      drop(parent, name);
    },
    async rename(_caller, from, to) {
      const node = child(from.parent, from.name);
      get(from.parent).children.delete(key(from.name));
      get(to.parent).children.set(key(to.name), node.attributes.inode);
    },
    async create(_caller, parent, name, { mode }) {
      const made = insert(parent, name, add(S_IFREG | (mode & 0o7777)));
      open += 1;
      return made;
    },
    tmpfile: refused,
    open() {
      open += 1;
      return { keepCache: false };
    },
    release() {
      open -= 1;
      calls.push('release');
    },
    flush: () => void calls.push('flush'),
    fsync: async (_inode, dataOnly) => void calls.push(dataOnly ? 'fdatasync' : 'fsync'),
    async read(_caller, inode, offset, target) {
      // Answers later, as a read from a disk does.
      await new Promise((resolve) => setImmediate(resolve));
      return get(inode).data.copy(target, 0, offset);
    },
    write(_caller, inode, offset, data, { append }) {
      const node = get(inode);
      const start = append ? node.data.length : offset;
      if (node.data.length < start + data.length) resize(node, start + data.length);
      node.data.set(data, start);
      return data.length;
    },
    allocate: refused,
    seek: refused,
    copyRange: refused,
    readdir(inode, cookie, limit) {
      const entries = [
        { inode, name: bytes('.'), type: S_IFDIR, cookie: 1 },
        { inode: ROOT_INODE, name: bytes('..'), type: S_IFDIR, cookie: 2 },
        ...Array.from(get(inode).children, ([name, child], index) => ({
          inode: child,
          name: bytes(name),
          type: get(child).attributes.mode & S_IFMT,
          cookie: index + 3,
        })),
      ];
      return entries.filter((entry) => entry.cookie > cookie).slice(0, limit);
    },
    touchAccess: () => undefined,
    statfs: () => ({
      blockBytes: 4096,
      blocks: 2 ** 34,
      blocksFree: 2 ** 33,
      blocksAvailable: 2 ** 33,
      files: 1000,
      filesFree: 900,
      nameBytesMax: 255,
    }),
    getxattr: (inode, name) => get(inode).xattrs.get(key(name)),
    listxattr: (_caller, inode) => Array.from(get(inode).xattrs.keys(), bytes),
    async setxattr(_caller, inode, name, value, { create, replace }) {
      const { xattrs } = get(inode);
      if (create && xattrs.has(key(name))) throw new FsError('EEXIST');
      if (replace && !xattrs.has(key(name))) throw new FsError('ENODATA');
      xattrs.set(key(name), Buffer.from(value));
    },
    async removexattr(_caller, inode, name) {
      if (!get(inode).xattrs.delete(key(name))) throw new FsError('ENODATA');
    },
    getLock: refused,
    setLock: refused,
    releaseFlock: () => undefined,
    forget: () => undefined,
    onInvalidate: () => () => undefined,
    dropMount: async () => void calls.push('dropMount'),
    openFiles: () => open,
  };
}
