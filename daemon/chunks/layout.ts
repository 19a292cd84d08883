/**
 * Names and limits of the chunk store on disk:
 *
 *   DIR/chunks/ab/cd/<hash>      a large chunk: exactly its bytes; ab and cd are the hash's first digits
 *   DIR/tmp/<number>             a chunk being written; cleared when the store opens
 *   DIR/quarantine/<hash>.<n>    content that was not what its name says, kept for a person to look at
 *   DIR/small.db                 small chunks, and the block checksums of large ones (SQLite)
 */

import { join } from 'node:path';
import type { ChunkHash } from '../protocol/ids.ts';

/**
 * A CRC-32 guards each block of this size, the page that programs read at random: a read of 4 KiB from a cold disk took
 * 135 and 162 µs, of 16 KiB 154 and 173, of 64 KiB 222 (medians, in turn). The table of a whole chunk is 4 KiB.
 */
export const BLOCK_BYTES = 4096;
/** Of tables written before; they are understood for as long as their chunks live. */
export const OLD_BLOCK_BYTES = 16 * 1024;
export const SMALL_DB = 'small.db';
/** Version of small.db's schema, kept in `PRAGMA user_version`. */
export const SMALL_DB_VERSION = 2;

export interface Layout {
  readonly directory: string;
  readonly chunks: string;
  readonly temporary: string;
  readonly quarantine: string;
  readonly smallDb: string;
}

export function layoutOf(directory: string): Layout {
  return {
    directory,
    chunks: join(directory, 'chunks'),
    temporary: join(directory, 'tmp'),
    quarantine: join(directory, 'quarantine'),
    smallDb: join(directory, SMALL_DB),
  };
}

/** The directory of a chunk below `chunks/`: `ab/cd`. */
export function shardOf(hash: ChunkHash): string {
  return `${hash.slice(0, 2)}/${hash.slice(2, 4)}`;
}

export function chunkPath(layout: Layout, hash: ChunkHash): string {
  return `${layout.chunks}/${shardOf(hash)}/${hash}`;
}

const HASH_PATTERN = /^[0-9a-f]{64}$/;

export function isChunkHash(text: string): text is ChunkHash {
  return HASH_PATTERN.test(text);
}
