/**
 * `fsck`: are the metadata whole, and is every chunk there and right?
 *
 * The metadata are checked rule by rule (metadata/check.ts). Then every chunk that they name is looked for:
 * present and of the right size, or with `data` read and compared with its hash. Then every chunk on the disk
 * that nothing names is counted as waste (removed by `repair`).
 *
 * On a stopped daemon's directory this opens the storage, which applies the log first, so that the check sees
 * everything that was acknowledged. In a running daemon the same check works on a snapshot (one read
 * transaction) and looks twice at what it finds missing, because files change meanwhile.
 */

import * as path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { ChunkHealth, ChunkStore } from '../chunks/interface.ts';
import { type CheckedChunk, checkMetadata, countRows, listChunks, pathsOfChunk } from '../metadata/check.ts';
import type { Metadata } from '../metadata/metadata.ts';
import { hashFromBytes } from '../metadata/rows.ts';
import { FINDINGS_MAX, type Finding, type FsckResult, type Progress } from '../protocol/control-api.ts';
import { type ChunkHash, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { openNodeStorage } from '../storage/node-storage.ts';

/** Chunks verified at once. */
const VERIFY_PARALLEL = 4;
const SETTLE_BATCH_BYTES = 4 * 1024 * 1024;
/** Paths are looked up for this many damaged chunks; each costs a scan. */
const PATHS_FOR_CHUNKS_MAX = 50;
const PROGRESS_EVERY = 500;
/** A running daemon is given its turn after this many chunks. */
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
  const database = new DatabaseSync(databasePath, { readOnly: !options.repair, timeout: 5000 });
  try {
    database.exec('PRAGMA temp_store = MEMORY');
    if (!options.repair) database.exec('BEGIN');
    options.progress?.({ phase: 'checking metadata', done: 0, total: 0 });
    for (const finding of checkMetadata(database, { repair: options.repair })) {
      report(finding);
      options.signal?.throwIfAborted();
    }
    const counts = countRows(database);
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
      const paths =
        damaged++ < PATHS_FOR_CHUNKS_MAX ? pathsOfChunk(database, chunk.hash) : ['(not looked up)'];
      const what = health.kind === 'missing' ? 'is missing' : `is damaged (${health.reason})`;
      report({
        code: health.kind === 'missing' ? 'chunk-missing' : 'chunk-damaged',
        message: `chunk ${hash} ${what}; it belongs to ${paths.join(', ')}`,
        state: 'loss',
      });
    };
    let running: Promise<void>[] = [];
    for (const chunk of listChunks(database)) {
      options.signal?.throwIfAborted();
      known.add(hashFromBytes(chunk.hash));
      running.push(examine(chunk));
      if (running.length >= VERIFY_PARALLEL) {
        await Promise.all(running);
        running = [];
      }
      done++;
      if (live && done % YIELD_EVERY === 0) await new Promise(setImmediate);
      if (done % PROGRESS_EVERY === 0) {
        options.progress?.({ phase: 'checking chunks', done, total: counts.chunks });
      }
    }
    await Promise.all(running);
    if (!live) await checkWaste(storage, known, options, report);
    return {
      clean: findings.length === 0,
      findings,
      findingsLeftOut: leftOut,
      checked: { ...counts, chunkBytes },
      durationMs: Math.round(performance.now() - started),
    };
  } finally {
    database.close();
  }
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
