/**
 * System calls that node:fs lacks or hides, called through koffi, for tests only.
 *
 * Paths are strings or Buffers (names need not be UTF-8). A call that fails throws a `SystemError` with the
 * errno's name in `code`, as node:fs does, so that one helper checks both. Calls are synchronous and run on the
 * main thread; `asUser` depends on that: it changes the effective user of this one thread only.
 */

import { constants } from 'node:os';
import koffi from 'koffi';

export type Path = string | Buffer;

const library = koffi.load('libc.so.6');
const AT_FDCWD = -100;
const names = new Map<number, string>();
for (const [name, number] of Object.entries(constants.errno)) if (!names.has(number)) names.set(number, name);
names.set(95, 'EOPNOTSUPP');
names.set(11, 'EAGAIN');
names.set(61, 'ENODATA');

export class SystemError extends Error {
  readonly code: string;
  readonly errno: number;
  constructor(call: string, errno: number) {
    const code = names.get(errno) ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.code = code;
    this.errno = errno;
  }
}

/** A C function that answers -1 and errno when it fails. */
function bind(definition: string): (...values: unknown[]) => number {
  const bound = library.func(definition);
  const call = /(\w+)\(/.exec(definition)?.[1] ?? definition;
  return (...values) => {
    const result = Number(bound(...values));
    if (result === -1) throw new SystemError(call, koffi.errno());
    return result;
  };
}

/** The path's bytes with the closing NUL that C wants. */
function c(path: Path): Buffer {
  return Buffer.concat([typeof path === 'string' ? Buffer.from(path) : path, Buffer.of(0)]);
}

const raw = {
  open: bind('int open(const void* path, int flags, unsigned int mode)'),
  close: bind('int close(int fd)'),
  renameat2: bind('int renameat2(int a, const void* from, int b, const void* to, unsigned int flags)'),
  mknod: bind('int mknod(const void* path, unsigned int mode, unsigned long device)'),
  mkdir: bind('int mkdir(const void* path, unsigned int mode)'),
  rmdir: bind('int rmdir(const void* path)'),
  unlink: bind('int unlink(const void* path)'),
  link: bind('int link(const void* from, const void* to)'),
  linkat: bind('int linkat(int a, const void* from, int b, const void* to, int flags)'),
  symlink: bind('int symlink(const void* target, const void* path)'),
  chmod: bind('int chmod(const void* path, unsigned int mode)'),
  lchown: bind('int lchown(const void* path, unsigned int uid, unsigned int gid)'),
  chown: bind('int chown(const void* path, unsigned int uid, unsigned int gid)'),
  truncate: bind('int truncate(const void* path, int64 size)'),
  ftruncate: bind('int ftruncate(int fd, int64 size)'),
  fallocate: bind('int fallocate(int fd, int mode, int64 offset, int64 length)'),
  lseek: bind('int64 lseek(int fd, int64 offset, int whence)'),
  pread: bind('int64 pread(int fd, void* data, size_t length, int64 offset)'),
  pwrite: bind('int64 pwrite(int fd, const void* data, size_t length, int64 offset)'),
  read: bind('int64 read(int fd, void* data, size_t length)'),
  write: bind('int64 write(int fd, const void* data, size_t length)'),
  copy: bind('int64 copy_file_range(int a, void* from, int b, void* to, size_t length, unsigned int flags)'),
  flock: bind('int flock(int fd, int operation)'),
  fcntl: bind('int fcntl(int fd, int command, void* lock)'),
  utimensat: bind('int utimensat(int dir, const void* path, const void* times, int flags)'),
  getxattr: bind('int64 getxattr(const void* path, const void* name, void* value, size_t size)'),
  lgetxattr: bind('int64 lgetxattr(const void* path, const void* name, void* value, size_t size)'),
  fgetxattr: bind('int64 fgetxattr(int fd, const void* name, void* value, size_t size)'),
  setxattr: bind(
    'int setxattr(const void* path, const void* name, const void* value, size_t size, int flags)',
  ),
  lsetxattr: bind('int lsetxattr(const void* path, const void* name, const void* value, size_t size, int f)'),
  fsetxattr: bind('int fsetxattr(int fd, const void* name, const void* value, size_t size, int flags)'),
  listxattr: bind('int64 listxattr(const void* path, void* list, size_t size)'),
  llistxattr: bind('int64 llistxattr(const void* path, void* list, size_t size)'),
  flistxattr: bind('int64 flistxattr(int fd, void* list, size_t size)'),
  removexattr: bind('int removexattr(const void* path, const void* name)'),
  lremovexattr: bind('int lremovexattr(const void* path, const void* name)'),
  msync: bind('int msync(uintptr_t address, size_t length, int flags)'),
  munmap: bind('int munmap(uintptr_t address, size_t length)'),
  mmap: library.func(
    'uintptr_t mmap(uintptr_t at, size_t length, int protect, int flags, int fd, int64 offset)',
  ),
  fsync: bind('int fsync(int fd)'),
  syncfs: bind('int syncfs(int fd)'),
  access: bind('int access(const void* path, int mode)'),
  eaccess: bind('int eaccess(const void* path, int mode)'),
  fadvise: library.func('int posix_fadvise(int fd, int64 offset, int64 length, int advice)'),
  umask: bind('int umask(int mask)'),
  limits: bind('int prlimit(int pid, int resource, const void* wanted, void* now)'),
  syscall: bind('int64 syscall(int64 number, int64 a, int64 b, int64 c)'),
  setgroups: bind('int64 syscall(int64 number, int64 count, void* list)'),
  opendir: library.func('uintptr_t opendir(const void* path)'),
  readdir: library.func('uintptr_t readdir(uintptr_t stream)'),
  telldir: library.func('int64 telldir(uintptr_t stream)'),
  seekdir: library.func('void seekdir(uintptr_t stream, int64 position)'),
  closedir: bind('int closedir(uintptr_t stream)'),
  memory: library.func('void* memcpy(void* to, uintptr_t from, size_t length)'),
  memoryWrite: library.func('void* memcpy(uintptr_t to, const void* from, size_t length)'),
};

export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  NOFOLLOW: process.arch === 'arm64' ? 0o100000 : 0o400000,
  DIRECTORY: process.arch === 'arm64' ? 0o40000 : 0o200000,
  TMPFILE: 0o20000000 | (process.arch === 'arm64' ? 0o40000 : 0o200000),
  PATH: 0o10000000,
} as const;
export const TYPE = {
  FIFO: 0o10000,
  CHAR: 0o20000,
  BLOCK: 0o60000,
  FILE: 0o100000,
  SOCKET: 0o140000,
} as const;
export const RENAME = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;
export const FALLOC = { KEEP_SIZE: 1, PUNCH_HOLE: 2, COLLAPSE: 8, ZERO_RANGE: 16, INSERT: 32 } as const;
export const SEEK = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;
export const LOCK = { SH: 1, EX: 2, UN: 8, NB: 4 } as const;
export const XATTR = { CREATE: 1, REPLACE: 2 } as const;
export const UTIME = { NOW: (1 << 30) - 1, OMIT: (1 << 30) - 2 } as const;

