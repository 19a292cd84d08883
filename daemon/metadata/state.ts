/**
 * The state itself: the database, what is kept in memory beside it, and which version both are at.
 *
 * Invariant: `version` is the last operation that reads see; `committedVersion` the last one that SQLite has
 * committed (in its WAL). Between the two lies one open transaction. Everything that is kept in memory can be built
 * again from the database and the log, and is after anything was taken back.
 */

import type { Operation, OperationOutcome } from '../protocol/operations.ts';
import type { OperationPayload } from '../replication/state-machine.ts';
import { assert, defined } from '../runtime/assert.ts';
import { openApply } from './apply.ts';
import type { Totals } from './apply-extents.ts';
import { type ClusterState, clusterState } from './cluster-state.ts';
import { type Connection, openConnection } from './connection.ts';
import { decodeEntry } from './entry-codec.ts';
import { readLog } from './log-reading.ts';
import { openError } from './open-database.ts';
import { type MetadataReads, metadataReads } from './reads.ts';
import { type Unsettled, unsettledChunks } from './unsettled.ts';
import { stampOf } from './wal.ts';

export interface State {
  readonly connection: Connection;
  readonly reads: MetadataReads;
  readonly cluster: ClusterState;
  readonly unsettled: Unsettled;
  readonly totals: Readonly<Totals>;
  version: number;
  committedVersion: number;
  /** Opens the transaction when there is none. */
  begin(): void;
  /** Applies the next operation in the open transaction. Errors: FsError, and nothing has changed. */
  apply(operation: Operation, payload: OperationPayload): OperationOutcome;
  /** `settled` not given: as the chunks that wait say. */
  commit(settled?: number): void;
  /** Takes the open transaction back. */
  rollback(): void;
  /** Takes the open transaction back, and applies anew what the log has beyond it, in a new one. */
  replay(logDirectory: string): void;
  /** Everything up to here had its small chunks in small.db at the last commit. */
  committedSettled(): number;
  /** After the database was opened again: everything in memory as the database says. */
  reload(): void;
}

/** Errors: as `openDatabase`. */
export function openState(databasePath: string, create: boolean): State {
  const connection = openConnection(databasePath, create);
  try {
    return stateOf(connection);
  } catch (error) {
    connection.closeUntouched();
    throw openError(databasePath, error);
  }
}

function stateOf(connection: Connection): State {
  const cluster = clusterState(connection);
  const reads = metadataReads(connection, cluster);
  const unsettled = unsettledChunks();
  const settings = savedSettings(connection);
  const totals: Totals = settings.totals();
  let committedTotals = { ...totals };
  const apply = openApply(connection, reads, cluster, totals, unsettled);

  return {
    connection,
    reads,
    cluster,
    unsettled,
    totals,
    version: settings.version(),
    committedVersion: settings.version(),
    begin() {
      if (!connection.isTransaction()) connection.exec('BEGIN IMMEDIATE');
    },
    apply(operation, payload) {
      const next = this.version + 1;
      unsettled.version = next;
      const outcome = apply(operation, next, payload);
      this.version = next;
      return outcome;
    },
    commit(settled) {
      settings.save(this.version, settled ?? unsettled.settledVersion(this.version), totals);
      connection.exec(`PRAGMA application_id = ${stampOf(this.version)}; COMMIT`);
      this.committedVersion = this.version;
      committedTotals = { ...totals };
    },
    rollback() {
      if (connection.isTransaction()) connection.exec('ROLLBACK');
      Object.assign(totals, committedTotals);
      cluster.reload();
      this.version = this.committedVersion;
    },
    replay(logDirectory) {
      this.rollback();
      connection.exec('BEGIN');
      for (const { version, body } of readLog(logDirectory, this.committedVersion)) {
        assert(version === this.version + 1, `operation ${version} follows ${this.version}`);
        const { operation, payload } = decodeEntry(body);
        this.apply(operation, payload);
      }
    },
    committedSettled: settings.settled,
    reload() {
      settings.reload();
      this.version = settings.version();
      this.committedVersion = this.version;
      committedTotals = settings.totals();
      Object.assign(totals, committedTotals);
      reads.reload();
      cluster.reload();
      unsettled.clear();
    },
  };
}

type SettingKey = 'version' | 'settled' | 'inodes' | 'stored' | 'allocated';

function savedSettings(connection: Connection) {
  const rows = connection.query('SELECT key, value FROM setting');
  const update = connection.command('UPDATE setting SET value = ? WHERE key = ?');
  let values = new Map<string, number>();
  let settled = 0;
  const get = (key: SettingKey): number => defined(values.get(key), `setting ${key} is there`);

  function reload(): void {
    values = new Map(rows.all().map((row) => [row[0] as string, row[1] as number]));
    for (const key of ['version', 'settled', 'inodes', 'stored', 'allocated'] as const) {
      assert(Number.isSafeInteger(get(key)), `setting ${key} is a number`);
    }
    settled = get('settled');
  }

  reload();
  return {
    reload,
    version: () => get('version'),
    totals: (): Totals => ({ inodes: get('inodes'), stored: get('stored'), allocated: get('allocated') }),
    settled: () => settled,
    save(version: number, settledNow: number, totals: Totals): void {
      update.run(version, 'version');
      update.run(settledNow, 'settled');
      update.run(totals.inodes, 'inodes');
      update.run(totals.stored, 'stored');
      update.run(totals.allocated, 'allocated');
      settled = settledNow;
    },
  };
}
