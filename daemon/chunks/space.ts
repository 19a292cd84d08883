/**
 * The free-space guard. The disk that holds the chunks also holds the metadata, and a metadata database that
 * cannot write cannot even delete: so chunks are refused while a reserve is still free.
 *
 * statfs is asked once in a short while; between two answers the guard subtracts what was promised. Close to
 * the limit it asks again before it refuses, so that freed space is seen at once.
 */

import { statfsSync } from 'node:fs';
import { FsError } from '../protocol/errors.ts';
import type { Clock } from '../runtime/clock.ts';
import type { ChunkUsage } from './interface.ts';

const RESERVE_BYTES_MAX = 256 * 1024 * 1024;
const RESERVE_BYTES_MIN = 8 * 1024 * 1024;
const RESERVE_SHARE = 0.05;
const STATFS_AGE_MS_MAX = 250;

export interface SpaceGuard {
  /** Throws FsError ENOSPC when `bytes` more would go below the reserve and `kept` bytes; else counts them as used. */
  reserve(bytes: number, kept?: number): void;
  /**
   * As `reserve`, where `unwritten` bytes that were let through before have not reached the disk yet. Data that room
   * was `promised` for may use half of the reserve: what came between (log, rows) must not break the promise.
   */
  admit(bytes: number, options: { unwritten: number; promised: boolean }): void;
  usage(): ChunkUsage;
}

export function openSpaceGuard(directory: string, clock: Clock): SpaceGuard {
  let cached: ChunkUsage | undefined;
  let askedAtMs = 0;
  let reservedSince = 0;
  let reserveBytes = 0;

  function ask(): ChunkUsage {
    const { bsize, blocks, bavail } = statfsSync(directory);
    const diskBytes = blocks * bsize;
    const diskFreeBytes = bavail * bsize;
    reserveBytes = Math.max(RESERVE_BYTES_MIN, Math.min(RESERVE_BYTES_MAX, diskBytes * RESERVE_SHARE));
    cached = {
      diskBytes,
      diskFreeBytes,
      availableBytes: Math.max(0, Math.floor(diskFreeBytes - reserveBytes)),
    };
    askedAtMs = clock.monotonicMs();
    reservedSince = 0;
    return cached;
  }

  function current(): ChunkUsage {
    if (cached === undefined || clock.monotonicMs() - askedAtMs > STATFS_AGE_MS_MAX) return ask();
    return cached;
  }

  function require(bytes: number): void {
    if (current().availableBytes - reservedSince >= bytes) return;
    if (ask().availableBytes < bytes) {
      throw new FsError('ENOSPC', `${bytes} bytes more would use space that is kept for metadata`);
    }
  }

  return {
    reserve(bytes, kept = 0) {
      require(bytes + kept);
      reservedSince += bytes;
    },
    admit(bytes, { unwritten, promised }) {
      const more = bytes + unwritten;
      if (!promised || ask().diskFreeBytes - reserveBytes / 2 < more) require(more);
      reservedSince += bytes;
    },
    usage() {
      const usage = current();
      return { ...usage, availableBytes: Math.max(0, usage.availableBytes - reservedSince) };
    },
  };
}
