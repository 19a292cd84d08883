/**
 * Conflicts as people see and decide them. A decision is a change of names like any other (so undoing it is, too), then
 * the row goes: when a daemon dies in between, the row is still there and deciding again finishes it.
 */

import { randomUUID } from 'node:crypto';
import type { MetadataReads } from './metadata/reads.ts';
import type { Conflict, Keep } from './protocol/conflict.ts';
import type { ControlHandlers } from './protocol/control-api.ts';
import { CONFLICTS_MAX, type ConflictVersion } from './protocol/control-conflicts.ts';
import { FsError, WarrenError } from './protocol/errors.ts';
import { type Inode, type Name, ROOT_INODE } from './protocol/ids.ts';
import type { Operation } from './protocol/operations.ts';
import type { Replication } from './replication/interface.ts';
import type { Clock } from './runtime/clock.ts';

const DEPTH_MAX = 1000;
const TYPE_MASK = 0o170000;
const DIRECTORY = 0o040000;

export interface ConflictControlOptions {
  readonly reads: MetadataReads;
  readonly replication: Pick<Replication, 'propose'>;
  readonly clock: Clock;
  /** Forks that this node has not merged yet. */
  merging(): number;
}

export type ConflictHandlers = Pick<ControlHandlers, 'conflicts' | 'conflict-resolve'>;

export function conflictControl(options: ConflictControlOptions): ConflictHandlers {
  const { reads, replication, clock } = options;

  function pathOf(parent: Inode, name: Name): string {
    const parts = [Buffer.from(name).toString('utf8')];
    for (let at = parent, depth = 0; at !== ROOT_INODE && depth < DEPTH_MAX; depth++) {
      const above = reads.inode(at)?.parent;
      const part = above === undefined ? undefined : reads.nameIn(above, at);
      if (above === undefined || part === undefined) return `(removed)/${parts.join('/')}`;
      parts.unshift(Buffer.from(part).toString('utf8'));
      at = above;
    }
    return `/${parts.join('/')}`;
  }

  function versionAt(parent: Inode, name: Name): ConflictVersion {
    const row = reads.child(parent, name);
    return {
      path: pathOf(parent, name),
      exists: row !== undefined,
      bytes: row?.size ?? 0,
      modified: row === undefined ? '' : new Date(row.mtime.seconds * 1000).toISOString(),
    };
  }

  /** Under a tag of its own, so that also the kernels of this node are told. */
  async function propose(operation: Operation): Promise<void> {
    await replication.propose(operation, undefined, {
      tag: { session: `conflict-${randomUUID()}`, sequence: 1 },
    });
  }

  async function remove(parent: Inode, name: Name): Promise<void> {
    const row = reads.child(parent, name);
    if (row === undefined) return;
    const kind = (row.mode & TYPE_MASK) === DIRECTORY ? 'rmdir' : 'unlink';
    await propose({ kind, parent, name, time: clock.now() });
  }

  async function keep(conflict: Conflict, which: Keep): Promise<void> {
    const { copy, parent, name } = conflict;
    if (which === 'both') return;
    if (copy === null) {
      // One version only: what a side deleted and the other kept.
      const deletes = conflict.kind === 'removed' ? 'theirs' : 'mine';
      if (which === deletes) await remove(parent, name);
      return;
    }
    if (which === 'mine') {
      await remove(copy.parent, copy.name);
      return;
    }
    const isThere = reads.child(copy.parent, copy.name)?.inode === copy.inode;
    if (!isThere) return;
    const [from, to] = [
      { parent: copy.parent, name: copy.name },
      { parent, name },
    ];
    await propose({ kind: 'rename', from, to, noReplace: false, exchange: false, time: clock.now() });
  }

  return {
    conflicts: () => ({
      merging: options.merging(),
      count: reads.conflicts.count(),
      conflicts: reads.conflicts.list(CONFLICTS_MAX).map(({ id, kind, node, time, parent, name, copy }) => ({
        ...{ id, kind, node },
        time: new Date(time.seconds * 1000).toISOString(),
        mine: versionAt(parent, name),
        theirs: copy === null ? null : versionAt(copy.parent, copy.name),
      })),
    }),
    async 'conflict-resolve'({ id, keep: which }) {
      const conflict = reads.conflicts.list(Number.MAX_SAFE_INTEGER).find((known) => known.id === id);
      if (conflict === undefined) throw unknown(id);
      try {
        await keep(conflict, which);
        await propose({ kind: 'conflict-resolve', id });
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        throw new WarrenError({
          code: 'CONFLICT_NOT_RESOLVED',
          message: `Conflict ${id} stays: ${error.message}.`,
          hint: `put ${pathOf(conflict.parent, conflict.name)} right yourself, then \`warren conflicts resolve ${id} --keep both\``,
          cause: error,
        });
      }
      return { id, kept: which };
    },
  };
}

function unknown(id: number): WarrenError {
  return new WarrenError({
    code: 'CONFLICT_UNKNOWN',
    message: `There is no conflict ${id}.`,
    hint: '`warren conflicts` lists them',
  });
}
