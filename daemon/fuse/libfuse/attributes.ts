/**
 * Attributes, times and figures in the library's shapes, which are narrower than ours: 32-bit inode numbers
 * and block counts, unsigned milliseconds.
 */

import type { Stat, Statfs } from 'fuse-native';
import type { Attributes, DirectoryEntry, FileSystemStatistics } from '../../filesystem/interface.ts';
import { FsError } from '../../protocol/errors.ts';
import type { Timestamp } from '../../protocol/ids.ts';

const UINT32_MAX = 0xffff_ffff;

export function entryStat(entry: DirectoryEntry): Stat {
  return { mode: entry.type, ino: entry.inode };
}

export function statOf(attributes: Attributes): Stat {
  return {
    mode: attributes.mode,
    uid: attributes.uid,
    gid: attributes.gid,
    size: attributes.size,
    nlink: attributes.links,
    ino: attributes.inode,
    rdev: attributes.rdev,
    blksize: 4096,
    blocks: attributes.blocks,
    atime: millisecondsOf(attributes.atime),
    mtime: millisecondsOf(attributes.mtime),
    ctime: millisecondsOf(attributes.ctime),
  };
}

/** The library's times are unsigned milliseconds: what is before 1970 shows as 1970. */
function millisecondsOf(time: Timestamp): number {
  return Math.max(0, time.seconds * 1000 + Math.floor(time.nanoseconds / 1_000_000));
}

/** Errors: ENOSYS when the library lost the time. */
export function timestampOf(milliseconds: number): Timestamp {
  if (Number.isNaN(milliseconds)) throw new FsError('ENOSYS');
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanoseconds: (milliseconds - seconds * 1000) * 1_000_000 };
}

/** The library's counts are 32 bits: larger disks are shown in larger blocks. */
export function statfsOf(statistics: FileSystemStatistics): Statfs {
  let scale = 1;
  while (statistics.blocks / scale > UINT32_MAX) scale *= 2;
  const blocks = (count: number) => Math.floor(count / scale);
  const limited = (files: number) => Math.min(files, UINT32_MAX);
  return {
    bsize: statistics.blockBytes * scale,
    frsize: statistics.blockBytes * scale,
    blocks: blocks(statistics.blocks),
    bfree: blocks(statistics.blocksFree),
    bavail: blocks(statistics.blocksAvailable),
    files: limited(statistics.files),
    ffree: limited(statistics.filesFree),
    favail: limited(statistics.filesFree),
    namemax: statistics.nameBytesMax,
  };
}
