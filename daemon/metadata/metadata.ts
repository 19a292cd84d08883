/**
 * The metadata of one storing node: orders changes, applies them, makes them durable.
 *
 * The path of a change. `propose(operation)` applies it at once inside the open SQLite transaction, so that
 * every later read sees it, and promises an answer. When the current turn of the event loop has run out of
 * requests (a microtask), all operations of the turn go into the log with one write, and their proposers are
 * answered: from then on they survive the death of this process. `barrier()` waits until the log is durable:
 * one fdatasync for all who asked while the previous one ran.
 *
 * SQLite follows in batches: its transaction commits every few milliseconds, off the path of any request. Its
 * state is always that of some version of the log. Opening applies what the log has beyond it, and first takes
 * back what a power cut left in the WAL without its operations (wal.ts).
 *
 * Checkpoints run in a worker thread on a connection of its own, so that the event loop never waits for a
 * disk; a batch is held back for the moment in which a checkpoint could reach the end of the WAL, so that the
 * WAL's size stays bounded. The log is trimmed behind what is durable in the databases.
 *
 * When the disk fails. If the log cannot be written or synced, or SQLite cannot commit, nothing more may be
 * acknowledged: the metadata becomes read-only (EROFS) until the daemon is started again, which applies the
 * log anew. What was acknowledged is in the log.
 */

import * as path from 'node:path';
import { Packr } from 'msgpackr';
import { describeError, FsError, WarrenError } from '../protocol/errors.ts';
import type { ChunkHash, Inode } from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';
import type { Log } from '../runtime/log.ts';
import { type Outcome, openApply } from './apply.ts';
import type { Payload, Totals } from './apply-extents.ts';
import type { PageDamage } from './checkpoint-worker.ts';
import { openCheckpointer } from './checkpointer.ts';
import { closeUntouched, diskBytes, isFull, openDatabase, openError, openSettings } from './open-database.ts';
import { openLogSyncs } from './log-syncs.ts';
import {
  hasLog,
  logReach,
  type OperationLog,
  openOperationLog,
  readLog,
  SEGMENT_BYTES,
} from './operation-log.ts';
import { type MetadataReads, metadataReads } from './reads.ts';
import { unsettledChunks } from './unsettled.ts';
import { stampOf, takeBackWal } from './wal.ts';

/** SQLite's transaction commits after this many operations or this long, whichever is first. */
const COMMIT_OPERATIONS = 250;
const COMMIT_INTERVAL_MS = 25;
/** Commits are held back at most this long for a checkpoint that has begun. */
const COMMIT_HOLD_MS = 2000;
/** Operations since the last checkpoint after which the next one starts. */
const CHECKPOINT_OPERATIONS = 10_000;
/** A quiet database is checkpointed this long after a change. */
const CHECKPOINT_IDLE_MS = 5000;
/** Log kept behind the durable state for nodes that were away, bytes; at most LOG_DISK_SHARE of the disk. */
const LOG_KEEP_BYTES = 128 * 1024 * 1024;
const LOG_DISK_SHARE = 1 / 64;
const EMPTY_PAYLOAD: Payload = new Map<ChunkHash, Uint8Array>();
const EPOCH = 1;

/** Body of a log entry: epoch, operation, bytes of the small chunks that it brings. */
type LogBody = [epoch: number, operation: Operation, payload: [ChunkHash, Uint8Array][]];

export interface MetadataStatus {
  /** Last operation, and the last one that SQLite holds durably. */
  readonly version: number;
  readonly checkpointedVersion: number;
  readonly inodes: number;
  readonly storedBytes: number;
  readonly logBytes: number;
  readonly unsettledBytes: number;
  /** Why nothing can change, or undefined. */
  readonly readOnly: string | undefined;
  /** Pages of meta.db that the last `verifyPages` found damaged. */
  readonly damagedPages: readonly PageDamage[];
}

