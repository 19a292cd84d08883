/**
 * The CRC-32 tables of chunk files, kept in small.db so that a new process can verify a read of 4 KiB without
 * reading the 4 MiB around it.
 *
 * Why a table can be trusted. It is found from the very bytes whose SHA-256 names the chunk, when they are stored
 * or when the whole chunk was just checked; and bytes with a name never change, so a table is never out of date.
 * A block whose CRC-32 fails is not judged by it: the whole chunk is checked against its hash, and the table
 * replaced when the chunk is right. A CRC-32 lets one random change in 4,294,967,296 through and guards against
 * accidents only, as the checks of blocks read again in one process always did; a file put there on purpose is
 * found by `verify`, fsck --data and repair, which compare the SHA-256.
 *
 * Nobody waits for a table to be written. Tables gather in memory and go to the small-chunk thread together; a
 * crash loses the last second of them, and the first read of those chunks checks them whole and keeps the table.
 * A table left behind by a crash between the removal of its chunk and its own is still right for its hash: 4 KiB
 * of waste until that content is stored and removed again.
 */

import type { DatabaseSync } from 'node:sqlite';
import type { ChunkHash } from '../protocol/ids.ts';
import type { WorkerPool } from '../runtime/worker-pool.ts';
import { type BlockChecksums, blockBytesOf } from './checksums.ts';
import { HASH_BYTES, packHashes, type SmallJobs } from './small-jobs.ts';

const FLUSH_AFTER_MS = 1000;
const FLUSH_TABLES = 256;
/** While a write is slow, more are dropped: they cost a check later, not memory now. */
const WAITING_TABLES_MAX = 4096;

interface Table {
  readonly size: number;
  readonly checksums: BlockChecksums;
}

export interface BlockSums {
  /** The checksums of a chunk of `size` bytes, if they are known. Looks into small.db. Never throws. */
  read(chunk: { hash: ChunkHash; size: number }): BlockChecksums | undefined;
  keep(chunk: { hash: ChunkHash; size: number }, checksums: BlockChecksums): void;
  /** The chunks are being removed: what waits is not written. */
  forget(hashes: readonly ChunkHash[]): void;
  /** Writes what waits. */
  close(): Promise<void>;
}

export function openBlockSums(database: DatabaseSync, thread: WorkerPool<SmallJobs>): BlockSums {
  const select = database.prepare('SELECT size, sums FROM block_sums WHERE hash = ?');
  const key = Buffer.alloc(HASH_BYTES);
  const waiting = new Map<ChunkHash, Table>();
  let writing: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;

  function flush(): void {
    clearTimeout(timer);
    timer = undefined;
    writing ??= writeAll().finally(() => {
      writing = undefined;
    });
  }

  async function writeAll(): Promise<void> {
    while (waiting.size > 0) {
      const batch = [...waiting].slice(0, FLUSH_TABLES);
      for (const [hash] of batch) waiting.delete(hash);
      try {
        await thread.run('keepSums', pack(batch));
      } catch {
        // A full or failing disk: without a table the next process checks the whole chunk, as for a lost one.
        return;
      }
    }
  }

  return {
    read({ hash, size }) {
      const own = waiting.get(hash);
      if (own?.size === size) return own.checksums;
      try {
        key.write(hash, 'hex');
        const row = select.get(key);
        if (row === undefined || row['size'] !== size || !(row['sums'] instanceof Uint8Array))
          return undefined;
        const bytes = Uint8Array.from(row['sums']);
        if (bytes.length % Uint32Array.BYTES_PER_ELEMENT !== 0) return undefined;
        const checksums = new Uint32Array(bytes.buffer);
        return blockBytesOf(size, checksums.length) === undefined ? undefined : checksums;
      } catch {
        return undefined;
      }
    },
    keep({ hash, size }, checksums) {
      if (waiting.size >= WAITING_TABLES_MAX) return;
      waiting.set(hash, { size, checksums });
      if (waiting.size >= FLUSH_TABLES) flush();
      else timer ??= setTimeout(flush, FLUSH_AFTER_MS).unref();
    },
    forget(hashes) {
      for (const hash of hashes) waiting.delete(hash);
    },
    async close() {
      flush();
      await writing;
    },
  };
}

function pack(batch: readonly (readonly [ChunkHash, Table])[]): SmallJobs['keepSums']['job'] {
  const lengths = Uint32Array.from(batch, ([, { checksums }]) => checksums.length);
  const sums = new Uint32Array(lengths.reduce((sum, length) => sum + length, 0));
  let first = 0;
  for (const [, { checksums }] of batch) {
    sums.set(checksums, first);
    first += checksums.length;
  }
  return {
    hashes: packHashes(batch.map(([hash]) => hash)),
    sizes: Float64Array.from(batch, ([, { size }]) => size),
    lengths,
    sums,
  };
}
