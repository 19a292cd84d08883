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
 * This file wires the parts together: state.ts (the database and what is in memory beside it), recovery.ts (opening),
 * committing.ts (log and batches), checkpointing.ts, and state-machine.ts, by which replication does all this.
 *
 * When the disk fails. If the log cannot be written or synced, or SQLite cannot commit, nothing more may be
 * acknowledged: the metadata becomes read-only (EROFS) until the daemon is started again, which applies the
 * log anew. What was acknowledged is in the log.
 */

import * as path from 'node:path';
import type { FsError } from '../protocol/errors.ts';
import type { ChunkHash, Inode } from '../protocol/ids.ts';
import type { Operation, OperationOutcome } from '../protocol/operations.ts';
import type { OperationPayload, StateMachine } from '../replication/state-machine.ts';
import type { Log } from '../runtime/log.ts';
import type { ChunkFiles } from './chunk-files.ts';
import type { PageDamage } from './checkpoint-worker.ts';
import { openCheckpointing } from './checkpointing.ts';
import { SOLO_EPOCH } from './cluster-state.ts';
import { openCommitting } from './committing.ts';
import { EMPTY_PAYLOAD } from './entry-codec.ts';
import { openInodeNumbers } from './inode-numbers.ts';
import { diskBytes, withOpenErrors } from './open-database.ts';
import { openPageHealth } from './page-health.ts';
import { keepState } from './kept-state.ts';
import type { MetadataReads } from './reads.ts';
import { recover } from './recovery.ts';
import { finishRestore } from './rewinding.ts';
import { openState } from './state.ts';
import { openStateMachine } from './state-machine.ts';
import { takeBackWal } from './wal.ts';

/** Log kept behind the durable state for nodes that were away, bytes; at most LOG_DISK_SHARE of the disk. */
const LOG_KEEP_BYTES = 128 * 1024 * 1024;
const LOG_DISK_SHARE = 1 / 64;

export interface MetadataStatus {
  /** Last operation, the last one that is durable, and the last one that SQLite holds durably. */
  readonly version: number;
  readonly durableVersion: number;
  readonly checkpointedVersion: number;
  readonly inodes: number;
  readonly storedBytes: number;
  /** Set aside by fallocate for content to come. */
  readonly allocatedBytes: number;
  readonly logBytes: number;
  readonly unsettledBytes: number;
  /** Why nothing can change, or undefined. */
  readonly readOnly: string | undefined;
  /** Pages of meta.db that the last `verifyPages` found damaged, and how many were put back since the start. */
  readonly damagedPages: readonly PageDamage[];
  readonly healedPages: number;
}

export interface SmallBytes {
  readonly hash: ChunkHash;
  readonly data: Uint8Array;
}

export interface Metadata {
  readonly reads: MetadataReads;
  /** Errors: FsError of the operation; EIO, ENOSPC, EROFS once the disk has failed. */
  propose(operation: Operation, payload?: OperationPayload): Promise<OperationOutcome>;
  /** Resolves when every operation answered so far is durable. `alone`: nobody else waits for the event loop. */
  barrier(alone?: boolean): Promise<void>;
  /** What replication drives; `propose` above is its use on a node that is alone. */
  readonly stateMachine: StateMachine;
  /** Resolves when there is room for new small chunks; undefined when there is. */
  room(): Promise<void> | undefined;
  /** The next number for a new inode, of this member's range; never given twice. Errors: those of the disk. */
  allocateInode(): Inode;
  /** Bytes of a small chunk that small.db may not have yet. */
  unsettled(hash: ChunkHash): Uint8Array | undefined;
  /** The oldest unsettled small chunks; pass them to `settled` when small.db holds them durably. */
  unsettledBatch(bytesMax: number): SmallBytes[];
  settled(batch: readonly SmallBytes[]): void;
  settleFailed(error: FsError): void;
  /**
   * Which files use the chunks (at most CHUNK_FILES_MAX), as of the last commit. One scan of all extents and names, in a
   * worker.
   */
  filesOfChunks(hashes: readonly ChunkHash[]): Promise<readonly ChunkFiles[]>;
  /** Commits what is applied, so that another connection sees it. */
  commit(): Promise<void>;
  /** Copies the state as it is now, agreed or not, into a new file, with the small chunks that wait. Durable. */
  keepState(file: string): Promise<void>;
  /**
   * Compares every page of meta.db with its sum, in a worker, resting `pauseMs` after each MiB, and puts damaged
   * ones back. Answers those it cannot; also logged and in the status. Errors: the signal's reason, also at close.
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
  /** Number of this node in its cluster. Default 0, the first node. */
  readonly memberNumber?: number;
  readonly log: Log;
  /** Told each step at which a crash leaves another state on the disk, by name: for tests. */
  readonly onStep?: (step: string) => void;
}

