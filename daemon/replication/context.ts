/** What the parts of a running replication share: what they were given, and small answers about this node. */

import type { Coordinator } from '../cluster/coordinator.ts';
import type { Peers } from '../peers/interface.ts';
import type { EncodedEntry, LogPosition, OperationTag } from '../protocol/cluster.ts';
import type { NodeId, Version } from '../protocol/ids.ts';
import type { NodeFigures } from '../protocol/peer-api.ts';
import type { Clock, Timers } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { SnapshotFiles } from './snapshots.ts';
import type { StateMachine } from './state-machine.ts';

/** Entries of a history that this node led (in part) and that lost against another one. */
export interface Fork {
  /** The last entry that both histories have. */
  readonly common: LogPosition;
  readonly last: LogPosition;
  /** Everything after `common`, in order; undefined: the log does not reach back, only the database has it. */
  readonly entries: readonly EncodedEntry[] | undefined;
  /** What was answered as done, as far as this process knows; later entries may or may not have been. */
  readonly committed: Version;
}

export interface ReplicationOptions {
  readonly self: NodeId;
  /** One life of this process; the session of its tags. */
  readonly incarnation: string;
  readonly peers: Peers;
  readonly state: StateMachine;
  readonly coordinator: Coordinator;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  readonly files: SnapshotFiles;
  /** A proposal waits at most this long for a leader and its answer. */
  readonly timeoutMs: number;
  /** It joined a cluster and may not have its state yet (until its own member entry arrives). */
  readonly joining: boolean;
  figures(): NodeFigures;
  /**
   * Before an entry of another node counts as done here: kernels are told what is old. Undefined: nothing to wait for.
   * `crossed`: a kernel may hold the lock that telling it needs until a proposal of this node is answered.
   */
  beforeAck?(crossed: boolean): Promise<void> | undefined;
  /** Keeps the entries before they are dropped; nothing is dropped while it has not resolved. */
  onFork(fork: Fork): Promise<void>;
}

export type Context = ReplicationOptions & {
  /** The last entry that this node knows to be on every in-sync node. */
  committed(): Version;
  /** This node has proposals that are not answered yet. */
  hasProposals(): boolean;
  /** The version of the operation with this tag, where it is in the log already (of the newest ones). */
  doneAs(tag: OperationTag): Version | undefined;
  /** It grew. */
  noteCommitted(version: Version): void;
  /** This node's disk refused: it leads no more and says so. */
  broken(what: string, error: unknown): void;
};
