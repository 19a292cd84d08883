/**
 * Reads of large chunks, every byte verified.
 *
 * First touch: the whole chunk is read and checked against its size and SHA-256 (whole-chunks.ts), and the
 * CRC-32 of each 64 KiB block is remembered. Afterwards a read takes the blocks around its range, the whole
 * ones straight into the caller's memory, and compares their checksums. A chunk this process stored has its
 * checksums from then.
 *
 * Whatever is wrong on the short way (a checksum, a short file, an error) is never judged there: the whole
 * chunk is checked again, and a failed check is repeated under the chunk's lock, where no store can be
 * replacing the file. Only that verdict moves a file to quarantine.
 */

import { crc32 } from 'node:zlib';
import { FsError } from '../protocol/errors.ts';
import { type ChunkHash, CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';
import type { KeyedLock } from '../runtime/keyed-lock.ts';
import { openLru } from '../runtime/lru.ts';
import type { WorkerPool } from '../runtime/worker-pool.ts';
import { openDescriptors, readFully } from './descriptors.ts';
import { asDiskFailure } from './disk-error.ts';
import type { BlockChecksums, FileJobs } from './file-jobs.ts';
import type { ChunkHealth } from './interface.ts';
import { BLOCK_BYTES, chunkPath, type Layout } from './layout.ts';
import { type Chunk, openWholeChunks } from './whole-chunks.ts';

/** Checksum tables kept, by their size: 16 MiB are the tables of about 130 GiB of whole chunks. */
const TABLES_BYTES_MAX = 16 * 1024 * 1024;
/** What an entry costs beside its checksums: the key, two objects, the map. */
const TABLE_OVERHEAD_BYTES = 256;
const SCRATCH_BUFFERS_MAX = 32;

export interface Reader {
  /** See ChunkStore.read. */
  read(chunk: Chunk, offset: number, target: Buffer): Promise<void>;
  prefetch(chunk: Chunk): Promise<void>;
  verify(chunk: Chunk): Promise<ChunkHealth>;
  /** This process made the chunk durable, or found it so, and knows its checksums. */
  learn(chunk: Chunk, checksums: BlockChecksums): void;
  /** The chunk is known to be durable: this process saw to it. */
  isDurable(hash: ChunkHash): boolean;
  /** The file was removed, replaced or set aside. */
  forget(hash: ChunkHash): void;
  close(): void;
}

interface Table {
  readonly size: number;
  readonly checksums: BlockChecksums;
  readonly durable: boolean;
}

export interface ReaderOptions {
  readonly layout: Layout;
  readonly threads: WorkerPool<FileJobs>;
  readonly locks: KeyedLock<ChunkHash>;
  readonly onDamage: (hash: ChunkHash, reason: string) => void;
}

export function openReader({ layout, threads, locks, onDamage }: ReaderOptions): Reader {
  const tables = openLru<ChunkHash, Table>({ weightMax: TABLES_BYTES_MAX });
  const descriptors = openDescriptors((hash) => chunkPath(layout, hash));
  const wholes = openWholeChunks(load);
  const scratches: Buffer[] = [];

  function setTable(hash: ChunkHash, table: Table): void {
    tables.set(hash, table, TABLE_OVERHEAD_BYTES + table.checksums.byteLength);
  }

  function forget(hash: ChunkHash): void {
    tables.delete(hash);
    descriptors.forget(hash);
    wholes.forget(hash);
  }

  function check({ hash, size }: Chunk, target: Buffer, setAside: boolean) {
    return threads.run('check', { directory: layout.directory, hash, size, target, setAside });
  }

  async function load(chunk: Chunk, memory: Buffer): Promise<void> {
    try {
      let outcome = await check(chunk, memory, false);
      if (outcome.kind !== 'ok') {
        outcome = await locks.run(chunk.hash, async () => {
          const verdict = await check(chunk, memory, true);
          if (verdict.kind === 'missing' || (verdict.kind === 'bad' && verdict.setAside)) forget(chunk.hash);
          return verdict;
        });
      }
      if (outcome.kind !== 'ok') {
        const reason = outcome.kind === 'missing' ? 'its file is missing' : outcome.reason;
        onDamage(chunk.hash, reason);
        throw new FsError('EIO', `chunk ${chunk.hash}: ${reason}`);
      }
      const durable = tables.peek(chunk.hash)?.durable ?? false;
      setTable(chunk.hash, { size: chunk.size, checksums: outcome.checksums, durable });
    } catch (error) {
      throw asDiskFailure(error, `chunk ${chunk.hash} cannot be read`);
    }
  }

  /** Reads by blocks; answers false when anything is not as it should be. */
  async function readBlocks(chunk: Chunk, table: Table, offset: number, target: Buffer): Promise<boolean> {
    try {
      return await descriptors.use(chunk.hash, (descriptor) =>
        readRange({ descriptor, chunk, checksums: table.checksums, offset, target, withScratch }),
      );
    } catch {
      return false;
    }
  }

  async function withScratch(work: (scratch: Buffer) => Promise<boolean>): Promise<boolean> {
    const scratch = scratches.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
    try {
      return await work(scratch);
    } finally {
      if (scratches.length < SCRATCH_BUFFERS_MAX) scratches.push(scratch);
    }
  }

  return {
    async read(chunk, offset, target) {
      assert(offset >= 0 && offset + target.length <= chunk.size, 'a read lies inside its chunk');
      if (target.length === 0) return;
      const whole = wholes.peek(chunk);
      if (whole !== undefined) {
        whole.copy(target, 0, offset, offset + target.length);
        return;
      }
      const table = tables.get(chunk.hash);
      if (table?.size === chunk.size) {
        if (await readBlocks(chunk, table, offset, target)) return;
        descriptors.forget(chunk.hash);
      }
      await wholes.use(chunk, (data) => data.copy(target, 0, offset, offset + target.length));
    },
    async prefetch(chunk) {
      if (tables.peek(chunk.hash) === undefined) await wholes.prefetch(chunk);
    },
    async verify(chunk) {
      assert(chunk.size <= CHUNK_BYTES_MAX, 'a chunk has at most CHUNK_BYTES_MAX bytes');
      const outcome = await wholes.borrow((memory) => check(chunk, memory, false));
      return outcome.kind === 'bad' ? { kind: 'bad', reason: outcome.reason } : { kind: outcome.kind };
    },
    learn({ hash, size }, checksums) {
      setTable(hash, { size, checksums, durable: true });
    },
    isDurable: (hash) => tables.peek(hash)?.durable ?? false,
    forget,
    close: () => descriptors.close(),
  };
}

interface RangeRead {
  readonly descriptor: number;
  readonly chunk: Chunk;
  readonly checksums: BlockChecksums;
  readonly offset: number;
  readonly target: Buffer;
  readonly withScratch: (work: (scratch: Buffer) => Promise<boolean>) => Promise<boolean>;
}

/** The blocks around [offset, offset + target.length): whole ones directly, cut ones through scratch memory. */
async function readRange(request: RangeRead): Promise<boolean> {
  const { chunk, offset, target } = request;
  const end = offset + target.length;
  const firstBlock = Math.floor(offset / BLOCK_BYTES);
  const lastBlock = Math.floor((end - 1) / BLOCK_BYTES);
  const startsCut = offset % BLOCK_BYTES !== 0;
  const endsCut = end % BLOCK_BYTES !== 0 && end !== chunk.size;
  const parts: Promise<boolean>[] = [];
  if (startsCut) parts.push(readCutBlock(request, firstBlock));
  if (endsCut && !(startsCut && firstBlock === lastBlock)) parts.push(readCutBlock(request, lastBlock));
  const wholeFrom = startsCut ? firstBlock + 1 : firstBlock;
  const wholeTo = endsCut ? lastBlock : lastBlock + 1;
  if (wholeFrom < wholeTo) parts.push(readWholeBlocks(request, wholeFrom, wholeTo));
  // All of them end before this does: the descriptor and the memory are in use until then.
  const outcomes = await Promise.allSettled(parts);
  return outcomes.every((outcome) => outcome.status === 'fulfilled' && outcome.value);
}

async function readWholeBlocks(request: RangeRead, from: number, to: number): Promise<boolean> {
  const { descriptor, chunk, checksums, offset, target } = request;
  const start = from * BLOCK_BYTES;
  const end = Math.min(to * BLOCK_BYTES, chunk.size);
  const part = target.subarray(start - offset, end - offset);
  if (!(await readFully(descriptor, part, start))) return false;
  for (let block = from; block < to; block += 1) {
    const inPart = (block - from) * BLOCK_BYTES;
    if (crc32(part.subarray(inPart, inPart + BLOCK_BYTES)) !== checksums[block]) return false;
  }
  return true;
}

function readCutBlock(request: RangeRead, block: number): Promise<boolean> {
  const { descriptor, chunk, checksums, offset, target } = request;
  return request.withScratch(async (scratch) => {
    const start = block * BLOCK_BYTES;
    const data = scratch.subarray(0, Math.min(BLOCK_BYTES, chunk.size - start));
    if (!(await readFully(descriptor, data, start))) return false;
    if (crc32(data) !== checksums[block]) return false;
    const from = Math.max(offset, start);
    const to = Math.min(offset + target.length, start + data.length);
    data.copy(target, from - offset, from - start, to - start);
    return true;
  });
}
