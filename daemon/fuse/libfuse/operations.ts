/**
 * libfuse's path-based requests, each mapped onto one `FileSystem` call.
 *
 * Paths come as strings that the library made from bytes and cannot be turned back when they were not UTF-8
 * (each bad byte became U+FFFD): a path with that character is refused with EINVAL rather than answered for
 * another name. An open file is known to libfuse by a small number; `handles` says which inode it is, so that
 * a file stays right when its path changes.
 */

import type { Operations, Stat, Statfs } from 'fuse-native';
import type { Caller, DirectoryEntry, FileSystem } from '../../filesystem/interface.ts';
import { resolve, resolveParent } from '../../filesystem/resolver.ts';
import { FsError } from '../../protocol/errors.ts';
import type { Inode } from '../../protocol/ids.ts';
import { entryStat, statfsOf, statOf, timestampOf } from './attributes.ts';
import type { Handles } from './handles.ts';

const READDIR_ENTRIES = 1024;
const PERMISSION_BITS = 0o7777;
const TYPE_MASK = 0o170000;
const TYPE_REGULAR = 0o100000;
const TYPE_DIRECTORY = 0o040000;
const O_ACCMODE = 3;
const O_TRUNC = 0o1000;
const O_APPEND = 0o2000;
const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
/** chown's "leave it" as an unsigned number. */
const UNCHANGED_ID = 0xffff_ffff;
const REPLACEMENT_CHARACTER = '\u{fffd}';
/** The library does not say which lock owner closes; the kernel keeps locks of this mount itself. */
const NO_OWNER = 0n;

export interface OperationsContext {
  readonly filesystem: FileSystem;
  readonly handles: Handles;
  readonly caller: Caller;
  /** A programmer error: anything that is not an FsError. */
  readonly defect: (error: unknown) => void;
}

type Reply<T extends unknown[]> = (error: number, ...results: T | []) => void;