export function openMetadata(options: MetadataOptions): Metadata {
  const { directory } = options;
  const databasePath = path.join(directory, 'meta.db');
  const logDirectory = path.join(directory, 'log');
  const log = options.log.room('metadata');
  const salvage = options.salvage === true;
  finishRestore(directory);
  const pages = withOpenErrors(databasePath, () => openPageHealth(databasePath, { salvage, log }));
  if (!salvage) takeBackWal(databasePath, logDirectory, log);
  const state = openState(databasePath, options.create);
  const { reads, unsettled, totals } = state;
  const operationLog = recover(state, { databasePath, logDirectory, salvage, log });
  const numbers = openInodeNumbers(directory, options.memberNumber ?? 0, state.connection);
  const keepBytes = Math.min(LOG_KEEP_BYTES, diskBytes(directory) * LOG_DISK_SHARE);
  const committing = openCommitting({
    state,
    databasePath,
    logDirectory,
    operationLog,
    log,
    onCommit: (operations) => checkpointing.noteCommit(operations),
  });
  const checkpointing = openCheckpointing({
    databasePath,
    state,
    committing,
    onCopied: (error) => pages.copied(error),
    // Alone, everything is agreed. In a cluster the leader says what is.
    agreed: reads.members().length > 1 ? 0 : Number.POSITIVE_INFINITY,
    log,
    trim: (version) => committing.operationLog().trim(version, keepBytes),
  });
  const stateMachine = openStateMachine({
    directory,
    databasePath,
    logDirectory,
    state,
    committing,
    checkpointing,
    log,
    onStep: options.onStep ?? (() => {}),
    onRestored: () => numbers.refresh(),
  });
  let closed = false;
  const closing = new AbortController();

  return {
    reads,
    stateMachine,
    room: () => unsettled.room(),
    async propose(operation, payload = EMPTY_PAYLOAD) {
      if (payload.size > 0) {
        for (let full = unsettled.room(); full !== undefined; full = unsettled.room()) await full;
      }
      const epoch = state.version === 0 ? SOLO_EPOCH : state.cluster.epoch(state.version);
      const { outcome, written } = stateMachine.propose({ epoch, operation, payload, tag: null });
      await written;
      return outcome;
    },
    barrier: (alone) => committing.barrier(alone),
    allocateInode: () => numbers.next(),
    unsettled: (hash) => unsettled.get(hash),
    unsettledBatch: (bytesMax) => unsettled.batch(bytesMax),
    settled: (batch) => unsettled.settle(batch),
    settleFailed: (error) => unsettled.failed(error),
    filesOfChunks: (hashes) => checkpointing.filesOfChunks(hashes),
    async commit() {
      await checkpointing.quiet();
      committing.commitNow();
    },
    async keepState(file) {
      await this.commit();
      await keepState(databasePath, file, unsettled.batch(Number.POSITIVE_INFINITY));
    },
    async verifyPages({ pauseMs, signal }) {
      const either = AbortSignal.any(signal === undefined ? [closing.signal] : [closing.signal, signal]);
      const healedBefore = pages.healed;
      pages.compared(await checkpointing.verifyPages({ pauseMs, signal: either }));
      // What SQLite has read of those pages is still damaged.
      if (pages.healed > healedBefore) state.connection.exec('PRAGMA shrink_memory');
      return pages.damaged;
    },
    async renewPageSums() {
      await checkpointing.renewPageSums();
      pages.renewed();
    },
    status: () => ({
      version: state.version,
      durableVersion: committing.durableVersion(),
      checkpointedVersion: checkpointing.checkpointedVersion(),
      inodes: totals.inodes,
      storedBytes: totals.stored,
      allocatedBytes: totals.allocated,
      logBytes: committing.operationLog().bytes(),
      unsettledBytes: unsettled.bytes(),
      readOnly: committing.readOnly(),
      damagedPages: pages.damaged,
      healedPages: pages.healed,
    }),
    async close() {
      if (closed) return;
      closed = true;
      closing.abort(new Error('the metadata is being closed'));
      await committing.quiet();
      await checkpointing.quiet();
      if (committing.readOnly() === undefined) {
        committing.endTurn();
        await committing.barrier();
        // What was settled last would be taken from the log again at the next start.
        if (unsettled.settledVersion(state.version) > state.committedSettled()) state.begin();
        committing.commitNow();
        if (checkpointing.agreed() >= state.version) await checkpointing.checkpoint();
      }
      committing.stop();
      if (state.connection.isTransaction()) state.connection.exec('ROLLBACK');
      await checkpointing.ready().catch(() => {});
      // The checkpointer goes last: whoever does may write meta.db, and it keeps the sums of the pages.
      state.connection.close();
      await checkpointing.close();
      committing.operationLog().close();
    },
  };
}