export interface SmallBytes {
  readonly hash: ChunkHash;
  readonly data: Uint8Array;
}

export interface Metadata {
  readonly reads: MetadataReads;
  /** Errors: FsError of the operation; EIO, ENOSPC, EROFS once the disk has failed. */
  propose(operation: Operation, payload?: Payload): Promise<Outcome>;
  /** Resolves when every operation answered so far is durable. `alone`: nobody else waits for the event loop. */
  barrier(alone?: boolean): Promise<void>;
  /** The next number for a new inode; never given twice. */
  allocateInode(): Inode;
  /** Bytes of a small chunk that small.db may not have yet. */
  unsettled(hash: ChunkHash): Uint8Array | undefined;
  /** The oldest unsettled small chunks; pass them to `settled` when small.db holds them durably. */
  unsettledBatch(bytesMax: number): SmallBytes[];
  settled(batch: readonly SmallBytes[]): void;
  /** Commits what is applied, so that another connection sees it. */
  commit(): Promise<void>;
  /**
   * Compares every page of meta.db with its sum, in a worker, resting `pauseMs` after each MiB; also logged and
   * in the status. Errors: the signal's reason, also when the metadata is closed meanwhile.
   */
  verifyPages(options: { pauseMs: number; signal?: AbortSignal }): Promise<readonly PageDamage[]>;
  /** The pages as they are now count as right: after a repair has told what it found. */
  renewPageSums(): Promise<void>;
  status(): MetadataStatus;
  close(): Promise<void>;
}

export interface MetadataOptions {
  /** Folder of meta.db and log/. */
  readonly directory: string;
  /** Make the database when it is not there; otherwise METADATA_MISSING. */
  readonly create: boolean;
  /** Go on without a log that is gone (`fsck --repair`). Default false. */
  readonly salvage?: boolean;
  readonly log: Log;
}

