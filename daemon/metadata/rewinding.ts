/**
 * Changes of the past: entries taken back, or the whole state replaced by a snapshot.
 *
 * Both work on the files while nothing is open: all connections are closed (the worker's too; of the last one, which
 * would move the WAL into the database file, a read-only one is made), the files are changed, and everything is
 * opened again by the way of a start. From closing to opening nothing else runs in this thread, so nobody meets a
 * statement without a database.
 *
 * A crash at any step leaves files that open. *Taking back*: the WAL is cut first. Until the log is cut too, a start
 * applies the log again: the state before. The log is cut from its end, so in between it is a shorter one without a
 * gap. *Restoring*: the new database lies beside the old one, checked and durable; then a marker file is written, and
 * from there on every start finishes what is left to do (`finishRestore`): each step may be done twice.
 *
 * SQLite keeps one index of the WAL for all connections of a process to a file. Where another connection is open
 * (fsck reads the running node), that index would outlive the cut: then nothing is taken back, and the caller restores
 * a snapshot, which makes a new file.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import type { EncodedEntry, LogPosition } from '../protocol/cluster.ts';
import { FsError } from '../protocol/errors.ts';
import type { Version } from '../protocol/ids.ts';
import type { Applied } from '../replication/state-machine.ts';
import type { Log } from '../runtime/log.ts';
import { assert } from '../runtime/assert.ts';
import type { Checkpointing } from './checkpointing.ts';
import type { Committing } from './committing.ts';
import { syncDirectory, writeDurably } from './durable-folder.ts';
import { decodeEntry } from './entry-codec.ts';
import { readLog } from './log-reading.ts';
import { cutLog, openOperationLog } from './operation-log.ts';
import { recover } from './recovery.ts';
import { checkSnapshot } from './snapshots.ts';
import type { State } from './state.ts';
import { cutWal, fileIsAtMost } from './wal.ts';

const MARKER = 'restore.json';
const NEXT = 'meta.db.next';
/** What belongs to the pages that are replaced, and would spoil the new ones. */
const OF_THE_OLD_DATABASE = ['meta.db-wal', 'meta.db-shm', 'meta.sums', 'meta.copy.sums', 'meta.copy'];

export interface RewindingOptions {
  readonly directory: string;
  readonly databasePath: string;
  readonly logDirectory: string;
  readonly state: State;
  readonly committing: Committing;
  readonly checkpointing: Checkpointing;
  readonly log: Log;
  readonly onStep: (step: string) => void;
}

export interface Rewinding {
  takeBack(version: Version): Promise<readonly Applied[] | undefined>;
  restore(file: string, position: LogPosition): Promise<void>;
}

export function openRewinding(options: RewindingOptions): Rewinding {
  const { directory, databasePath, logDirectory, state, committing, checkpointing, log, onStep } = options;

  /** `change` works on the closed files; `agreed` says, on the new state, what is agreed now. */
  async function changeFiles(change: () => void, agreed: () => number): Promise<void> {
    await checkpointing.pause();
    while (!committing.isQuiet()) await committing.quiet();
    committing.operationLog().close();
    state.connection.closeUntouched();
    try {
      change();
    } finally {
      openAgain();
      checkpointing.resume(agreed());
    }
  }

  function openAgain(): void {
    try {
      finishRestore(directory, onStep);
      state.connection.reopen();
      state.reload();
      committing.restart(recover(state, { databasePath, logDirectory, salvage: false, log }));
    } catch (error) {
      throw committing.fail(`${databasePath} cannot be opened again`, error);
    }
  }

  /** What the entries did, found by doing it once more on the state before them. */
  function outcomesOf(entries: readonly EncodedEntry[]): Applied[] {
    const bringBack = state.unsettled.save();
    state.begin();
    try {
      return entries.map(({ version, body }) => {
        const proposal = decodeEntry(body);
        return { ...proposal, version, outcome: state.apply(proposal.operation, proposal.payload) };
      });
    } finally {
      state.rollback();
      bringBack();
    }
  }

  return {
    async takeBack(version) {
      if (committing.readOnly() !== undefined) throw new FsError('EROFS', committing.readOnly());
      if (version >= state.version) return [];
      if (!fileIsAtMost(databasePath, version)) return undefined;
      const taken: EncodedEntry[] = [];
      let possible = false;
      const last = state.version;
      await changeFiles(
        () => {
          possible = fileIsAtMost(databasePath, version) && !isOpenHere(`${databasePath}-shm`);
          if (!possible) return;
          for (const entry of readLog(logDirectory, version)) {
            taken.push({ version: entry.version as Version, body: Buffer.from(entry.body) });
          }
          assert(taken.length === last - version, `the log holds the entries ${version + 1} to ${last}`);
          onStep('closed');
          cutWal(databasePath, version);
          onStep('wal-cut');
          cutLog(logDirectory, version, onStep);
        },
        () => Math.min(checkpointing.agreed(), possible ? version : Number.POSITIVE_INFINITY),
      );
      if (!possible) return undefined;
      assert(
        state.version === version,
        `the state is at ${version} after taking back, and not at ${state.version}`,
      );
      log.info('entries that only this node had were taken back', { from: version + 1, to: last });
      return outcomesOf(taken);
    },

    async restore(file, position) {
      if (committing.readOnly() !== undefined) throw new FsError('EROFS', committing.readOnly());
      await checkSnapshot(file, position);
      await changeFiles(
        () => {
          fs.renameSync(file, path.join(directory, NEXT));
          syncDirectory(directory);
          onStep('restore-moved');
          writeDurably(path.join(directory, MARKER), JSON.stringify(position));
          onStep('restore-marked');
        },
        () => (state.cluster.members().length > 1 ? position.version : Number.POSITIVE_INFINITY),
      );
      log.info('the metadata was replaced by a snapshot', { ...position });
    },
  };
}

/**
 * Finishes a restore that a crash interrupted; to be called before anything is opened. What lies there without a
 * marker was not meant to count yet.
 */
export function finishRestore(directory: string, onStep: (step: string) => void = () => {}): void {
  const marker = path.join(directory, MARKER);
  const next = path.join(directory, NEXT);
  if (!fs.existsSync(marker)) {
    fs.rmSync(next, { force: true });
    return;
  }
  const position = JSON.parse(fs.readFileSync(marker, 'utf8')) as LogPosition;
  if (fs.existsSync(next)) {
    for (const name of OF_THE_OLD_DATABASE) {
      fs.rmSync(path.join(directory, name), { force: true });
    }
    syncDirectory(directory);
    onStep('restore-old-removed');
    fs.renameSync(next, path.join(directory, 'meta.db'));
    syncDirectory(directory);
    onStep('restore-swapped');
  }
  const logDirectory = path.join(directory, 'log');
  fs.rmSync(logDirectory, { recursive: true, force: true });
  onStep('restore-log-removed');
  openOperationLog(logDirectory, position.version).close();
  syncDirectory(logDirectory);
  syncDirectory(directory);
  onStep('restore-log-begun');
  fs.rmSync(marker);
  syncDirectory(directory);
}

/** Whether this process has the file open. */
function isOpenHere(file: string): boolean {
  if (!fs.existsSync(file)) return false;
  const real = fs.realpathSync(file);
  for (const descriptor of fs.readdirSync('/proc/self/fd')) {
    try {
      if (fs.readlinkSync(`/proc/self/fd/${descriptor}`) === real) return true;
    } catch {
      // The descriptor of the listing itself is gone by now.
    }
  }
  return false;
}
