/**
 * The numbers of the kernel's FUSE protocol, as in <linux/fuse.h> (7.38). Offsets into messages are in
 * 32-bit words from the start of the message and stand where they are used; every structure is a multiple
 * of 8 bytes and little-endian on the machines Warren runs on.
 */

export const PROTOCOL_MAJOR = 7;
export const PROTOCOL_MINOR = 38;

/** Bytes of data in the largest READ or WRITE: 256 pages, the most an unprivileged connection may have. */
export const TRANSFER_BYTES_MAX = 1024 * 1024;
export const TRANSFER_PAGES_MAX = 256;
export const IN_HEADER_BYTES = 40;
export const OUT_HEADER_BYTES = 16;
export const WRITE_DATA_OFFSET = 80;

export const OPCODE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  BMAP: 37,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SYNCFS: 50,
  TMPFILE: 51,
} as const;

/** Flags of INIT, first word. */
export const INIT = {
  ASYNC_READ: 1 << 0,
  POSIX_LOCKS: 1 << 1,
  ATOMIC_O_TRUNC: 1 << 3,
  BIG_WRITES: 1 << 5,
  DONT_MASK: 1 << 6,
  FLOCK_LOCKS: 1 << 10,
  DO_READDIRPLUS: 1 << 13,
  PARALLEL_DIROPS: 1 << 18,
  POSIX_ACL: 1 << 20,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  NO_OPENDIR_SUPPORT: 1 << 24,
  EXPLICIT_INVAL_DATA: 1 << 25,
  HANDLE_KILLPRIV_V2: 1 << 28,
  SETXATTR_EXT: 1 << 29,
  INIT_EXT: 1 << 30,
} as const;

/** Flags of INIT, second word (bits 32 and up). */
export const INIT2 = {
  DIRECT_IO_ALLOW_MMAP: 1 << (36 - 32),
} as const;

export const SETATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  KILL_SUIDGID: 1 << 11,
} as const;

export const FOPEN_KEEP_CACHE = 1 << 1;
export const OPEN_KILL_SUIDGID = 1 << 0;
export const WRITE_CACHE = 1 << 0;
export const WRITE_KILL_SUIDGID = 1 << 2;
export const RELEASE_FLOCK_UNLOCK = 1 << 1;
export const FSYNC_FDATASYNC = 1 << 0;
export const LK_FLOCK = 1 << 0;
export const SETXATTR_ACL_KILL_SGID = 1 << 0;

export const NOTIFY = { INVAL_INODE: 2, INVAL_ENTRY: 3, INC_EPOCH: 8 } as const;

/** Flags of open(2), asm-generic. */
export const O = { ACCMODE: 0o3, EXCL: 0o200, TRUNC: 0o1000, APPEND: 0o2000 } as const;

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;
export const FALLOC_KEEP_SIZE = 1;
export const FALLOC_PUNCH_HOLE = 2;
export const FALLOC_ZERO_RANGE = 16;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
export const S_IFMT = 0o170000;
export const S_IFREG = 0o100000;
export const S_IFDIR = 0o040000;

const WORD = 2 ** 32;

/** The 32-bit word at `index`; the caller has checked the message's length. */
export function word(words: Uint32Array, index: number): number {
  return words[index] as number;
}

/** An unsigned 64-bit number; above 2^53 only approximately right, which is far above every limit here. */
export function u64(words: Uint32Array, index: number): number {
  return (words[index + 1] as number) * WORD + (words[index] as number);
}

/** A signed 64-bit number (seconds before 1970). */
export function i64(words: Uint32Array, index: number): number {
  return ((words[index + 1] as number) | 0) * WORD + (words[index] as number);
}

/** All 64 bits (lock owners are hashes and use every bit). */
export function big64(words: Uint32Array, index: number): bigint {
  return (BigInt(words[index + 1] as number) << 32n) | BigInt(words[index] as number);
}

/** Stores a signed or unsigned number of up to 53 bits as 64 bits. */
export function put64(words: Uint32Array, index: number, value: number): void {
  // A typed array stores modulo 2^32, so the low word of a negative number and its floored high word are
  // its two's complement.
  words[index] = value;
  words[index + 1] = Math.floor(value / WORD);
}

/** Stores all 64 bits. */
export function putBig64(words: Uint32Array, index: number, value: bigint): void {
  words[index] = Number(value & 0xffff_ffffn);
  words[index + 1] = Number((value >> 32n) & 0xffff_ffffn);
}
