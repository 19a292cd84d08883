/**
 * The part of fuse-native 2.2.6 that the driver uses. Paths and names are strings made from UTF-8; results
 * are negative errno numbers.
 */
declare module 'fuse-native' {
  /** The first argument of `read` and `write` is the count when it is not an error. */
  type Callback<T extends unknown[] = []> = (error: number, ...results: T | []) => void;

  /** Times are milliseconds since 1970. */
  interface Stat {
    mode: number;
    uid?: number;
    gid?: number;
    size?: number;
    nlink?: number;
    ino: number;
    rdev?: number;
    blksize?: number;
    blocks?: number;
    atime?: number;
    mtime?: number;
    ctime?: number;
  }

  interface Statfs {
    bsize: number;
    frsize: number;
    blocks: number;
    bfree: number;
    bavail: number;
    files: number;
    ffree: number;
    favail: number;
    namemax: number;
  }

  interface Operations {
    statfs(path: string, done: Callback<[Statfs]>): void;
    getattr(path: string, done: Callback<[Stat]>): void;
    flush(path: string, handle: number, done: Callback): void;
    fsync(path: string, dataOnly: number, handle: number, done: Callback): void;
    fsyncdir(path: string, dataOnly: number, handle: number, done: Callback): void;
    readdir(path: string, done: Callback<[string[], Stat[]]>): void;
    truncate(path: string, size: number, done: Callback): void;
    ftruncate(path: string, handle: number, size: number, done: Callback): void;
    utimens(path: string, atimeMs: number, mtimeMs: number, done: Callback): void;
    readlink(path: string, done: Callback<[string]>): void;
    chown(path: string, uid: number, gid: number, done: Callback): void;
    chmod(path: string, mode: number, done: Callback): void;
    mknod(path: string, mode: number, device: number, done: Callback): void;
    setxattr(
      path: string,
      name: string,
      value: Buffer,
      position: number,
      flags: number,
      done: Callback,
    ): void;
    getxattr(path: string, name: string, position: number, done: Callback<[Buffer]>): void;
    listxattr(path: string, done: Callback<[string[]]>): void;
    removexattr(path: string, name: string, done: Callback): void;
    open(path: string, flags: number, done: Callback<[number]>): void;
    create(path: string, mode: number, done: Callback<[number]>): void;
    read(path: string, handle: number, target: Buffer, length: number, offset: number, done: Callback): void;
    write(path: string, handle: number, data: Buffer, length: number, offset: number, done: Callback): void;
    release(path: string, handle: number, done: Callback): void;
    unlink(path: string, done: Callback): void;
    rename(from: string, to: string, done: Callback): void;
    link(from: string, to: string, done: Callback): void;
    symlink(target: string, path: string, done: Callback): void;
    mkdir(path: string, mode: number, done: Callback): void;
    rmdir(path: string, done: Callback): void;
  }

  type Signal = (result: number, ...rest: unknown[]) => void;
  type NativeHandler = (request: Buffer, operation: number, ...args: unknown[]) => void;

  export default class Fuse {
    constructor(path: string, operations: Operations, options: { timeout: false });
    static unmount: (path: string, done: (error: Error | null) => void) => void;
    mount(done: (error: Error | null) => void): void;
    unmount(done: (error: Error | null) => void): void;

    // Not part of the library's documented interface; the driver repairs defects through them.
    _handlers: NativeHandler[];
    _fuseOptions(): string;
    _op_getxattr(signal: Signal, path: string, name: string, target: Buffer, position: number): void;
    _op_listxattr(signal: Signal, path: string, target: Buffer): void;
  }
}
