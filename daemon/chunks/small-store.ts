/**
 * Small chunks: rows of small.db. Reads are synchronous on the event loop (some microseconds from the page
 * cache, then SHA-256 over at most 64 KiB); writes go to a thread, and while one transaction runs, further
 * chunks gather and make the next.
 */

import { hash as digest } from 'node:crypto';
import type { DatabaseSync } from 'node:sqlite';
import { FsError } from '../protocol/errors.ts';
import { type ChunkHash, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';
import { openWorkerPool } from '../runtime/worker-pool.ts';
import { workerUrl } from '../runtime/worker-url.ts';
import { type BlockSums, openBlockSums } from './block-sums.ts';
import { asDiskFailure } from './disk-error.ts';
import type { ChunkHealth, SmallChunk } from './interface.ts';
import { asSystemError } from './small-db.ts';
import { HASH_BYTES, packHashes, type SmallJobs } from './small-jobs.ts';

/** One transaction takes calls until their data exceeds this. */
const TRANSACTION_BYTES = 8 * 1024 * 1024;
const SETTLE_BYTES_IN_FLIGHT_MAX = 128 * 1024 * 1024;

export interface SmallStore {
  read(hash: ChunkHash): Uint8Array | undefined;
  settle(chunks: readonly SmallChunk[]): Promise<void>;
  /** Deletes those that are there, and the block checksums of all; answers when the former is durable. */
  remove(hashes: readonly ChunkHash[]): Promise<void>;
  verify(hash: ChunkHash): ChunkHealth;
  size(hash: ChunkHash): number | undefined;
  list(): IterableIterator<{ hash: ChunkHash; size: number }>;
  readonly blockSums: BlockSums;
  close(): Promise<void>;
}

interface Settlement {
  readonly chunks: readonly SmallChunk[];
  readonly bytes: number;
  readonly answer: PromiseWithResolvers<void>;
}

export function openSmallStore(options: {
  database: DatabaseSync;
  path: string;
  onDamage: (hash: ChunkHash, reason: string) => void;
}): SmallStore {
  const { database, onDamage } = options;
  const thread = openWorkerPool<SmallJobs>({
    url: workerUrl(import.meta.url, './small-worker'),
    threads: 1,
    name: 'small chunks',
    workerData: { path: options.path },
  });
  const blockSums = openBlockSums(database, thread);
  const select = database.prepare('SELECT data FROM small_chunk WHERE hash = ?');
  // A row is one column: no object with a name for it.
  select.setReturnArrays(true);
  /** The hash being looked up: SQLite is done with it when the call returns. */
  const key = Buffer.alloc(HASH_BYTES);
  const selectSize = database.prepare('SELECT length(data) AS size FROM small_chunk WHERE hash = ?');
  const selectAfter = database.prepare(
    'SELECT hash, length(data) AS size FROM small_chunk WHERE hash > ? ORDER BY hash LIMIT 1000',
  );
  let waiting: Settlement[] = [];
  let bytesInFlight = 0;
  let running = false;

  function rowOf(hash: ChunkHash): Uint8Array | undefined {
    key.write(hash, 'hex');
    const row: unknown = select.get(key);
    const data: unknown = Array.isArray(row) ? row[0] : undefined;
    assert(data === undefined || data instanceof Uint8Array, 'small_chunk.data is a BLOB');
    return data;
  }

  function damaged(hash: ChunkHash, reason: string): FsError {
    onDamage(hash, reason);
    return new FsError('EIO', `small chunk ${hash}: ${reason}`);
  }

  async function run(): Promise<void> {
    running = true;
    while (waiting.length > 0) {
      const batch: Settlement[] = [];
      let bytes = 0;
      while (bytes < TRANSACTION_BYTES) {
        const next = waiting.shift();
        if (next === undefined) break;
        batch.push(next);
        bytes += next.bytes;
      }
      await settleBatch(batch);
      bytesInFlight -= bytes;
    }
    running = false;
  }

  async function settleBatch(batch: readonly Settlement[]): Promise<void> {
    const chunks = batch.flatMap((settlement) => settlement.chunks);
    try {
      const job = pack(chunks);
      const { refused } = await thread.run('settle', job, [job.data.buffer]);
      const refusedHashes = new Set(refused.map((index) => chunks[index]?.hash));
      for (const { chunks: own, answer } of batch) {
        const wrong = own.find(({ hash }) => refusedHashes.has(hash));
        if (wrong === undefined) answer.resolve();
        else answer.reject(damaged(wrong.hash, 'the bytes to settle do not have its hash'));
      }
    } catch (error) {
      for (const { answer } of batch)
        answer.reject(asDiskFailure(error, 'small chunks could not be written'));
    }
  }

  return {
    read(hash) {
      let data: Uint8Array | undefined;
      try {
        data = rowOf(hash);
      } catch (error) {
        throw damaged(hash, `small.db cannot be read (${asSystemError(error).message})`);
      }
      if (data === undefined) return undefined;
      if (digest('sha256', data) !== hash) throw damaged(hash, 'its bytes do not have its hash');
      return data;
    },
    settle(chunks) {
      const bytes = chunks.reduce((sum, { data }) => sum + data.length, 0);
      assert(
        chunks.every(({ data }) => data.length > 0 && data.length <= SMALL_CHUNK_BYTES_MAX),
        'a small chunk has 1 to SMALL_CHUNK_BYTES_MAX bytes',
      );
      bytesInFlight += bytes;
      assert(
        bytesInFlight <= SETTLE_BYTES_IN_FLIGHT_MAX,
        'the bytes waiting to settle are bounded by the caller',
      );
      const answer = Promise.withResolvers<void>();
      waiting.push({ chunks, bytes, answer });
      if (!running) void run();
      return answer.promise;
    },
    async remove(hashes) {
      if (hashes.length === 0) return;
      blockSums.forget(hashes);
      try {
        await thread.run('remove', { hashes: packHashes(hashes) });
      } catch (error) {
        throw asDiskFailure(error, 'small chunks could not be removed');
      }
    },
    verify(hash) {
      try {
        const data = rowOf(hash);
        if (data === undefined) return { kind: 'missing' };
        if (digest('sha256', data) === hash) return { kind: 'ok' };
        return { kind: 'bad', reason: 'its bytes do not have its hash' };
      } catch (error) {
        return { kind: 'bad', reason: `small.db cannot be read (${asSystemError(error).message})` };
      }
    },
    size: (hash) => sizeOf(selectSize.get(Buffer.from(hash, 'hex'))),
    *list() {
      // Page by page: a statement left open over an await would keep the WAL from being checkpointed.
      let after: Uint8Array = new Uint8Array(1);
      for (;;) {
        const rows = selectAfter.all(after);
        if (rows.length === 0) return;
        for (const row of rows) {
          assert(row['hash'] instanceof Uint8Array, 'small_chunk.hash is a BLOB');
          after = row['hash'];
          yield { hash: Buffer.from(after).toString('hex') as ChunkHash, size: sizeOf(row) ?? 0 };
        }
      }
    },
    blockSums,
    async close() {
      await blockSums.close();
      database.close();
      await thread.run('close', undefined);
      await thread.close();
    },
  };
}

function sizeOf(row: Record<string, unknown> | undefined): number | undefined {
  return row === undefined ? undefined : Number(row['size']);
}

function pack(chunks: readonly SmallChunk[]) {
  const lengths = Uint32Array.from(chunks, ({ data }) => data.length);
  // Memory of its own, so that it can move to the thread; every byte is set below.
  const data = Buffer.allocUnsafeSlow(lengths.reduce((sum, length) => sum + length, 0));
  let offset = 0;
  for (const chunk of chunks) {
    data.set(chunk.data, offset);
    offset += chunk.data.length;
  }
  return { hashes: packHashes(chunks.map(({ hash }) => hash)), lengths, data };
}
