/**
 * Snapshots: a file that holds the whole state at one version, for a node that the log does not bring up to date.
 *
 * Made by SQLite's online backup from a connection whose read transaction pins the version, in the thread pool, while
 * the node goes on. The WAL cannot be started over meanwhile, so it grows by what is written in that time. Only
 * agreed entries may be in a snapshot: commits are held back until the last one is agreed.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import { backup, DatabaseSync } from 'node:sqlite';
import { Worker } from 'node:worker_threads';
import type { LogPosition } from '../protocol/cluster.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { Epoch, Version } from '../protocol/ids.ts';
import type { Snapshot } from '../replication/state-machine.ts';
import { workerUrl } from '../runtime/worker-url.ts';
import type { Checkpointing } from './checkpointing.ts';
import { SOLO_EPOCH } from './cluster-state.ts';
import type { Committing } from './committing.ts';
import { METADATA_FORMAT_VERSION } from './schema.ts';
import type { SnapshotCheck } from './snapshot-worker.ts';
import type { State } from './state.ts';

/** Pages copied in one step of the thread pool. */
const BACKUP_PAGES = 1000;
/** The last commit must be agreed within this time, or there is no snapshot. */
const AGREED_WAIT_MS = 10_000;
const TRY_MS = 1000;

export interface Snapshots {
  /** Errors: WarrenError SNAPSHOT_NOT_AGREED; those of the disk. */
  make(): Promise<Snapshot>;
  /** Resolves when none is being made. */
  quiet(): Promise<void>;
}

export interface SnapshotsOptions {
  readonly directory: string;
  readonly databasePath: string;
  readonly state: State;
  readonly committing: Committing;
  readonly checkpointing: Checkpointing;
  /** Resolves when the past is not being changed; undefined when it is not now. */
  readonly steady: () => Promise<void> | undefined;
}

export function openSnapshots(options: SnapshotsOptions): Snapshots {
  const { directory, databasePath, state, committing, checkpointing, steady } = options;
  /** One for each connection that `pin` gave out. */
  const pinned = new Set<Promise<void>>();
  let made = 0;

  /** A connection that sees one agreed version until it is closed. */
  async function pin(): Promise<{ source: DatabaseSync; position: LogPosition; unpin: () => void }> {
    for (const end = performance.now() + AGREED_WAIT_MS; performance.now() < end; ) {
      await steady();
      committing.commitNow();
      const release = committing.hold();
      try {
        const agreed = await checkpointing.whenAgreed(state.committedVersion, TRY_MS);
        if (!agreed || state.committedVersion > checkpointing.agreed() || steady() !== undefined) continue;
        const source = new DatabaseSync(databasePath, { readOnly: true, timeout: 5000 });
        const { promise, resolve } = Promise.withResolvers<void>();
        pinned.add(promise);
        const unpin = () => {
          source.close();
          pinned.delete(promise);
          resolve();
        };
        return { source, position: beginAt(source), unpin };
      } finally {
        release();
      }
    }
    throw new WarrenError({
      code: 'SNAPSHOT_NOT_AGREED',
      message: `No copy of the metadata could be made: the in-sync nodes did not confirm version ${state.committedVersion} within ${AGREED_WAIT_MS / 1000} s.`,
      hint: 'It is tried again; see `warren servers` for the node that does not answer.',
    });
  }

  return {
    async make() {
      const { source, position, unpin } = await pin();
      const folder = path.join(directory, 'tmp');
      const file = path.join(folder, `metadata-${process.pid}-${++made}.db`);
      try {
        fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
        await backup(source, file, { rate: BACKUP_PAGES });
      } catch (error) {
        fs.rmSync(file, { force: true });
        throw error;
      } finally {
        unpin();
      }
      return {
        position,
        path: file,
        size: fs.statSync(file).size,
        release: () => fs.promises.rm(file, { force: true }),
      };
    },
    async quiet() {
      while (pinned.size > 0) await Promise.all(pinned);
    },
  };
}

function beginAt(source: DatabaseSync): LogPosition {
  source.exec('BEGIN');
  const version = source.prepare("SELECT value FROM setting WHERE key = 'version'").get()?.['value'];
  const epoch = source.prepare('SELECT max(epoch) AS epoch FROM epoch').get()?.['epoch'];
  return { epoch: (epoch ?? SOLO_EPOCH) as Epoch, version: version as Version };
}

/**
 * Checks a snapshot's file, in a worker, and makes it one that a node may open: its small chunks count as settled.
 * Durable when it resolves. Errors: WarrenError SNAPSHOT_UNUSABLE; the file is as it was then.
 */
export async function checkSnapshot(file: string, position: LogPosition): Promise<void> {
  const worker = new Worker(workerUrl(import.meta.url, './snapshot-worker'), { workerData: { file } });
  const check = await new Promise<SnapshotCheck>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', () => reject(new Error('the worker that checks a snapshot has ended')));
  });
  const epoch = check.epoch ?? SOLO_EPOCH;
  const problem =
    check.problem ??
    (check.format > METADATA_FORMAT_VERSION
      ? `it has format version ${check.format}, and this Warren knows versions up to ${METADATA_FORMAT_VERSION}`
      : check.version !== position.version || epoch !== position.epoch
        ? `it is at version ${check.version} of epoch ${epoch}, and should be at ${position.version} of ${position.epoch}`
        : undefined);
  if (problem === undefined) return;
  throw new WarrenError({
    code: 'SNAPSHOT_UNUSABLE',
    message: `The copy of the metadata in ${file} cannot be used: ${problem}.`,
    hint: 'Nothing was changed. It is fetched again; when this goes on, look at the disk and the memory of the node that sent it.',
  });
}