export function openMetadata(options: MetadataOptions): Metadata {
  const databasePath = path.join(options.directory, 'meta.db');
  const logDirectory = path.join(options.directory, 'log');
  const log = options.log.room('metadata');
  if (options.salvage !== true) takeBackWal(databasePath, logDirectory, log);
  const database = openDatabase(databasePath, options.create);
  const reads = metadataReads(database);
  const settings = openSettings(database, databasePath);
  const totals: Totals = { inodes: settings.get('inodes'), stored: settings.get('stored') };
  const unsettled = unsettledChunks();
  const apply = openApply(database, reads, totals, unsettled);
  const packr = new Packr({ useRecords: false });
  let version = settings.get('version');
  /** What SQLite has committed, and what is durable there. */
  let committedVersion = version;
  let checkpointedVersion = version;

  const operationLog = openLogFiles();
  const checkpointer = openCheckpointer(databasePath);
  const keepBytes = Math.min(LOG_KEEP_BYTES, diskBytes(options.directory) * LOG_DISK_SHARE);

  let nextInode = settings.nextInode();
  let committedTotals = { ...totals };
  let readOnly: string | undefined;
  /** The operations of this turn, not yet in the log. */
  let turn: PromiseWithResolvers<void> | undefined;
  let operationsInTransaction = 0;
  let commitTimer: NodeJS.Timeout | undefined;
  /** While true no batch is committed: a checkpoint takes exactly what the log holds durably. */
  let commitsHeld = false;
  let operationsSinceCheckpoint = 0;
  let checkpointing: Promise<void> | undefined;
  let idleTimer: NodeJS.Timeout | undefined;
  const syncs = openLogSyncs({
    log: operationLog,
    version: () => version,
    fail: (error) => fail(`${logDirectory} cannot be synced`, error),
  });
  let closed = false;
  let damagedPages: readonly PageDamage[] = [];
  const closing = new AbortController();

  /** Applies what the log has beyond SQLite and collects the small chunks that small.db may lack. */
  function recover(): void {
    if (version > 0 && !hasLog(logDirectory) && options.salvage !== true) {
      throw new WarrenError({
        code: 'LOG_MISSING',
        message: `${logDirectory} is gone, but meta.db is at version ${version}: operations that were acknowledged may be missing.`,
        hint: 'Restore the folder from a backup taken together with meta.db. To go on with what meta.db has, run `warren fsck --repair`.',
      });
    }
    const settled = settings.get('settled');
    let applied = 0;
    // A salvage takes every small chunk that the log still has: small.db may be a new one.
    const after = options.salvage === true ? 0 : Math.min(settled, version);
    for (const entry of readLog(logDirectory, after)) {
      const [, operation, payload] = packr.unpack(entry.body) as LogBody;
      unsettled.version = entry.version;
      if (entry.version <= version) {
        for (const [hash, data] of payload) if (reads.hasChunk(hash)) unsettled.add(hash, Buffer.from(data));
        continue;
      }
      if (entry.version !== version + 1) break;
      if (!database.isTransaction) database.exec('BEGIN IMMEDIATE');
      apply(operation, entry.version, new Map(payload.map(([hash, data]) => [hash, Buffer.from(data)])));
      version = entry.version;
      applied++;
    }
    refuseGap(after);
    if (options.salvage === true && !database.isTransaction) database.exec('BEGIN IMMEDIATE');
    if (database.isTransaction) {
      // Going on without the log: whether small.db has what it brought is no question any more.
      const settledMax = options.salvage === true ? version : settled;
      settings.save(version, Math.min(settledMax, unsettled.settledVersion(version)), totals);
      database.exec(`PRAGMA application_id = ${stampOf(version)}; COMMIT`);
      committedVersion = version;
    }
    if (applied > 0) {
      log.info(`applied ${applied} operations from the log that meta.db did not have yet`, { version });
    }
  }

  /** The log must hold everything after `after`, and all that it says was durable. */
  function refuseGap(after: number): void {
    const reach = logReach(logDirectory);
    const missingStart = after < version && reach.first > after + 1;
    if (options.salvage === true || (!missingStart && reach.durable <= version)) return;
    const [from, to] = missingStart ? [after + 1, reach.first - 1] : [version + 1, reach.durable];
    throw new WarrenError({
      code: 'LOG_INCOMPLETE',
      message: `${logDirectory} is damaged or lacks a file: operations ${from} to ${to}, which were acknowledged, cannot be read. Nothing was changed.`,
      hint: 'Put the missing file back, or restore the folder from a backup taken together with meta.db. To go on without those operations and all after them, run `warren fsck --repair`.',
    });
  }

  /** Brings meta.db to the end of the log and opens the log; a refusal leaves both as they were. */
  function openLogFiles(): OperationLog {
    try {
      recover();
      return openOperationLog(logDirectory, version);
    } catch (error) {
      if (database.isTransaction) database.exec('ROLLBACK');
      closeUntouched(database, databasePath);
      if (!isFull(error)) throw openError(databasePath, error);
      throw new WarrenError({
        code: 'METADATA_NO_SPACE',
        message: `There is no space on the disk of ${options.directory} to open the metadata and its log: ${describeError(error)}.`,
        hint: `Free at least ${(4 * SEGMENT_BYTES) / 1024 / 1024} MiB there and start again; nothing acknowledged is lost.`,
        cause: error,
      });
    }
  }

  function fail(what: string, error: unknown): FsError {
    const code = isFull(error) ? 'ENOSPC' : 'EIO';
    readOnly ??= `${what}: ${describeError(error)}`;
    log.error('the disk of the metadata failed: nothing changes until warrend is restarted', {
      reason: readOnly,
      hint: 'free space or replace the disk, then restart; what was acknowledged is in the log',
    });
    return new FsError(code, readOnly);
  }

  /**
   * A failed transaction is gone, and with it what was acknowledged since the last commit. Reads see it again:
   * applied from the log, in a transaction that is never committed (a restart does the same for good).
   */
  function showAcknowledged(): void {
    try {
      if (database.isTransaction) database.exec('ROLLBACK');
      database.exec('BEGIN');
      Object.assign(totals, committedTotals);
      for (const entry of readLog(logDirectory, committedVersion)) {
        const [, operation, payload] = packr.unpack(entry.body) as LogBody;
        apply(operation, entry.version, new Map(payload.map(([hash, data]) => [hash, Buffer.from(data)])));
      }
    } catch (error) {
      log.warn('until a restart, the newest changes cannot be seen', { error: describeError(error) });
    }
  }

  function enter(): PromiseWithResolvers<void> {
    if (readOnly !== undefined) throw new FsError('EROFS', readOnly);
    if (closed) throw new FsError('EROFS', 'the metadata is closed');
    if (turn !== undefined) return turn;
    if (!database.isTransaction) {
      try {
        database.exec('BEGIN IMMEDIATE');
      } catch (error) {
        throw fail(`${databasePath} cannot begin a transaction`, error);
      }
    }
    const resolvers = Promise.withResolvers<void>();
    // Whoever proposed hears of a failure; without listeners it must not count as unhandled.
    resolvers.promise.catch(() => {});
    turn = resolvers;
    queueMicrotask(endTurn);
    return resolvers;
  }

  function endTurn(): void {
    const current = turn;
    if (current === undefined) return;
    turn = undefined;
    if (readOnly !== undefined) {
      current.reject(new FsError('EIO', readOnly));
      return;
    }
    try {
      operationLog.write();
    } catch (error) {
      current.reject(fail(`${logDirectory} cannot be written`, error));
      return;
    }
    current.resolve();
    if (operationsInTransaction >= COMMIT_OPERATIONS) commitBatch();
    else commitTimer ??= setTimeout(commitBatch, COMMIT_INTERVAL_MS);
  }

  function commitBatch(): void {
    clearTimeout(commitTimer);
    commitTimer = undefined;
    if (commitsHeld) {
      commitTimer = setTimeout(commitBatch, COMMIT_INTERVAL_MS);
      return;
    }
    commitNow();
  }

  function commitNow(): void {
    if (turn !== undefined) endTurn();
    if (!database.isTransaction || readOnly !== undefined) return;
    try {
      settings.save(version, unsettled.settledVersion(version), totals);
      database.exec(`PRAGMA application_id = ${stampOf(version)}; COMMIT`);
    } catch (error) {
      fail(`${databasePath} cannot commit`, error);
      showAcknowledged();
      return;
    }
    operationsSinceCheckpoint += operationsInTransaction;
    operationsInTransaction = 0;
    committedVersion = version;
    committedTotals = { ...totals };
    if (operationsSinceCheckpoint >= CHECKPOINT_OPERATIONS) void checkpoint();
    idleTimer ??= setTimeout(() => {
      idleTimer = undefined;
      if (operationsSinceCheckpoint > 0) void checkpoint();
    }, CHECKPOINT_IDLE_MS).unref();
  }

  function checkpoint(): Promise<void> {
    checkpointing ??= (async () => {
      operationsSinceCheckpoint = 0;
      try {
        // Twice: the second run finds little to do, so commits are held only shortly, and reaches the WAL's end.
        await checkpointDurable();
        const settled = settings.committedSettled();
        const { target, whole } = await checkpointDurable();
        // A long reader (fsck) is in the way: the rest is in the WAL only, which may not be durable.
        if (!whole) return;
        checkpointedVersion = target;
        operationLog.trim(Math.min(target, settled), keepBytes);
      } catch (error) {
        // The WAL and the log keep everything; a disk that is full or failing is tried again later.
        log.warn('a checkpoint of the metadata failed; it is tried again', { error: describeError(error) });
      } finally {
        checkpointing = undefined;
      }
    })();
    return checkpointing;
  }

  /**
   * A checkpoint of what is committed now, after the log holds it durably: the database file is never ahead of
   * the log. A checkpoint takes the commits that were there when it began.
   */
  async function checkpointDurable(): Promise<{ target: number; whole: boolean }> {
    commitsHeld = true;
    const release = setTimeout(() => {
      commitsHeld = syncs.durableVersion() < committedVersion;
    }, COMMIT_HOLD_MS);
    try {
      const target = committedVersion;
      if (syncs.durableVersion() < target) await barrier();
      const { walPages, donePages } = await checkpointer.run();
      return { target, whole: donePages >= walPages };
    } finally {
      clearTimeout(release);
      commitsHeld = false;
    }
  }

  function barrier(alone = false): Promise<void> {
    if (readOnly !== undefined) return Promise.reject(new FsError('EIO', readOnly));
    if (turn !== undefined) endTurn();
    return syncs.barrier(alone);
  }

  return {
    reads,
    async propose(operation, payload = EMPTY_PAYLOAD) {
      if (payload.size > 0) {
        for (let full = unsettled.room(); full !== undefined; full = unsettled.room()) await full;
      }
      const current = enter();
      const body = packr.pack([EPOCH, operation, payload.size === 0 ? [] : [...payload]] satisfies LogBody);
      try {
        operationLog.makeRoom(body.length);
      } catch (error) {
        throw fail(`${logDirectory} cannot grow`, error);
      }
      let outcome: Outcome;
      try {
        unsettled.version = version + 1;
        outcome = apply(operation, version + 1, payload);
        version++;
        operationsInTransaction++;
        operationLog.append(version, body);
      } catch (error) {
        if (error instanceof FsError) throw error;
        // A half-applied operation must not be committed: the log has what was acknowledged.
        const failure = fail(`${databasePath} cannot be changed`, error);
        showAcknowledged();
        throw failure;
      }
      await current.promise;
      return outcome;
    },
    barrier,
    allocateInode: () => nextInode++ as Inode,
    unsettled: (hash) => unsettled.get(hash),
    unsettledBatch: (bytesMax) => unsettled.batch(bytesMax),
    settled: (batch) => unsettled.settle(batch),
    async commit() {
      await checkpointing;
      commitNow();
    },
    async verifyPages({ pauseMs, signal }) {
      const either = signal === undefined ? closing.signal : AbortSignal.any([closing.signal, signal]);
      damagedPages = await checkpointer.verify({ pauseMs, signal: either });
      if (damagedPages.length > 0) {
        log.error(`${databasePath} is damaged: ${damagedPages.length} pages are not what was written`, {
          pages: damagedPages.slice(0, 10).map(({ page, table }) => `${page} ${table}`.trim()),
          hint: 'the disk changed bytes by itself: copy the data directory to another disk, see `warren fsck`, and restore meta.db, meta.sums and log/ from one backup',
        });
      }
      return damagedPages;
    },
    async renewPageSums() {
      await checkpoint();
      await checkpointer.renew();
      damagedPages = [];
    },
    status: () => ({
      version,
      checkpointedVersion,
      inodes: totals.inodes,
      storedBytes: totals.stored,
      logBytes: operationLog.bytes(),
      unsettledBytes: unsettled.bytes(),
      readOnly,
      damagedPages,
    }),
    async close() {
      if (closed) return;
      closing.abort(new Error('the metadata is being closed'));
      await syncs.quiet();
      await checkpointing;
      if (readOnly === undefined) {
        if (turn !== undefined) endTurn();
        await barrier();
        commitNow();
        await checkpoint();
      }
      closed = true;
      clearTimeout(commitTimer);
      clearTimeout(idleTimer);
      if (database.isTransaction) database.exec('ROLLBACK');
      // The checkpointer goes last: whoever does may write meta.db, and it keeps the sums of the pages.
      database.close();
      await checkpointer.close();
      operationLog.close();
    },
  };
}
