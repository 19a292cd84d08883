/**
 * When the WAL is moved into the database file, and how far.
 *
 * Two things must not come into the file: what the log does not hold durably (a power cut would leave a state
 * without its operations) and what is not agreed (on every in-sync node), because it may have to be taken back. So
 * commits are held back for a moment until the log is synced and the last commit is agreed, and the worker is told
 * the limit, which it compares with what it sees. Without agreement within COMMIT_HOLD_MS the checkpoint is left for
 * later. The WAL stays bounded all the same: a node that does not answer leaves the in-sync set within seconds, and
 * then everything is agreed.
 *
 * On a node that is alone everything is agreed at once.
 */

import { describeError } from '../protocol/errors.ts';
import type { ChunkHash } from '../protocol/ids.ts';
import type { Log } from '../runtime/log.ts';
import type { ChunkFiles } from './chunk-files.ts';
import { openCheckpointer, type VerifiedPages } from './checkpointer.ts';
import type { Committing } from './committing.ts';
import type { State } from './state.ts';

/** Commits are held back at most this long for a checkpoint that has begun. */
const COMMIT_HOLD_MS = 2000;
/** Operations since the last checkpoint after which the next one starts. */
const CHECKPOINT_OPERATIONS = 10_000;
/** A quiet database is checkpointed this long after a change. */
const CHECKPOINT_IDLE_MS = 5000;
/** A checkpoint that was not possible is tried again after this. */
const CHECKPOINT_RETRY_MS = 1000;
/** A limit below every version. */
const NOTHING = -1;

export interface Checkpointing {
  /** SQLite has committed this many operations. */
  noteCommit(operations: number): void;
  /** Runs one, or waits for the one that runs; failures are logged and tried again. */
  checkpoint(): Promise<void>;
  /** The last version that the database file holds, durably. */
  checkpointedVersion(): number;
  /** Everything up to `version` is agreed. */
  setAgreed(version: number): void;
  agreed(): number;
  /** Resolves when `version` is agreed, or after `waitMs`; answers whether it is. */
  whenAgreed(version: number, waitMs: number): Promise<boolean>;
  verifyPages(options: { pauseMs: number; signal: AbortSignal }): Promise<VerifiedPages>;
  renewPageSums(): Promise<void>;
  filesOfChunks(hashes: readonly ChunkHash[]): Promise<readonly ChunkFiles[]>;
  /** Closes the worker's connections; the database file and the WAL stay as they are. */
  pause(): Promise<void>;
  /** After `pause`: what is agreed now. */
  resume(agreed: number): void;
  /** Resolves when no checkpoint runs. */
  quiet(): Promise<void>;
  /**
   * Resolves when the worker has its connections: without them the main connection would be the last one when it
   * closes, and move the WAL into the file. Errors: the worker's.
   */
  ready(): Promise<void>;
  /** Closes the worker, which must be the last connection: what may be moved into the file is. */
  close(): Promise<void>;
}

export interface CheckpointingOptions {
  readonly databasePath: string;
  readonly state: State;
  readonly committing: Committing;
  readonly agreed: number;
  readonly log: Log;
  /** A checkpoint wrote the second copy of the pages, or could not. */
  onCopied(error: string | undefined): void;
  /** Everything up to `version` is durable in the databases: the log behind it may go. */
  trim(version: number): void;
}

