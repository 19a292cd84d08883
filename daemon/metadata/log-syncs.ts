/**
 * Makes the log durable: one fdatasync for all who asked while the previous one ran.
 *
 * Who is alone does not need a thread: on a quick disk its fdatasync is made on the event loop (runtime/pace.ts says
 * when), because a 4 KiB write with fsync waited for the thread's wake-ups about half as long as for the disk.
 */

import type { FsError } from '../protocol/errors.ts';
import { openPace } from '../runtime/pace.ts';
import type { OperationLog } from './operation-log.ts';

export interface LogSyncs {
  /** Resolves when everything written so far is durable. `alone`: nobody else waits for the event loop. */
  barrier(alone: boolean): Promise<void>;
  durableVersion(): number;
  running(): boolean;
  /** Resolves when no sync runs; never rejects. */
  quiet(): Promise<void>;
}

export function openLogSyncs(options: {
  log: OperationLog;
  /** The last operation that was written; right after opening all of it is durable. */
  version: () => number;
  /** Answers the error for those who wait. */
  fail: (error: unknown) => FsError;
}): LogSyncs {
  const { log, version, fail } = options;
  const pace = openPace();
  /** The running fdatasync, and the last operation that was written before it started. */
  let syncing: Promise<void> | undefined;
  let syncingVersion = 0;
  let syncNext: Promise<void> | undefined;
  let durableVersion = version();

  function sync(): Promise<void> {
    const covers = version();
    syncingVersion = covers;
    const running = log
      .sync()
      .then(() => {
        durableVersion = covers;
      })
      .catch((error: unknown) => {
        throw fail(error);
      })
      .finally(() => {
        syncing = undefined;
      });
    syncing = running;
    return running;
  }

  function syncedAtOnce(): boolean {
    try {
      if (pace.run(() => log.syncAtOnce()) !== true) return false;
    } catch (error) {
      throw fail(error);
    }
    durableVersion = version();
    return true;
  }

  return {
    async barrier(alone) {
      if (durableVersion >= version()) return undefined;
      if (syncing === undefined) return alone && syncedAtOnce() ? undefined : sync();
      if (syncingVersion >= version()) return syncing;
      // The running fdatasync started before our last write: the next one is ours.
      syncNext ??= syncing
        .catch(() => {})
        .then(() => {
          syncNext = undefined;
          return sync();
        });
      return syncNext;
    },
    durableVersion: () => durableVersion,
    running: () => syncing !== undefined || syncNext !== undefined,
    async quiet() {
      while (syncing !== undefined || syncNext !== undefined) await (syncNext ?? syncing)?.catch(() => {});
    },
  };
}
