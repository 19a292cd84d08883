/**
 * What the replicated state says of the cluster itself: members, leaderships, settings. Read often and changed
 * rarely, so each is kept in memory until an operation changes it.
 *
 * A node that never was in a cluster has no rows here: settings are the defaults, and its operations belong to
 * SOLO_EPOCH, which no `lead` entry began.
 */

import {
  type ClusterSettings,
  type EpochStart,
  type Member,
  MEMBER_NUMBER_MAX,
} from '../protocol/cluster.ts';
import { FsError } from '../protocol/errors.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';
import type { Connection } from './connection.ts';

/** Epoch of what a node wrote before it was in a cluster. */
export const SOLO_EPOCH = 1 as Epoch;
export const DEFAULT_SETTINGS: ClusterSettings = {
  mode: 'replicated',
  factor: 3,
  preferred: null,
  inSync: [],
};
const SETTING_KEYS = ['mode', 'factor', 'preferred', 'inSync'] as const;

export interface ClusterState {
  /** By number. */
  members(): readonly Member[];
  settings(): ClusterSettings;
  /** Leaderships up to `version`, oldest first. */
  epochs(version: number): readonly EpochStart[];
  /** The leadership that the entry `version`, the last one, belongs to; 0 for no entry. */
  epoch(version: number): Epoch;
  /** Errors: FsError EINVAL when the epoch does not grow. */
  lead(operation: Extract<Operation, { kind: 'lead' }>, version: number): void;
  /** Errors: FsError EINVAL for a number that cannot be or changes, EEXIST for one that another member has. */
  setMember(member: Member): void;
  setSettings(settings: Partial<ClusterSettings>): void;
  /** The database was opened anew, or a transaction was taken back. */
  reload(): void;
}

export function clusterState(connection: Connection): ClusterState {
  const memberRows = connection.query(
    'SELECT id, number, role, address, state, key FROM member ORDER BY number',
  );
  const settingRows = connection.query('SELECT key, value FROM cluster_setting');
  const epochRows = connection.query('SELECT epoch, first_version FROM epoch ORDER BY epoch');
  const putMember = connection.command('INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?, ?, ?)');
  const putSetting = connection.command('INSERT OR REPLACE INTO cluster_setting VALUES (?, ?)');
  const insertEpoch = connection.command('INSERT INTO epoch VALUES (?, ?, ?)');

  let members: readonly Member[] | undefined;
  let settings: ClusterSettings | undefined;
  let starts: readonly EpochStart[] = readEpochs();

  function readEpochs(): readonly EpochStart[] {
    return epochRows.all().map((row) => ({ epoch: row[0] as Epoch, first: row[1] as Version }));
  }

  function readMembers(): readonly Member[] {
    return memberRows.all().map((row) => ({
      id: row[0] as NodeId,
      number: row[1] as number,
      role: row[2] as Member['role'],
      address: row[3] as string,
      state: row[4] as Member['state'],
      key: row[5] as string,
    }));
  }

  function readSettings(): ClusterSettings {
    const found = settingRows.all().map((row) => [row[0], JSON.parse(row[1] as string)]);
    return { ...DEFAULT_SETTINGS, ...(Object.fromEntries(found) as Partial<ClusterSettings>) };
  }

  const membersNow = (): readonly Member[] => {
    members ??= readMembers();
    return members;
  };

  return {
    members: membersNow,
    settings() {
      settings ??= readSettings();
      return settings;
    },
    epochs(version) {
      if (version === 0) return [];
      const first = starts[0];
      if (first !== undefined && first.first <= 1) return starts;
      return [{ epoch: SOLO_EPOCH, first: 1 as Version }, ...starts];
    },
    epoch(version) {
      if (version === 0) return 0 as Epoch;
      return starts.at(-1)?.epoch ?? SOLO_EPOCH;
    },
    lead({ epoch, leader }, version) {
      if (epoch <= (starts.at(-1)?.epoch ?? 0)) throw new FsError('EINVAL', 'the epoch does not grow');
      insertEpoch.run(epoch, version, leader);
      starts = [...starts, { epoch, first: version as Version }];
    },
    setMember(member) {
      const { id, number, role, address, state, key } = member;
      if (!Number.isInteger(number) || number < 0 || number > MEMBER_NUMBER_MAX) throw new FsError('EINVAL');
      for (const other of membersNow()) {
        if (other.id !== id && other.number === number) throw new FsError('EEXIST');
        if (other.id === id && other.number !== number) throw new FsError('EINVAL');
      }
      putMember.run(id, number, role, address, state, key);
      members = undefined;
    },
    setSettings(changes) {
      for (const key of SETTING_KEYS) {
        if (changes[key] !== undefined) putSetting.run(key, JSON.stringify(changes[key]));
      }
      settings = undefined;
    },
    reload() {
      members = undefined;
      settings = undefined;
      starts = readEpochs();
    },
  };
}
