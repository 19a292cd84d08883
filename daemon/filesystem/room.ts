/**
 * Room for content: what fallocate set aside is kept free for the files it was set aside for.
 *
 * A write takes no new room where its range was set aside. Every other write must leave alone what is set aside
 * anywhere and what was accepted but is still in memory. Set aside is counted with a share for metadata, because
 * content that comes in small pieces needs rows and log entries too.
 *
 * In a cluster every node keeps its disk's share of what is set aside, because chunks spread over all disks.
 *
 * What it does not promise: an overwrite of content needs new room until the old chunk is collected, because chunks
 * are immutable. That is so for a range that was set aside and written once, too.
 */

import type { Inode } from '../protocol/ids.ts';
import type { Context } from './context.ts';

/** Room kept beyond what is set aside, for rows and log entries. */
const METADATA_SHARE = 1 / 16;

export interface Room {
  /** Errors: FsError ENOSPC when the write would use room that is kept for others. */
  write(inode: Inode, offset: number, length: number): void;
  /** As `write`, for new content of any file. */
  take(bytes: number): void;
  /** As `take`, for room of any file that is about to be set aside. */
  setAside(bytes: number): void;
  /** Bytes set aside in the whole file system, with their share for metadata. */
  kept(): number;
}

export function openRoom({ metadata, chunks, data, cluster }: Omit<Context, 'room'>): Room {
  const { reads } = metadata;

  function kept(): number {
    return Math.ceil(metadata.status().allocatedBytes * (1 + METADATA_SHARE));
  }

  /** Part of the bytes of all files that this disk will get. */
  function here(bytes: number): number {
    const all = cluster?.usage()?.diskBytes ?? 0;
    const own = chunks.usage().diskBytes;
    return own < all ? Math.ceil(bytes * (own / all)) : bytes;
  }

  function take(bytes: number): void {
    const promised = kept();
    chunks.reserve(bytes, promised === 0 ? 0 : here(promised) + data.dirtyBytes());
  }

  return {
    write(inode, offset, length) {
      const unpromised = length - reads.allocated(inode, offset, offset + length);
      if (unpromised > 0) take(unpromised);
    },
    take,
    setAside: (bytes) => take(here(bytes)),
    kept,
  };
}
