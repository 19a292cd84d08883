/**
 * What a FUSE driver or a gateway may ask of the file system: POSIX operations on inodes.
 *
 * Shapes. Inodes are numbers, names are bytes, sizes and offsets are bytes. There is no handle object: an
 * open file is known by its inode and a count, so that a handle can be rebuilt from its inode after the
 * daemon was replaced. `open`, `create` and `tmpfile` add one to the count, `release` takes one away.
 *
 * Answers. A method that only reads metadata answers at once; one that waits for a disk or for other nodes
 * answers with a promise (`MaybePromise`). Callers must treat both alike. Errors are thrown (or rejected) as
 * `FsError` with the errno that ext4 would give; anything else is a defect and stops the daemon.
 *
 * Permissions are checked by the caller (the kernel with `default_permissions`; a gateway by itself). What
 * belongs to the meaning of an operation is done here: clearing setuid and setgid, inheriting the group of a
 * setgid directory, applying umask or default ACL, time stamps, link counts, limits.
 */

import type { Inode, MountId, Name, Timestamp } from '../protocol/ids.ts';

export type MaybePromise<T> = T | Promise<T>;

/** Who asks. `signal` is aborted when the program is killed or interrupted while it waits. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  /** The mount the call came through; NO_MOUNT for gateways. Its own kernel caches need no invalidation. */
  readonly mount: MountId;
  readonly signal?: AbortSignal;
  /** No other request waits, so the answer may be made while the event loop waits for a quick disk. */
  readonly alone?: boolean;
}

/** As in `struct stat`. `mode` holds type and permission bits, `blocks` counts 512-byte units. */
export interface Attributes {
  readonly inode: Inode;
  readonly mode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  /** Device number as the kernel's 32-bit encoding; 0 for anything but device files. */
  readonly rdev: number;
  readonly size: number;
  readonly blocks: number;
  readonly atime: Timestamp;
  readonly mtime: Timestamp;
  readonly ctime: Timestamp;
}

/** What to change; a missing key stays. `'now'` is the file system's clock. */
export interface AttributeChanges {
  /** Permission bits (07777). */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: Timestamp | 'now';
  readonly mtime?: Timestamp | 'now';
  /** The kernel asks to clear setuid and setgid (a write or truncate without CAP_FSETID). */
  readonly killPrivileges?: boolean;
}

export interface NewNode {
  /** Type and permission bits, before the umask. S_IFLNK is made by `symlink`. */
  readonly mode: number;
  readonly umask: number;
  readonly rdev?: number;
}

export interface DirectoryEntry {
  readonly inode: Inode;
  readonly name: Name;
  /** Type bits of the mode (S_IFDIR, …). */
  readonly type: number;
  /** Continue after this entry with this cookie. Cookies grow; `.` is 1 and `..` is 2. */
  readonly cookie: number;
}

export interface OpenFlags {
  readonly truncate: boolean;
  readonly write: boolean;
  readonly killPrivileges?: boolean;
}

export interface OpenResult {
  /** The kernel's cached pages of the file are still right. */
  readonly keepCache: boolean;
}

/** A byte range lock; `end` is inclusive, Number.MAX_SAFE_INTEGER means "to the end of the file". */
export interface RangeLock {
  readonly start: number;
  readonly end: number;
  readonly type: 'read' | 'write' | 'unlock';
  readonly pid: number;
}

/** Who holds a lock: the kernel's 64-bit owner, unique within one mount. */
export interface LockOwner {
  readonly mount: MountId;
  readonly owner: bigint;
}

export interface ListedEntry {
  readonly entry: DirectoryEntry;
  /** None for `.`, `..` and for what vanished meanwhile. */
  readonly attributes: Attributes | undefined;
}

export interface FileSystemStatistics {
  readonly blockBytes: number;
  readonly blocks: number;
  readonly blocksFree: number;
  readonly blocksAvailable: number;
  readonly files: number;
  readonly filesFree: number;
  readonly nameBytesMax: number;
}

export type AllocateMode =
  | { readonly kind: 'allocate'; readonly keepSize: boolean }
  | { readonly kind: 'punch-hole' }
  | { readonly kind: 'zero-range'; readonly keepSize: boolean };

export interface RenameFlags {
  readonly noReplace: boolean;
  readonly exchange: boolean;
}

export interface XattrMode {
  /** XATTR_CREATE: fail with EEXIST when it is there. */
  readonly create: boolean;
  /** XATTR_REPLACE: fail with ENODATA when it is not. */
  readonly replace: boolean;
  /** FUSE_SETXATTR_ACL_KILL_SGID: setting this ACL must clear setgid. */
  readonly killSetgid?: boolean;
}

/** Tells a mount that what its kernel cached is old. `mount` made the change itself and may skip it. */
export type Invalidation =
  | { readonly kind: 'attributes'; readonly inode: Inode; readonly mount: MountId }
  | {
      readonly kind: 'data';
      readonly inode: Inode;
      readonly offset: number;
      /** 0 means "to the end". */
      readonly length: number;
      readonly mount: MountId;
    }
  | { readonly kind: 'entry'; readonly parent: Inode; readonly name: Name; readonly mount: MountId }
  /** Every name, and nothing that is cached of a file may be kept at its next open. */
  | { readonly kind: 'everything'; readonly mount: MountId };