export function openCheckpointing(options: CheckpointingOptions): Checkpointing {
  const { databasePath, state, committing, log } = options;
  let { agreed } = options;
  let checkpointer = openCheckpointer(databasePath);
  let checkpointedVersion = state.version;
  let operationsSince = 0;
  let running: Promise<void> | undefined;
  let idleTimer: NodeJS.Timeout | undefined;
  let retryTimer: NodeJS.Timeout | undefined;
  let paused: PromiseWithResolvers<void> | undefined;
  let waiting: { version: number; wake: () => void }[] = [];

  function checkpoint(): Promise<void> {
    if (paused !== undefined) return Promise.resolve();
    running ??= (async () => {
      const operations = operationsSince;
      operationsSince = 0;
      try {
        if (await run()) return;
        operationsSince += operations;
        retryTimer ??= setTimeout(() => {
          retryTimer = undefined;
          void checkpoint();
        }, CHECKPOINT_RETRY_MS).unref();
      } catch (error) {
        // The WAL and the log keep everything; a disk that is full or failing is tried again later.
        log.warn('a checkpoint of the metadata failed; it is tried again', { error: describeError(error) });
      } finally {
        running = undefined;
      }
    })();
    return running;
  }

  /** Answers whether what was committed may come into the file. */
  async function run(): Promise<boolean> {
    // Twice: the second run finds little to do, so commits are held only shortly, and reaches the WAL's end.
    const first = await once();
    if (first.refused) return false;
    const settled = state.committedSettled();
    const { refused, version, walPages, donePages } = await once();
    if (refused) return false;
    // A long reader (fsck) is in the way: the rest is in the WAL only, which may not be durable.
    if (donePages < walPages) return true;
    checkpointedVersion = version;
    options.trim(Math.min(version, settled));
    return true;
  }

  async function once() {
    const release = committing.hold();
    const holdTimer = setTimeout(release, COMMIT_HOLD_MS);
    try {
      const target = state.committedVersion;
      if (committing.durableVersion() < target) await committing.barrier();
      await whenAgreed(target, COMMIT_HOLD_MS);
      const answer = await checkpointer.run(limit());
      if (!answer.refused) options.onCopied(answer.copyError);
      return answer;
    } finally {
      clearTimeout(holdTimer);
      release();
    }
  }

  function limit(): number {
    return Math.min(committing.durableVersion(), agreed);
  }

  function whenAgreed(version: number, waitMs: number): Promise<boolean> {
    if (agreed >= version) return Promise.resolve(true);
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(waitTimer);
        waiting = waiting.filter((each) => each !== entry);
        resolve(agreed >= version);
      };
      const waitTimer = setTimeout(end, waitMs);
      const entry = { version, wake: end };
      waiting.push(entry);
    });
  }

  return {
    noteCommit(operations) {
      operationsSince += operations;
      if (operationsSince >= CHECKPOINT_OPERATIONS && retryTimer === undefined) void checkpoint();
      idleTimer ??= setTimeout(() => {
        idleTimer = undefined;
        if (operationsSince > 0) void checkpoint();
      }, CHECKPOINT_IDLE_MS).unref();
    },
    checkpoint,
    checkpointedVersion: () => checkpointedVersion,
    setAgreed(version) {
      agreed = agreed === Number.POSITIVE_INFINITY ? version : Math.max(agreed, version);
      for (const entry of waiting) if (entry.version <= agreed) entry.wake();
    },
    agreed: () => agreed,
    whenAgreed,
    async verifyPages({ pauseMs, signal }) {
      for (;;) {
        const used = checkpointer;
        try {
          return await used.verify({ pauseMs, signal });
        } catch (error) {
          // The past was changed meanwhile, and the pages with it.
          await paused?.promise;
          if (used === checkpointer || signal.aborted) throw error;
        }
      }
    },
    async renewPageSums() {
      await checkpoint();
      await checkpointer.renew();
    },
    async filesOfChunks(hashes) {
      await paused?.promise;
      return checkpointer.filesOfChunks(hashes);
    },
    async pause() {
      paused = Promise.withResolvers<void>();
      // What waits to be agreed may be what is taken back.
      for (const entry of waiting) entry.wake();
      await running;
      await checkpointer.close(NOTHING);
    },
    resume(agreedNow) {
      agreed = agreedNow;
      checkpointer = openCheckpointer(databasePath);
      checkpointedVersion = Math.min(checkpointedVersion, state.committedVersion);
      paused?.resolve();
      paused = undefined;
    },
    async ready() {
      await checkpointer.run(NOTHING);
    },
    async quiet() {
      await running;
    },
    async close() {
      clearTimeout(idleTimer);
      clearTimeout(retryTimer);
      await running;
      paused?.resolve();
      paused = Promise.withResolvers<void>();
      paused.resolve();
      await checkpointer.close(limit());
    },
  };
}