export const open = (path: Path, flags: number, mode = 0o644): number => raw.open(c(path), flags, mode);
export const close = (fd: number): number => raw.close(fd);
export const rename = (from: Path, to: Path, flags = 0): number =>
  raw.renameat2(AT_FDCWD, c(from), AT_FDCWD, c(to), flags);
export const mknod = (path: Path, mode: number, device = 0): number => raw.mknod(c(path), mode, device);
export const mkfifo = (path: Path, mode = 0o644): number => mknod(path, TYPE.FIFO | mode);
export const mkdir = (path: Path, mode = 0o755): number => raw.mkdir(c(path), mode);
export const rmdir = (path: Path): number => raw.rmdir(c(path));
export const unlink = (path: Path): number => raw.unlink(c(path));
export const link = (from: Path, to: Path): number => raw.link(c(from), c(to));
/** Gives a name to an open file (O_TMPFILE). */
export const linkDescriptor = (fd: number, to: Path): number =>
  raw.linkat(AT_FDCWD, c(`/proc/self/fd/${fd}`), AT_FDCWD, c(to), 0x400);
export const symlink = (target: Path, path: Path): number => raw.symlink(c(target), c(path));
export const chmod = (path: Path, mode: number): number => raw.chmod(c(path), mode);
/** -1 leaves an identity as it is. */
export const chown = (path: Path, uid: number, gid: number): number =>
  raw.chown(c(path), uid >>> 0, gid >>> 0);
export const lchown = (path: Path, uid: number, gid: number): number =>
  raw.lchown(c(path), uid >>> 0, gid >>> 0);
export const truncate = (path: Path, size: number): number => raw.truncate(c(path), size);
export const ftruncate = (fd: number, size: number): number => raw.ftruncate(fd, size);
export const fallocate = (fd: number, mode: number, offset: number, length: number): number =>
  raw.fallocate(fd, mode, offset, length);
export const lseek = (fd: number, offset: number, whence: number): number => raw.lseek(fd, offset, whence);
export const pread = (fd: number, data: Buffer, offset: number): number =>
  raw.pread(fd, data, data.length, offset);
export const pwrite = (fd: number, data: Buffer, offset: number): number =>
  raw.pwrite(fd, data, data.length, offset);
