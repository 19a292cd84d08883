/**
 * `fsck`: are the metadata whole, and is every chunk there and right?
 *
 * The metadata are checked rule by rule (metadata/check.ts). Then every chunk that they name is looked for:
 * present and of the right size, or with `data` read and compared with its hash. Then every chunk on the disk
 * that nothing names is counted as waste (removed by `repair`).
 *
 * Before that every page of meta.db is compared with its sum (metadata/page-sums.ts), and what is damaged is put back
 * from its copy (metadata/page-copy.ts), also without `repair`: a start does the same.
 *
 * On a stopped daemon's directory this opens the storage, which applies the log first, so that the check sees
 * everything that was acknowledged. In a running daemon a worker thread reads the metadata on snapshots, and
 * what is found missing is looked at twice, because files change meanwhile.
 */

import * as path from 'node:path';
import type { ChunkHealth, ChunkStore } from '../chunks/interface.ts';
import type { CheckedChunk } from '../metadata/check.ts';
import type { Metadata } from '../metadata/metadata.ts';
import { hashFromBytes } from '../metadata/rows.ts';
import { FINDINGS_MAX, type Finding, type FsckResult, type Progress } from '../protocol/control-api.ts';
import { type ChunkHash, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { openNodeStorage } from '../storage/node-storage.ts';
import { metadataHere, metadataInWorker } from './metadata-source.ts';

/** Chunks verified at once. */
const VERIFY_PARALLEL = 4;
const SETTLE_BATCH_BYTES = 4 * 1024 * 1024;
/** Paths are looked up for this many damaged chunks; each costs a scan. */
const PATHS_FOR_CHUNKS_MAX = 50;
/** A running daemon is given its turn after this many chunks; a multiple of VERIFY_PARALLEL. */
const YIELD_EVERY = 64;

export interface FsckOptions {
  readonly data: boolean;
  readonly repair: boolean;
  readonly signal?: AbortSignal;
  readonly progress?: (progress: Progress) => void;
}

/** Checks the data directory of a stopped daemon. Errors: those of opening it (in use, damaged, missing). */
export async function fsckDirectory(
  directory: string,
  options: FsckOptions & { log: Log; clock: Clock },
): Promise<FsckResult> {
  const storage = await openNodeStorage({
    directory,
    log: options.log,
    clock: options.clock,
    salvage: options.repair,
  });
  try {
    await settleAll(storage.metadata, storage.chunks);
    await storage.metadata.commit();
    const result = await check(path.join(directory, 'meta.db'), storage, options, { live: false });
    return result;
  } finally {
    await storage.close();
  }
}

/** Checks a running daemon's file system without changing anything. */
export async function fsckRunning(
  databasePath: string,
  storage: { metadata: Metadata; chunks: ChunkStore },
  options: FsckOptions,
): Promise<FsckResult> {
  await storage.metadata.commit();
  return check(databasePath, storage, { ...options, repair: false }, { live: true });
}

async function settleAll(metadata: Metadata, chunks: ChunkStore): Promise<void> {
  for (let batch = metadata.unsettledBatch(SETTLE_BATCH_BYTES); batch.length > 0; ) {
    await chunks.settle(batch);
    metadata.settled(batch);
    batch = metadata.unsettledBatch(SETTLE_BATCH_BYTES);
  }
}

async function check(
  databasePath: string,
  storage: { metadata: Metadata; chunks: ChunkStore },
  options: FsckOptions,
  { live }: { live: boolean },
): Promise<FsckResult> {
  const started = performance.now();
  const findings: Finding[] = [];
  let leftOut = 0;
  let chunkBytes = 0;
  const report = (finding: Finding) => {
    if (findings.length < FINDINGS_MAX) findings.push(finding);
    else leftOut++;
  };
  const source = live
    ? metadataInWorker(databasePath, options.signal)
    : metadataHere(databasePath, { repair: options.repair });
  try {
    options.progress?.({ phase: 'comparing the pages of meta.db', done: 0, total: 0 });
    await checkPages(databasePath, storage.metadata, { ...options, live }, report);
    options.progress?.({ phase: 'checking metadata', done: 0, total: 0 });
    const counts = await source.check(report);
    options.signal?.throwIfAborted();
    const known = new Set<ChunkHash>();
    let done = 0;
    let damaged = 0;
    const examine = async (chunk: CheckedChunk): Promise<void> => {
      const hash = hashFromBytes(chunk.hash);
      const health = await examineChunk(storage, { hash, size: chunk.bytes }, options.data);
      if (options.data) chunkBytes += chunk.bytes;
      if (health.kind === 'ok') return;
      // Collected since the snapshot was taken.
      if (live && !storage.metadata.reads.hasChunk(hash)) return;
      if (chunk.refs === 0) return;
      const paths = damaged++ < PATHS_FOR_CHUNKS_MAX ? await source.paths(chunk.hash) : ['(not looked up)'];
      // Removed files that are open may still be read; those of a stopped daemon are gone.
      if (paths.length === 0 && !live) return;
      const what = health.kind === 'missing' ? 'is missing' : `is damaged (${health.reason})`;
      report({
        code: health.kind === 'missing' ? 'chunk-missing' : 'chunk-damaged',
        message: `chunk ${hash} ${what}; it belongs to ${paths.join(', ') || 'a removed file'}`,
        state: 'loss',
      });
    };
    for (let batch = await source.chunks(0); batch.length > 0; ) {
      for (let first = 0; first < batch.length; first += VERIFY_PARALLEL) {
        options.signal?.throwIfAborted();
        const some = batch.slice(first, first + VERIFY_PARALLEL);
        if (!live) for (const chunk of some) known.add(hashFromBytes(chunk.hash));
        await Promise.all(some.map(examine));
        if (live && first % YIELD_EVERY === 0) await new Promise(setImmediate);
      }
      done += batch.length;
      options.progress?.({ phase: 'checking chunks', done, total: counts.chunks });
      batch = await source.chunks(batch.at(-1)?.chunk ?? Number.MAX_SAFE_INTEGER);
    }
    if (!live) await checkWaste(storage, known, options, report);
    // What is there was told and counts from now on.
    if (options.repair) await storage.metadata.renewPageSums();
    return {
      clean: findings.length === 0,
      findings,
      findingsLeftOut: leftOut,
      checked: { ...counts, chunkBytes },
      durationMs: Math.round(performance.now() - started),
    };
  } finally {
    await source.close();
  }
}

async function checkPages(
  databasePath: string,
  metadata: Metadata,
  { signal, live }: FsckOptions & { live: boolean },
  report: (finding: Finding) => void,
): Promise<void> {
  // Those of a running daemon's start were told by its status.
  const healedBefore = live ? metadata.status().healedPages : 0;
  const damaged = await metadata.verifyPages({ pauseMs: 0, ...(signal === undefined ? {} : { signal }) });
  for (const { page, table } of damaged) {
    const owner = table === '' ? '' : ` (of ${table})`;
    report({
      code: 'page-damaged',
      message: `page ${page}${owner} of ${databasePath} is not what was written there`,
      state: 'loss',
    });
  }
  const healed = metadata.status().healedPages - healedBefore;
  if (healed === 0) return;
  report({
    code: 'page-healed',
    message: `${healed} damaged pages of ${databasePath} were put back from meta.copy`,
    state: 'repaired',
  });
}

async function examineChunk(
  { metadata, chunks }: { metadata: Metadata; chunks: ChunkStore },
  chunk: { hash: ChunkHash; size: number },
  data: boolean,
): Promise<ChunkHealth> {
  if (chunk.size <= SMALL_CHUNK_BYTES_MAX && metadata.unsettled(chunk.hash) !== undefined)
    return { kind: 'ok' };
  if (data) return chunks.verify(chunk);
  const found = await chunks.stat(chunk.hash);
  if (found === undefined) return { kind: 'missing' };
  if (found.size === chunk.size) return { kind: 'ok' };
  return { kind: 'bad', reason: `${found.size} bytes instead of ${chunk.size}` };
}

/** Chunks on the disk that nothing names: what a crash between storing and proposing leaves. */
async function checkWaste(
  { chunks }: { chunks: ChunkStore },
  known: ReadonlySet<ChunkHash>,
  options: FsckOptions,
  report: (finding: Finding) => void,
): Promise<void> {
  const waste: ChunkHash[] = [];
  for await (const { hash } of chunks.listLarge()) if (!known.has(hash)) waste.push(hash);
  for (const { hash } of chunks.listSmall()) if (!known.has(hash)) waste.push(hash);
  if (waste.length === 0) return;
  // Waste harms nothing: a crash leaves some by design, so it is no finding unless somebody repairs.
  if (!options.repair) return;
  const removed = await chunks.remove(waste);
  for (const hash of removed) {
    report({ code: 'chunk-unused', message: `chunk ${hash} belongs to no file`, state: 'repaired' });
  }
}