export interface FileSystem {
  /** The child's attributes, or undefined when there is none (no error: it is the common answer). */
  lookup(parent: Inode, name: Name): MaybePromise<Attributes | undefined>;
  /** Errors: ESTALE when the inode is gone. */
  getattr(inode: Inode): MaybePromise<Attributes>;
  setattr(caller: Caller, inode: Inode, changes: AttributeChanges): Promise<Attributes>;

  /** A file, fifo, socket, device or directory (by the type bits of `mode`). */
  mknod(caller: Caller, parent: Inode, name: Name, node: NewNode): Promise<Attributes>;
  symlink(caller: Caller, parent: Inode, name: Name, target: Uint8Array): Promise<Attributes>;
  readlink(caller: Caller, inode: Inode): MaybePromise<Uint8Array>;
  link(caller: Caller, inode: Inode, parent: Inode, name: Name): Promise<Attributes>;
  unlink(caller: Caller, parent: Inode, name: Name): Promise<void>;
  rmdir(caller: Caller, parent: Inode, name: Name): Promise<void>;
  rename(
    caller: Caller,
    from: { parent: Inode; name: Name },
    to: { parent: Inode; name: Name },
    flags: RenameFlags,
  ): Promise<void>;

  /** Makes the regular file and opens it. Errors: EEXIST when the name is taken. */
  create(caller: Caller, parent: Inode, name: Name, node: NewNode): Promise<Attributes>;
  /** O_TMPFILE: a regular file without a name, open; `link` may give it one. */
  tmpfile(caller: Caller, parent: Inode, node: NewNode): Promise<Attributes>;
  open(caller: Caller, inode: Inode, flags: OpenFlags): MaybePromise<OpenResult>;
  /** Ends one open. Dirty data was flushed by `flush`; what a late mmap wrote is flushed now. */
  release(caller: Caller, inode: Inode): MaybePromise<void>;
  /** close(2): returns when the data is outside the daemon's memory. Releases the owner's fcntl locks. */
  flush(caller: Caller, inode: Inode, owner: bigint): MaybePromise<void>;
  /** Returns when data and metadata are durable. */
  fsync(inode: Inode, dataOnly: boolean, caller?: Caller): Promise<void>;
  /** Fills `target` from `offset`; answers how many bytes (short only at the end of the file). */
  read(caller: Caller, inode: Inode, offset: number, target: Buffer): MaybePromise<number>;
  /** Copies `data` before it returns or rejects. A promise means back-pressure. Answers the bytes written. */
  write(
    caller: Caller,
    inode: Inode,
    offset: number,
    data: Uint8Array,
    options: { append: boolean; killPrivileges: boolean },
  ): MaybePromise<number>;
  allocate(
    caller: Caller,
    inode: Inode,
    mode: AllocateMode,
    range: { offset: number; length: number },
  ): Promise<void>;
  /** SEEK_DATA or SEEK_HOLE. Errors: ENXIO past the end. */
  seek(inode: Inode, offset: number, whence: 'data' | 'hole'): Promise<number>;
  copyRange(
    caller: Caller,
    from: { inode: Inode; offset: number },
    to: { inode: Inode; offset: number },
    length: number,
  ): Promise<number>;

  /** Up to `limit` entries after `cookie` (0: from the start), `.` and `..` first. Right while entries change. */
  readdir(inode: Inode, cookie: number, limit: number): MaybePromise<DirectoryEntry[]>;
  /** As `readdir`, with attributes. Where it is missing, a mount asks `getattr` for each. */
  readdirPlus?(inode: Inode, cookie: number, limit: number): MaybePromise<ListedEntry[]>;
  /** Tells that a listing was read (relatime of the directory). */
  touchAccess(caller: Caller, inode: Inode): void;
  statfs(): MaybePromise<FileSystemStatistics>;

  getxattr(inode: Inode, name: Uint8Array): MaybePromise<Uint8Array | undefined>;
  /** `trusted.` names are for root only. */
  listxattr(caller: Caller, inode: Inode): MaybePromise<Uint8Array[]>;
  setxattr(caller: Caller, inode: Inode, name: Uint8Array, value: Uint8Array, mode: XattrMode): Promise<void>;
  removexattr(caller: Caller, inode: Inode, name: Uint8Array): Promise<void>;

  /** F_GETLK: the first lock that is in the way, or undefined. */
  getLock(inode: Inode, owner: LockOwner, lock: RangeLock): MaybePromise<RangeLock | undefined>;
  /** F_SETLK / F_SETLKW / flock. Errors: EAGAIN when it would wait and must not, EINTR, EDEADLK. */
  setLock(
    caller: Caller,
    inode: Inode,
    owner: LockOwner,
    lock: RangeLock,
    options: { wait: boolean; flock: boolean },
  ): MaybePromise<void>;
  /** Drops the flock of `owner` (last close of an open file description). */
  releaseFlock(inode: Inode, owner: LockOwner): void;

  /** The kernel dropped its references to the inode; a lookup on its way may bring a new one of a named inode. */
  forget(inode: Inode): void;
  /** Calls `listener` for each change that a kernel may have cached. Answers how to stop. */
  onInvalidate(listener: (event: Invalidation) => void): () => void;
  /** A mount is gone: its locks and open counts end. */
  dropMount(mount: MountId): Promise<void>;
  /** Files held open through a mount: the daemon drains when this is 0. */
  openFiles(mount: MountId): number;
}