export const read = (fd: number, data: Buffer): number => raw.read(fd, data, data.length);
export const write = (fd: number, data: Buffer): number => raw.write(fd, data, data.length);
export const flock = (fd: number, operation: number): number => raw.flock(fd, operation);
export const syncFile = (fd: number): number => raw.fsync(fd);
export const syncfs = (fd: number): number => raw.syncfs(fd);
export const access = (path: Path, mode: number): number => raw.access(c(path), mode);
/** As `access`, with the effective user. */
export const eaccess = (path: Path, mode: number): number => raw.eaccess(c(path), mode);
/** Drops the file's clean pages from the page cache. */
export const dropCache = (fd: number): number => Number(raw.fadvise(fd, 0, 0, 4));
/** Raises how many files this process may have open; answers the limit now. */
export function raiseOpenFiles(wanted: number): number {
  const RLIMIT_NOFILE = 7;
  const limits = Buffer.alloc(16);
  raw.limits(0, RLIMIT_NOFILE, null, limits);
  const hard = Math.max(wanted, Number(limits.readBigUInt64LE(8)));
  limits.writeBigUInt64LE(BigInt(Math.max(wanted, Number(limits.readBigUInt64LE(0)))), 0);
  limits.writeBigUInt64LE(BigInt(hard), 8);
  raw.limits(0, RLIMIT_NOFILE, limits, null);
  return Number(limits.readBigUInt64LE(0));
}
export const umask = (mask: number): number => raw.umask(mask);

/** The bytes that `from` to `to` copied; offsets are bytes. */
export function copyFileRange(
  from: { fd: number; offset: number },
  to: { fd: number; offset: number },
  length: number,
  flags = 0,
): number {
  const a = Buffer.alloc(8);
  const b = Buffer.alloc(8);
  a.writeBigInt64LE(BigInt(from.offset));
  b.writeBigInt64LE(BigInt(to.offset));
  return raw.copy(from.fd, a, to.fd, b, length, flags);
}

export interface Time {
  readonly seconds: number;
  readonly nanoseconds: number;
}
/** `follow: false` changes the symlink itself. */
export function utimens(path: Path, times: { atime: Time; mtime: Time }, follow = true): number {
  const spec = Buffer.alloc(32);
  spec.writeBigInt64LE(BigInt(times.atime.seconds), 0);
  spec.writeBigInt64LE(BigInt(times.atime.nanoseconds), 8);
  spec.writeBigInt64LE(BigInt(times.mtime.seconds), 16);
  spec.writeBigInt64LE(BigInt(times.mtime.nanoseconds), 24);
  return raw.utimensat(AT_FDCWD, c(path), spec, follow ? 0 : 0x100);
}
/** Both times become the clock's (`times` NULL): needs only write permission. */
export const touch = (path: Path): number => raw.utimensat(AT_FDCWD, c(path), null, 0);

const XATTR_BUFFER_BYTES = 70_000;
export function getxattr(file: Path | number, name: string, follow = true): Buffer {
  const value = Buffer.alloc(XATTR_BUFFER_BYTES);
  let size: number;
  if (typeof file === 'number') size = raw.fgetxattr(file, c(name), value, value.length);
  else size = (follow ? raw.getxattr : raw.lgetxattr)(c(file), c(name), value, value.length);
  return value.subarray(0, size);
}
/** As getxattr(2) with a buffer of `size` bytes; 0 asks only for the length. */
export const getxattrInto = (file: Path, name: string, size: number): number =>
  raw.getxattr(c(file), c(name), Buffer.alloc(Math.max(1, size)), size);
export function setxattr(file: Path | number, name: string, value: Buffer, flags = 0, follow = true): number {
  if (typeof file === 'number') return raw.fsetxattr(file, c(name), value, value.length, flags);
  return (follow ? raw.setxattr : raw.lsetxattr)(c(file), c(name), value, value.length, flags);
}
export function listxattr(file: Path | number, follow = true): string[] {
  const list = Buffer.alloc(XATTR_BUFFER_BYTES);
  let size: number;
  if (typeof file === 'number') size = raw.flistxattr(file, list, list.length);
  else size = (follow ? raw.listxattr : raw.llistxattr)(c(file), list, list.length);
  return list.subarray(0, size).toString('latin1').split('\0').filter(Boolean);
}
export const listxattrInto = (file: Path, size: number): number =>
  raw.listxattr(c(file), Buffer.alloc(Math.max(1, size)), size);
export const removexattr = (file: Path, name: string, follow = true): number =>
  (follow ? raw.removexattr : raw.lremovexattr)(c(file), c(name));

