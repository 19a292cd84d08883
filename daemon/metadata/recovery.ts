/**
 * Brings the database to the end of the log and opens the log for more; a refusal leaves both as they were.
 *
 * What can go wrong: the log is gone, lacks a segment, or lacks entries that a later segment says were durable. Then
 * something acknowledged is missing, and a person has to decide (LOG_MISSING, LOG_INCOMPLETE). A tail that a power cut
 * tore is none of this: nothing durable lies behind it.
 */

import * as path from 'node:path';
import { WarrenError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';
import { decodeEntry } from './entry-codec.ts';
import { hasLog, logReach, readLog, SEGMENT_BYTES } from './log-reading.ts';
import { isFull, noSpaceError, openError } from './open-database.ts';
import { type OperationLog, openOperationLog } from './operation-log.ts';
import type { State } from './state.ts';

export interface RecoveryOptions {
  readonly databasePath: string;
  readonly logDirectory: string;
  /** Go on without a log that is gone or damaged. */
  readonly salvage: boolean;
  readonly log: Log;
}

/** Errors: LOG_MISSING, LOG_INCOMPLETE, METADATA_NO_SPACE, METADATA_DAMAGED; the connection is closed then. */
export function recover(state: State, options: RecoveryOptions): OperationLog {
  const { databasePath, logDirectory } = options;
  try {
    applyLog(state, options);
    return openOperationLog(logDirectory, state.version);
  } catch (error) {
    state.connection.closeUntouched();
    if (!isFull(error)) throw openError(databasePath, error);
    throw noSpaceError(path.dirname(logDirectory), 4 * SEGMENT_BYTES, error);
  }
}

/** Applies what the log has beyond SQLite and collects the small chunks that small.db may lack. */
function applyLog(state: State, { logDirectory, salvage, log }: RecoveryOptions): void {
  const { unsettled, reads, connection } = state;
  if (state.version > 0 && !hasLog(logDirectory) && !salvage) {
    throw new WarrenError({
      code: 'LOG_MISSING',
      message: `${logDirectory} is gone, but meta.db is at version ${state.version}: operations that were acknowledged may be missing.`,
      hint: 'Restore the folder from a backup taken together with meta.db. To go on with what meta.db has, run `warren fsck --repair`.',
    });
  }
  const settled = state.committedSettled();
  const before = state.version;
  // A salvage takes every small chunk that the log still has: small.db may be a new one.
  const after = salvage ? 0 : Math.min(settled, before);
  for (const { version, body } of readLog(logDirectory, after)) {
    if (version > before && version !== state.version + 1) break;
    const { operation, payload } = decodeEntry(body);
    if (version <= before) {
      unsettled.version = version;
      for (const [hash, data] of payload) if (reads.hasChunk(hash)) unsettled.add(hash, data);
      continue;
    }
    state.begin();
    state.apply(operation, payload);
  }
  if (!salvage) refuseGap(state.version, after, logDirectory);
  if (salvage) state.begin();
  const applied = state.version - before;
  if (connection.isTransaction()) {
    // Going on without the log: whether small.db has what it brought is no question any more.
    const settledMax = salvage ? state.version : settled;
    state.commit(Math.min(settledMax, unsettled.settledVersion(state.version)));
  }
  if (applied > 0) {
    const { version } = state;
    log.info(`applied ${applied} operations from the log that meta.db did not have yet`, { version });
  }
}

/** The log must hold everything after `after`, and all that it says was durable. */
function refuseGap(version: number, after: number, logDirectory: string): void {
  const reach = logReach(logDirectory);
  const missingStart = after < version && reach.first > after + 1;
  if (!missingStart && reach.durable <= version) return;
  const [from, to] = missingStart ? [after + 1, reach.first - 1] : [version + 1, reach.durable];
  throw new WarrenError({
    code: 'LOG_INCOMPLETE',
    message: `${logDirectory} is damaged or lacks a file: operations ${from} to ${to}, which were acknowledged, cannot be read. Nothing was changed.`,
    hint: 'Put the missing file back, or restore the folder from a backup taken together with meta.db. To go on without those operations and all after them, run `warren fsck --repair`.',
  });
}
