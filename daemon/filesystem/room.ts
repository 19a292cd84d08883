/**
 * Room for content: what fallocate set aside is kept free for the files it was set aside for.
 *
 * A write takes no new room where its range was set aside. Every other write must leave alone what is set aside
 * anywhere and what was accepted but is still in memory. Set aside is counted with a share for metadata, because
 * content that comes in small pieces needs rows and log entries too.
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
  /** Bytes set aside, with their share for metadata. */
  kept(): number;
}

export function openRoom({ metadata, chunks, data }: Omit<Context, 'room'>): Room {
  const { reads } = metadata;

  function kept(): number {
    return Math.ceil(metadata.status().allocatedBytes * (1 + METADATA_SHARE));
  }

  function take(bytes: number): void {
    const promised = kept();
    chunks.reserve(bytes, promised === 0 ? 0 : promised + data.dirtyBytes());
  }

  return {
    write(inode, offset, length) {
      const unpromised = length - reads.allocated(inode, offset, offset + length);
      if (unpromised > 0) take(unpromised);
    },
    take,
    kept,
  };
}
