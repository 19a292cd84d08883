/**
 * Turns, batches and syncs: the way of an applied operation to the disk.
 *
 * Everything that was applied in one turn of the event loop goes into the log with one write when the turn has run
 * out of requests (a microtask); then those who wait for it are answered. SQLite's transaction commits every few
 * milliseconds, off the path of any request, unless a checkpoint holds commits back. `barrier` waits until the log
 * is durable: one fdatasync for all who asked while the previous one ran.
 *
 * When the disk fails (log or SQLite), nothing more may be acknowledged: everything that changes is refused with
 * EROFS until the daemon is started again. What was acknowledged is in the log.
 */

import { describeError, FsError } from '../protocol/errors.ts';
import type { OperationOutcome } from '../protocol/operations.ts';
import type { Proposal } from '../replication/state-machine.ts';
import { AssertionError } from '../runtime/assert.ts';
import type { Log } from '../runtime/log.ts';
import { isFull } from './open-database.ts';
import { type LogSyncs, openLogSyncs } from './log-syncs.ts';
import type { OperationLog } from './operation-log.ts';
import type { State } from './state.ts';

/** SQLite's transaction commits after this many operations or this long, whichever is first. */
const COMMIT_OPERATIONS = 250;
const COMMIT_INTERVAL_MS = 25;

export interface Committing {
  /** Opens a turn when there is none; resolves when what is added in it is written. Errors: FsError EROFS, EIO. */
  enter(): Promise<void>;
  /**
   * After `enter`: applies the next operation and adds its body to the log. Errors: FsError of the operation, and
   * nothing has changed; EIO, ENOSPC of the disk. A broken invariant means a broken program, unless `foreign`: another
   * node's state may differ from this one, and then the AssertionError leaves this one as it was.
   */
  add(proposal: Proposal, body: Buffer, foreign?: boolean): OperationOutcome;
  /** Writes what the turn has so far. */
  endTurn(): void;
  /** Commits what is applied. */
  commitNow(): void;
  /** Holds commits back until the answered function is called. */
  hold(): () => void;
  /** `alone`: nobody else waits for the event loop. */
  barrier(alone?: boolean): Promise<void>;
  durableVersion(): number;
  /** Why nothing can change, or undefined. */
  readOnly(): string | undefined;
  /** From here on nothing changes; answers the error for those who wait. */
  fail(what: string, error: unknown): FsError;
  /** Whether everything is written and no sync runs. */
  isQuiet(): boolean;
  /** Resolves when it was quiet; ask again. */
  quiet(): Promise<void>;
  operationLog(): OperationLog;
  /** After state and log were opened anew. */
  restart(operationLog: OperationLog): void;
  /** Nothing is accepted any more. */
  stop(): void;
}

export interface CommittingOptions {
  readonly state: State;
  readonly databasePath: string;
  readonly logDirectory: string;
  readonly operationLog: OperationLog;
  readonly log: Log;
  /** SQLite has committed this many operations. */
  onCommit(operations: number): void;
}

export function openCommitting(options: CommittingOptions): Committing {
  const { state, databasePath, logDirectory, log } = options;
  let { operationLog } = options;
  let readOnly: string | undefined;
  /** The operations of this turn, not yet in the log. */
  let turn: PromiseWithResolvers<void> | undefined;
  let operationsInTransaction = 0;
  let commitTimer: NodeJS.Timeout | undefined;
  let holds = 0;
  let syncs = syncsOf(operationLog);
  let stopped = false;

  function syncsOf(synced: OperationLog): LogSyncs {
    return openLogSyncs({
      log: synced,
      version: () => state.version,
      fail: (error) => fail(`${logDirectory} cannot be synced`, error),
    });
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
      state.replay(logDirectory);
    } catch (error) {
      log.warn('until a restart, the newest changes cannot be seen', { error: describeError(error) });
    }
  }

  function enter(): Promise<void> {
    if (readOnly !== undefined) throw new FsError('EROFS', readOnly);
    if (stopped) throw new FsError('EROFS', 'the metadata is closed');
    if (turn !== undefined) return turn.promise;
    try {
      state.begin();
    } catch (error) {
      throw fail(`${databasePath} cannot begin a transaction`, error);
    }
    turn = Promise.withResolvers<void>();
    // Whoever proposed hears of a failure; without listeners it must not count as unhandled.
    turn.promise.catch(() => {});
    queueMicrotask(endTurn);
    return turn.promise;
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
    if (holds > 0) {
      commitTimer = setTimeout(commitBatch, COMMIT_INTERVAL_MS);
      return;
    }
    commitNow();
  }

  function commitNow(): void {
    if (turn !== undefined) endTurn();
    if (!state.connection.isTransaction() || readOnly !== undefined) return;
    try {
      state.commit();
    } catch (error) {
      fail(`${databasePath} cannot commit`, error);
      showAcknowledged();
      return;
    }
    const operations = operationsInTransaction;
    operationsInTransaction = 0;
    options.onCommit(operations);
  }

  function barrier(alone = false): Promise<void> {
    if (readOnly !== undefined) return Promise.reject(new FsError('EIO', readOnly));
    if (turn !== undefined) endTurn();
    return syncs.barrier(alone);
  }

  return {
    enter,
    add(proposal, body, foreign = false) {
      try {
        operationLog.makeRoom(body.length);
      } catch (error) {
        throw fail(`${logDirectory} cannot grow`, error);
      }
      try {
        const outcome = state.apply(proposal.operation, proposal.payload);
        operationsInTransaction++;
        operationLog.append(state.version, body);
        return outcome;
      } catch (error) {
        if (error instanceof FsError) throw error;
        if (foreign && error instanceof AssertionError) {
          operationLog.write();
          state.replay(logDirectory);
          throw error;
        }
        // A half-applied operation must not be committed: the log has what was acknowledged.
        const failure = fail(`${databasePath} cannot be changed`, error);
        showAcknowledged();
        throw failure;
      }
    },
    endTurn,
    commitNow,
    hold() {
      let held = true;
      holds++;
      return () => {
        if (held) holds--;
        held = false;
      };
    },
    barrier,
    durableVersion: () => syncs.durableVersion(),
    readOnly: () => readOnly,
    fail,
    isQuiet: () => turn === undefined && !syncs.running(),
    async quiet() {
      if (turn !== undefined) endTurn();
      await syncs.quiet();
    },
    operationLog: () => operationLog,
    restart(next) {
      operationLog = next;
      syncs = syncsOf(next);
      operationsInTransaction = 0;
    },
    stop() {
      stopped = true;
      clearTimeout(commitTimer);
    },
  };
}
