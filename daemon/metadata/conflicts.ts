/** The list of conflicts in the replicated state (protocol/conflict.ts). Rare and few: read when somebody asks. */

import type { Conflict, ConflictKind } from '../protocol/conflict.ts';
import { FsError } from '../protocol/errors.ts';
import type { Inode, NodeId } from '../protocol/ids.ts';
import type { Connection } from './connection.ts';

export interface Conflicts {
  /** By number. */
  list(limit: number): Conflict[];
  count(): number;
  add(id: number, conflict: Omit<Conflict, 'id'>): void;
  /** Errors: FsError ENOENT. */
  remove(id: number): void;
}

export function openConflicts(connection: Connection): Conflicts {
  const rows = connection.query(
    `SELECT conflict, kind, node, time_s, time_ns, parent, name, copy_parent, copy_name, copy_inode
     FROM conflict ORDER BY conflict LIMIT ?`,
  );
  const counted = connection.query('SELECT count(*) FROM conflict');
  const insert = connection.command('INSERT INTO conflict VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)');
  const erase = connection.command('DELETE FROM conflict WHERE conflict = ?');

  return {
    list: (limit) =>
      rows.all(limit).map((row) => ({
        id: row[0] as number,
        kind: row[1] as ConflictKind,
        node: row[2] as NodeId,
        time: { seconds: row[3] as number, nanoseconds: row[4] as number },
        parent: row[5] as Inode,
        name: row[6] as Uint8Array,
        copy:
          row[7] === null
            ? null
            : { parent: row[7] as Inode, name: row[8] as Uint8Array, inode: row[9] as Inode },
      })),
    count: () => (counted.get()?.[0] as number | undefined) ?? 0,
    add(id, { kind, node, time, parent, name, copy }) {
      const { seconds, nanoseconds } = time;
      insert.run(
        ...[id, kind, node, seconds, nanoseconds, parent, name],
        ...(copy === null ? [null, null, null] : [copy.parent, copy.name, copy.inode]),
      );
    },
    remove(id) {
      if (Number(erase.run(id).changes) === 0) throw new FsError('ENOENT', `there is no conflict ${id}`);
    },
  };
}