export interface RecordLock {
  readonly type: 'read' | 'write' | 'unlock';
  readonly start: number;
  /** 0 means "to the end of the file". */
  readonly length: number;
}
const LOCK_TYPES = ['read', 'write', 'unlock'] as const;
/** `get` answers the lock in the way; `try` fails with EAGAIN, `wait` waits. `open` locks belong to the descriptor. */
export function lockRange(
  fd: number,
  how: 'get' | 'try' | 'wait' | 'open-get' | 'open-try' | 'open-wait',
  lock: RecordLock,
): RecordLock & { pid: number } {
  const command = { get: 5, try: 6, wait: 7, 'open-get': 36, 'open-try': 37, 'open-wait': 38 }[how];
  const record = Buffer.alloc(32);
  record.writeInt16LE(LOCK_TYPES.indexOf(lock.type), 0);
  record.writeBigInt64LE(BigInt(lock.start), 8);
  record.writeBigInt64LE(BigInt(lock.length), 16);
  raw.fcntl(fd, command, record);
  return {
    type: LOCK_TYPES[record.readInt16LE(0)] ?? 'unlock',
    start: Number(record.readBigInt64LE(8)),
    length: Number(record.readBigInt64LE(16)),
    pid: record.readInt32LE(24),
  };
}

export interface Mapping extends Disposable {
  read(offset: number, length: number): Buffer;
  write(offset: number, data: Buffer): void;
  sync(): void;
}
/** A mapping of `length` bytes from the file's start; touching it past the end of the file kills the process. */
export function mmap(fd: number, length: number, options: { write: boolean; shared: boolean }): Mapping {
  const at = raw.mmap(0, length, options.write ? 3 : 1, options.shared ? 1 : 2, fd, 0) as number | bigint;
  if (BigInt(at) === 2n ** 64n - 1n || BigInt(at) === -1n) throw new SystemError('mmap', koffi.errno());
  const address = (offset: number): bigint => BigInt(at) + BigInt(offset);
  return {
    read(offset, size) {
      const data = Buffer.alloc(size);
      raw.memory(data, address(offset), size);
      return data;
    },
    write: (offset, data) => void raw.memoryWrite(address(offset), data, data.length),
    sync: () => void raw.msync(at, length, 4),
    [Symbol.dispose]: () => void raw.munmap(at, length),
  };
}

export interface DirectoryStream extends Disposable {
  /** The next name, or undefined at the end. */
  next(): Buffer | undefined;
  tell(): bigint;
  seek(position: bigint): void;
}
/** A directory stream with its positions, which node:fs does not show. */
export function openDirectory(path: Path): DirectoryStream {
  const stream = raw.opendir(c(path)) as number | bigint;
  if (Number(stream) === 0) throw new SystemError('opendir', koffi.errno());
  // struct dirent: ino 8, off 8, reclen 2, type 1, name.
  const NAME_OFFSET = 19;
  return {
    next() {
      const entry = BigInt(raw.readdir(stream) as number | bigint);
      if (entry === 0n) return undefined;
      const head = Buffer.alloc(NAME_OFFSET);
      raw.memory(head, entry, NAME_OFFSET);
      const room = Buffer.alloc(head.readUInt16LE(16) - NAME_OFFSET);
      raw.memory(room, entry + BigInt(NAME_OFFSET), room.length);
      return room.subarray(0, room.indexOf(0));
    },
    tell: () => BigInt(raw.telldir(stream) as number | bigint),
    seek: (position) => void raw.seekdir(stream, position),
    [Symbol.dispose]: () => void raw.closedir(stream),
  };
}

const CALLS =
  process.arch === 'arm64' ? { uid: 147, gid: 149, groups: 159 } : { uid: 117, gid: 119, groups: 116 };
/**
 * Runs `action` with another effective user, on this thread only (the raw system calls, not glibc's, which
 * change every thread): only synchronous calls inside. Needs root.
 */
export function asUser<T>(uid: number, gid: number, action: () => T, groups: readonly number[] = [gid]): T {
  const list = Buffer.from(Uint32Array.from(groups).buffer);
  raw.setgroups(CALLS.groups, groups.length, list);
  raw.syscall(CALLS.gid, -1, gid, -1);
  raw.syscall(CALLS.uid, -1, uid, -1);
  try {
    return action();
  } finally {
    raw.syscall(CALLS.uid, -1, 0, -1);
    raw.syscall(CALLS.gid, -1, 0, -1);
    raw.setgroups(CALLS.groups, 0, list);
  }
}

/** The errno's name that `action` fails with, or 'ok'. */
export function outcome(action: () => unknown): string {
  try {
    action();
    return 'ok';
  } catch (error) {
    if (!(error instanceof Error && 'code' in error)) throw error;
    return error.code === 'ENOTSUP' ? 'EOPNOTSUPP' : String(error.code);
  }
}
