/**
 * Branded identifiers. A brand costs nothing at run time and keeps an inode from being passed where a
 * version belongs. All numbers are safe integers (below 2^53); SQLite stores them as INTEGER.
 */

declare const brand: unique symbol;
type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** Number of an inode. Never reused; 1 is the root directory. */
export type Inode = Brand<number, 'Inode'>;
/** Name of a node in the cluster; default: the host name. */
export type NodeId = Brand<string, 'NodeId'>;
/** Position in the log; grows by one with every operation. */
export type Version = Brand<number, 'Version'>;
/** Number of a leadership; grows with every change of leader. */
export type Epoch = Brand<number, 'Epoch'>;
/** SHA-256 of a chunk's bytes: 64 lower-case hexadecimal digits. */
export type ChunkHash = Brand<string, 'ChunkHash'>;
/** Number of one mount of this daemon; 0 means "no mount" (a gateway, the daemon itself). */
export type MountId = Brand<number, 'MountId'>;

export const ROOT_INODE = 1 as Inode;
export const NO_MOUNT = 0 as MountId;

/** A file name: 1 to 255 bytes, any byte but `/` and NUL; not necessarily UTF-8. */
export type Name = Uint8Array;

/** Seconds may be negative (before 1970), within SECONDS_MAX; nanoseconds are 0 to 999,999,999. */
export interface Timestamp {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** 273,790 years either way: the range of `Date`. ext4 ends in 2446; what a program asks beyond becomes the end. */
export const SECONDS_MAX = 8_640_000_000_000;

export const NAME_BYTES_MAX = 255;
export const SYMLINK_BYTES_MAX = 4095;
/** 16 TiB, as on ext4 with 4 KiB blocks. */
export const FILE_BYTES_MAX = 2 ** 44 - 4096;
export const LINKS_MAX = 2 ** 31 - 1;
export const XATTR_NAME_BYTES_MAX = 255;
export const XATTR_VALUE_BYTES_MAX = 65_536;
/** Longest chunk, and the size of a slot: a file is cut at multiples of it. */
export const CHUNK_BYTES_MAX = 4 * 1024 * 1024;
/** Chunks up to this size live in SQLite; larger ones are files. */
export const SMALL_CHUNK_BYTES_MAX = 64 * 1024;
