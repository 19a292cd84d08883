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

import { FsError } from '../protocol/errors.ts';
import { type ChunkHash, CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { assert, defined } from '../runtime/assert.ts';
import type { KeyedLock } from '../runtime/keyed-lock.ts';
import { openLru } from '../runtime/lru.ts';
import { openPace } from '../runtime/pace.ts';
import type { WorkerPool } from '../runtime/worker-pool.ts';
import { type ChecksumTable, planBlockRead, SCRATCH_BYTES } from './block-reads.ts';
import type { BlockSums } from './block-sums.ts';
import { type BlockChecksums, blockBytesOf } from './checksums.ts';
import { openDescriptors, readParts, readPartsSync } from './descriptors.ts';
import { asDiskFailure } from './disk-error.ts';
import type { CheckOutcome, FileJobs } from './file-jobs.ts';
import { type ChunkHealth, ChunkLostError } from './interface.ts';
import { chunkPath, type Layout } from './layout.ts';
import { type Chunk, openWholeChunks } from './whole-chunks.ts';

/** Checksum tables in memory, by their size: 16 MiB are the tables of about 15 GiB of whole chunks. */
const TABLES_BYTES_MAX = 16 * 1024 * 1024;
/** What an entry costs beside its checksums: the key, two objects, the map. */
const TABLE_OVERHEAD_BYTES = 256;
const SCRATCH_BUFFERS_MAX = 32;
const MISSING = 'its file is missing';
/** Longer reads always go to a thread: the disk's time for them would be felt by others. */
const READ_AT_ONCE_BYTES_MAX = 32 * 1024;

export interface Reader {
  /** See ChunkStore.read. */
  read(chunk: Chunk, offset: number, target: Buffer): Promise<void>;
  /** See ChunkStore.readAtOnce. */
  readAtOnce(chunk: Chunk, offset: number, target: Buffer): boolean;
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

interface Table extends ChecksumTable {
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
  const ownScratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
  const pace = openPace();

  function setTable({ hash, size }: Chunk, checksums: BlockChecksums, durable: boolean): Table {
    const blockBytes = defined(blockBytesOf(size, checksums.length), 'a table has a sum for each block');
    const table = { size, blockBytes, checksums, durable };
    tables.set(hash, table, TABLE_OVERHEAD_BYTES + checksums.byteLength);
    return table;
  }

  function tableOf(chunk: Chunk): Table | undefined {
    const known = tables.get(chunk.hash);
    if (known !== undefined) return known.size === chunk.size ? known : undefined;
    // A thread opens the file while this one looks into small.db.
    descriptors.prepare(chunk.hash);
    const checksums = blockSums.read(chunk);
    if (checksums === undefined) return undefined;
    return setTable(chunk, checksums, false);
  }

  /** Also into small.db, unless it has them. */
  function learnTable(chunk: Chunk, checksums: BlockChecksums, durable: boolean): void {
    const known = tables.peek(chunk.hash)?.checksums;
    const same = known?.length === checksums.length && known.every((sum, block) => sum === checksums[block]);
    if (!same) blockSums.keep(chunk, checksums);
    setTable(chunk, checksums, durable);
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
    const scratch = scratches.pop() ?? Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    try {
      return await descriptors.use(chunk.hash, async ({ descriptor, size }) => {
        if (size !== chunk.size) return false;
        const plan = planBlockRead(table, offset, target, scratch);
        return (await readParts(descriptor, plan.parts, plan.position)) && plan.verified();
      });
    } catch {
      return false;
    } finally {
      if (scratches.length < SCRATCH_BUFFERS_MAX) scratches.push(scratch);
    }
  }

  function readAtOnce(chunk: Chunk, offset: number, target: Buffer): boolean {
    if (target.length > READ_AT_ONCE_BYTES_MAX || target.length === 0) return false;
    const table = tables.get(chunk.hash);
    const file = descriptors.opened(chunk.hash);
    if (table === undefined || file === undefined) return false;
    if (table.size !== chunk.size || file.size !== chunk.size) return false;
    const { descriptor } = file;
    const plan = planBlockRead(table, offset, target, ownScratch);
    try {
      return pace.run(() => readPartsSync(descriptor, plan.parts, plan.position)) === true && plan.verified();
    } catch {
      return false;
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
    readAtOnce,
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