export function libfuseOperations(context: OperationsContext): Operations {
  const { filesystem, handles, caller } = context;
  const at = (path: string) => resolve(filesystem, pathBytes(path));
  const parentOf = (path: string) => resolveParent(filesystem, pathBytes(path));

  /**
   * Removes what has the name. The library works by path and tells no FORGET: what lost its last name and is not
   * open cannot be reached any more, so it is forgotten here. Otherwise its space would be kept until the unmount.
   */
  async function removing(
    { parent, name }: { parent: Inode; name: Uint8Array },
    remove: () => Promise<void>,
  ): Promise<void> {
    const before = await filesystem.lookup(parent, name);
    await remove();
    if (before !== undefined) filesystem.forget(before.inode);
  }
  const inodeAt = async (path: string): Promise<Inode> => (await at(path)).inode;

  /** Answers what `body` gives, or the errno of its failure. */
  function answer<T extends unknown[]>(reply: Reply<T>, body: () => Promise<T>): void {
    body().then(
      (results) => reply(0, ...results),
      (error: unknown) => reply(errorNumber(error, context.defect)),
    );
  }

  /** Like `answer`, for requests that only succeed or fail. */
  function complete(reply: Reply<[]>, body: () => Promise<unknown>): void {
    answer<[]>(reply, async () => {
      await body();
      return [];
    });
  }

  /** For read and write: the library takes the count in the place of the error. */
  function count(reply: Reply<[]>, body: () => Promise<number>): void {
    body().then(
      (bytes) => reply(bytes),
      (error: unknown) => reply(errorNumber(error, context.defect)),
    );
  }

  return {
    statfs(_path, reply) {
      answer<[Statfs]>(reply, async () => [statfsOf(await filesystem.statfs())]);
    },
    getattr(path, reply) {
      answer<[Stat]>(reply, async () => [statOf(await at(path))]);
    },
    readdir(path, reply) {
      answer<[string[], Stat[]]>(reply, async () => {
        const inode = await inodeAt(path);
        const entries = await listDirectory(filesystem, inode);
        filesystem.touchAccess(caller, inode);
        return [entries.map((entry) => text(entry.name)), entries.map(entryStat)];
      });
    },
    readlink(path, reply) {
      answer<[string]>(reply, async () => {
        const target = text(await filesystem.readlink(caller, await inodeAt(path)));
        if (target.includes(REPLACEMENT_CHARACTER)) throw new FsError('EIO');
        return [target];
      });
    },

    chmod(path, mode, reply) {
      complete(reply, async () => {
        await filesystem.setattr(caller, await inodeAt(path), { mode: mode & PERMISSION_BITS });
      });
    },
    chown(path, uid, gid, reply) {
      complete(reply, async () => {
        await filesystem.setattr(caller, await inodeAt(path), {
          ...(uid === UNCHANGED_ID ? {} : { uid }),
          ...(gid === UNCHANGED_ID ? {} : { gid }),
        });
      });
    },
    truncate(path, size, reply) {
      complete(reply, async () => {
        await filesystem.setattr(caller, await inodeAt(path), { size });
      });
    },
    ftruncate(_path, handle, size, reply) {
      complete(reply, async () => {
        await filesystem.setattr(caller, handles.get(handle).inode, { size });
      });
    },
    utimens(path, atimeMs, mtimeMs, reply) {
      complete(reply, async () => {
        const changes = { atime: timestampOf(atimeMs), mtime: timestampOf(mtimeMs) };
        await filesystem.setattr(caller, await inodeAt(path), changes);
      });
    },

    mknod(path, mode, device, reply) {
      complete(reply, async () => {
        const { parent, name } = await parentOf(path);
        // The kernel applied the umask already.
        await filesystem.mknod(caller, parent, name, { mode, umask: 0, rdev: device });
      });
    },
    mkdir(path, mode, reply) {
      complete(reply, async () => {
        const { parent, name } = await parentOf(path);
        await filesystem.mknod(caller, parent, name, {
          mode: TYPE_DIRECTORY | (mode & PERMISSION_BITS),
          umask: 0,
        });
      });
    },
    symlink(target, path, reply) {
      complete(reply, async () => {
        const { parent, name } = await parentOf(path);
        await filesystem.symlink(caller, parent, name, pathBytes(target));
      });
    },
    link(from, to, reply) {
      complete(reply, async () => {
        const { parent, name } = await parentOf(to);
        await filesystem.link(caller, await inodeAt(from), parent, name);
      });
    },
    unlink(path, reply) {
      complete(reply, async () => {
        const at = await parentOf(path);
        await removing(at, () => filesystem.unlink(caller, at.parent, at.name));
      });
    },
    rmdir(path, reply) {
      complete(reply, async () => {
        const at = await parentOf(path);
        await removing(at, () => filesystem.rmdir(caller, at.parent, at.name));
      });
    },
    rename(from, to, reply) {
      complete(reply, async () => {
        const flags = { noReplace: false, exchange: false };
        const [source, target] = [await parentOf(from), await parentOf(to)];
        await removing(target, () => filesystem.rename(caller, source, target, flags));
      });
    },

    create(path, mode, reply) {
      answer<[number]>(reply, async () => {
        const { parent, name } = await parentOf(path);
        const node = { mode: (mode & ~TYPE_MASK) | TYPE_REGULAR, umask: 0 };
        const { inode } = await filesystem.create(caller, parent, name, node);
        return [handles.add({ inode, append: false })];
      });
    },
    open(path, flags, reply) {
      answer<[number]>(reply, async () => {
        const inode = await inodeAt(path);
        const write = (flags & O_ACCMODE) !== 0;
        await filesystem.open(caller, inode, { truncate: (flags & O_TRUNC) !== 0, write });
        return [handles.add({ inode, append: (flags & O_APPEND) !== 0 })];
      });
    },
    read(_path, handle, target, length, offset, reply) {
      count(reply, async () => {
        const { inode } = handles.get(handle);
        return await filesystem.read(caller, inode, offset, target.subarray(0, length));
      });
    },
    write(_path, handle, data, length, offset, reply) {
      count(reply, async () => {
        const { inode, append } = handles.get(handle);
        const options = { append, killPrivileges: false };
        return await filesystem.write(caller, inode, offset, data.subarray(0, length), options);
      });
    },
    flush(_path, handle, reply) {
      complete(reply, async () => {
        await filesystem.flush(caller, handles.get(handle).inode, NO_OWNER);
      });
    },
    fsync(_path, dataOnly, handle, reply) {
      complete(reply, () => filesystem.fsync(handles.get(handle).inode, dataOnly !== 0));
    },
    fsyncdir(path, dataOnly, _handle, reply) {
      complete(reply, async () => filesystem.fsync(await inodeAt(path), dataOnly !== 0));
    },
    release(_path, handle, reply) {
      complete(reply, async () => {
        const { inode } = handles.remove(handle);
        await filesystem.release(caller, inode);
        filesystem.forget(inode);
      });
    },

    getxattr(path, name, _position, reply) {
      answer<[Buffer]>(reply, async () => {
        const value = await filesystem.getxattr(await inodeAt(path), xattrName(name));
        if (value === undefined) throw new FsError('ENODATA');
        return [Buffer.from(value)];
      });
    },
    listxattr(path, reply) {
      answer<[string[]]>(reply, async () => [
        (await filesystem.listxattr(caller, await inodeAt(path))).map(text),
      ]);
    },
    setxattr(path, name, value, _position, flags, reply) {
      complete(reply, async () => {
        const mode = { create: (flags & XATTR_CREATE) !== 0, replace: (flags & XATTR_REPLACE) !== 0 };
        // Copied: the library's memory is gone once this was answered.
        await filesystem.setxattr(caller, await inodeAt(path), xattrName(name), Buffer.from(value), mode);
      });
    },
    removexattr(path, name, reply) {
      complete(reply, async () => filesystem.removexattr(caller, await inodeAt(path), xattrName(name)));
    },
  };
}

function errorNumber(error: unknown, defect: (error: unknown) => void): number {
  if (error instanceof FsError) return -error.errno;
  defect(error);
  return -new FsError('EIO').errno;
}

function pathBytes(path: string): Uint8Array {
  if (path.includes(REPLACEMENT_CHARACTER)) throw new FsError('EINVAL', 'not UTF-8');
  return Buffer.from(path);
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
}

function xattrName(name: string): Uint8Array {
  // The kernel does not enforce ACLs of this mount: storing one would promise what nobody keeps.
  if (name.startsWith('system.posix_acl_')) throw new FsError('EOPNOTSUPP');
  return pathBytes(name);
}

async function listDirectory(filesystem: FileSystem, inode: Inode): Promise<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  // Ends: cookies grow, and the library takes a listing only as a whole.
  for (let cookie = 0; ; ) {
    const page = await filesystem.readdir(inode, cookie, READDIR_ENTRIES);
    const last = page.at(-1);
    if (last === undefined) return entries;
    for (const entry of page) entries.push(entry);
    cookie = last.cookie;
  }
}
