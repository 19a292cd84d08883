/**
 * Reads of large chunks, every byte verified.
 *
 * A read takes the blocks around its range, with one system call and the whole ones straight into the caller's
 * memory, and compares their CRC-32 with the chunk's table. The table is in memory, or in small.db since the chunk
 * was stored (block-sums.ts says why that is enough). Without a table (a crash came before it was written) the
 * whole chunk is read and checked against its size and SHA-256 (whole-chunks.ts), and its table kept.
 *
 * Whatever is wrong on the short way (a checksum, a short file, an error) is never judged there: the whole
 * chunk is checked against its hash, and a failed check is repeated under the chunk's lock, where no store can be
 * replacing the file. Only that verdict moves a file to quarantine.
 */

import { crc32 } from 'node:zlib';
import { FsError } from '../protocol/errors.ts';
import { type ChunkHash, CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';
import type { KeyedLock } from '../runtime/keyed-lock.ts';
import { openLru } from '../runtime/lru.ts';
import type { WorkerPool } from '../runtime/worker-pool.ts';
import { openDescriptors, readParts } from './descriptors.ts';
import type { BlockSums } from './block-sums.ts';
import { asDiskFailure } from './disk-error.ts';
import type { BlockChecksums, CheckOutcome, FileJobs } from './file-jobs.ts';
import { type ChunkHealth, ChunkLostError } from './interface.ts';
import { BLOCK_BYTES, chunkPath, type Layout } from './layout.ts';
import { type Chunk, openWholeChunks } from './whole-chunks.ts';

/** Checksum tables in memory, by their size: 16 MiB are the tables of about 50 GiB of whole chunks. */
const TABLES_BYTES_MAX = 16 * 1024 * 1024;
/** What an entry costs beside its checksums: the key, two objects, the map. */
const TABLE_OVERHEAD_BYTES = 256;
const SCRATCH_BUFFERS_MAX = 32;
const MISSING = 'its file is missing';

export interface Reader {
  /** See ChunkStore.read. */
  read(chunk: Chunk, offset: number, target: Buffer): Promise<void>;
  prefetch(chunk: Chunk): Promise<void>;
  /** `setAside`: what is damaged is moved to quarantine and reported. */
  verify(chunk: Chunk, setAside: boolean): Promise<ChunkHealth>;
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
  readonly blockSums: BlockSums;
  readonly onDamage: (hash: ChunkHash, reason: string) => void;
  /** Report chunks that are not here: false where other nodes may have them. */
  readonly missingIsDamage: boolean;
}

export function openReader(options: ReaderOptions): Reader {
  const { layout, threads, locks, blockSums, onDamage } = options;
  const tables = openLru<ChunkHash, Table>({ weightMax: TABLES_BYTES_MAX });
  const descriptors = openDescriptors((hash) => chunkPath(layout, hash));
  const wholes = openWholeChunks(load);
  const scratches: Buffer[] = [];

  function setTable(hash: ChunkHash, table: Table): void {
    tables.set(hash, table, TABLE_OVERHEAD_BYTES + table.checksums.byteLength);
  }

  function tableOf(chunk: Chunk): Table | undefined {
    const known = tables.get(chunk.hash);
    if (known !== undefined) return known.size === chunk.size ? known : undefined;
    // A thread opens the file while this one looks into small.db.
    descriptors.prepare(chunk.hash);
    const checksums = blockSums.read(chunk);
    if (checksums === undefined) return undefined;
    const table = { size: chunk.size, checksums, durable: false };
    setTable(chunk.hash, table);
    return table;
  }

  /** Also into small.db, unless it has them. */
  function learnTable(chunk: Chunk, checksums: BlockChecksums, durable: boolean): void {
    const known = tables.peek(chunk.hash)?.checksums;
    const same = known?.length === checksums.length && known.every((sum, block) => sum === checksums[block]);
    if (!same) blockSums.keep(chunk, checksums);
    setTable(chunk.hash, { size: chunk.size, checksums, durable });
  }

  function forget(hash: ChunkHash): void {
    tables.delete(hash);
    descriptors.forget(hash);
    wholes.forget(hash);
  }

  function check({ hash, size }: Chunk, target: Buffer, setAside: boolean) {
    return threads.run('check', { directory: layout.directory, hash, size, target, setAside });
  }

  /** Checks again where no store can be replacing the file; what is damaged is set aside. */
  function judge(chunk: Chunk, memory: Buffer): Promise<CheckOutcome> {
    return locks.run(chunk.hash, async () => {
      const verdict = await check(chunk, memory, true);
      if (verdict.kind === 'missing' || (verdict.kind === 'bad' && verdict.setAside)) forget(chunk.hash);
      return verdict;
    });
  }

  async function load(chunk: Chunk, memory: Buffer): Promise<void> {
    try {
      let outcome = await check(chunk, memory, false);
      if (outcome.kind !== 'ok') {
        outcome = await judge(chunk, memory);
      }
      if (outcome.kind === 'missing') {
        if (options.missingIsDamage) onDamage(chunk.hash, MISSING);
        throw new ChunkLostError('missing', `chunk ${chunk.hash}: ${MISSING}`);
      }
      if (outcome.kind === 'bad') {
        onDamage(chunk.hash, outcome.reason);
        const detail = `chunk ${chunk.hash}: ${outcome.reason}`;
        throw outcome.setAside ? new ChunkLostError('damaged', detail) : new FsError('EIO', detail);
      }
      const durable = tables.peek(chunk.hash)?.durable ?? false;
      learnTable(chunk, outcome.checksums, durable);
    } catch (error) {
      throw asDiskFailure(error, `chunk ${chunk.hash} cannot be read`);
    }
  }

  /** Reads by blocks; answers false when anything is not as it should be. */
  async function readBlocks(chunk: Chunk, table: Table, offset: number, target: Buffer): Promise<boolean> {
    try {
      return await descriptors.use(chunk.hash, async ({ descriptor, size }) => {
        if (size !== chunk.size) return false;
        return readRange({ descriptor, chunk, checksums: table.checksums, offset, target, withScratch });
      });
    } catch {
      return false;
    }
  }

  async function withScratch(work: (scratch: Buffer) => Promise<boolean>): Promise<boolean> {
    const scratch = scratches.pop() ?? Buffer.allocUnsafeSlow(2 * BLOCK_BYTES);
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
      const table = tableOf(chunk);
      if (table !== undefined) {
        if (await readBlocks(chunk, table, offset, target)) return;
        descriptors.forget(chunk.hash);
      }
      await wholes.use(chunk, (data) => data.copy(target, 0, offset, offset + target.length));
    },
    async prefetch(chunk) {
      if (tableOf(chunk) === undefined) await wholes.prefetch(chunk);
      else descriptors.prepare(chunk.hash);
    },
    async verify(chunk, setAside) {
      assert(chunk.size <= CHUNK_BYTES_MAX, 'a chunk has at most CHUNK_BYTES_MAX bytes');
      const outcome = await wholes.borrow(async (memory) => {
        const first = await check(chunk, memory, false);
        return setAside && first.kind === 'bad' ? judge(chunk, memory) : first;
      });
      if (setAside && outcome.kind === 'bad') onDamage(chunk.hash, outcome.reason);
      return outcome.kind === 'bad' ? { kind: 'bad', reason: outcome.reason } : { kind: outcome.kind };
    },
    learn: (chunk, checksums) => learnTable(chunk, checksums, true),
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
function readRange(request: RangeRead): Promise<boolean> {
  const { descriptor, chunk, checksums, offset, target } = request;
  const end = offset + target.length;
  const start = offset - (offset % BLOCK_BYTES);
  // What ends with the chunk ends its last, shorter block.
  const lastStart = end === chunk.size ? end : end - (end % BLOCK_BYTES);
  const lastEnd = Math.min(lastStart + BLOCK_BYTES, chunk.size);
  const startsCut = offset !== start;
  const endsCut = end !== lastStart;
  if (!startsCut && !endsCut) return readVerified(descriptor, [target], start, checksums);
  return request.withScratch(async (scratch) => {
    const firstEnd = startsCut ? Math.min(start + BLOCK_BYTES, chunk.size) : start;
    if (end <= firstEnd || lastStart <= start) {
      // One block holds it all.
      const block = scratch.subarray(0, Math.min(start + BLOCK_BYTES, chunk.size) - start);
      if (!(await readVerified(descriptor, [block], start, checksums))) return false;
      block.copy(target, 0, offset - start, end - start);
      return true;
    }
    const head = scratch.subarray(0, firstEnd - start);
    const middle = target.subarray(startsCut ? firstEnd - offset : 0, lastStart - offset);
    const tail = scratch.subarray(BLOCK_BYTES, BLOCK_BYTES + (endsCut ? lastEnd - lastStart : 0));
    const parts = [head, middle, tail].filter((part) => part.length > 0);
    if (!(await readVerified(descriptor, parts, start, checksums))) return false;
    if (startsCut) head.copy(target, 0, offset - start);
    if (endsCut) tail.copy(target, lastStart - offset, 0, end - lastStart);
    return true;
  });
}

/** `start` is a block's; each part but the last is a whole number of blocks. */
async function readVerified(
  descriptor: number,
  parts: readonly Buffer[],
  start: number,
  checksums: BlockChecksums,
): Promise<boolean> {
  if (!(await readParts(descriptor, parts, start))) return false;
  let block = start / BLOCK_BYTES;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += BLOCK_BYTES) {
      if (crc32(part.subarray(at, at + BLOCK_BYTES)) !== checksums[block]) return false;
      block += 1;
    }
  }
  return true;
}
