/**
 * Who leads: the seam between replication and the way a leader is found. `lowest-id` finds one by heartbeats alone;
 * another one may keep a lease elsewhere (epoch: its revision; the in-sync set: a key that only the lease holder may
 * change). So an in-sync set is used only after the coordinator approved it, and a leader steps down when it is told.
 *
 * The coordinator decides, replication does: `lead`, `follow` and `none` are called in the order in which they hold,
 * never from within a call of replication to the coordinator other than those that say so.
 */

import type { ClusterSettings, LogPosition, Member } from '../protocol/cluster.ts';
import type { Epoch, NodeId } from '../protocol/ids.ts';
import type { Heartbeat, NodeFigures } from '../protocol/peer-api.ts';

/** What the coordinator asks of this node, always as it is now. */
export interface LocalState {
  position(): LogPosition;
  members(): readonly Member[];
  settings(): ClusterSettings;
  /** It has the state of the cluster, and is not busy replacing it. */
  hasState(): boolean;
  figures(): NodeFigures;
}

export type Standing =
  /** `reason`: what is waited for, as a sentence. */
  | { readonly kind: 'none'; readonly reason: string }
  | { readonly kind: 'follows'; readonly leader: NodeId; readonly epoch: Epoch }
  | { readonly kind: 'leads'; readonly epoch: Epoch };

export interface CoordinatorHooks {
  /** The standing changed; called with it already in place. */
  changed(standing: Standing): void;
  /** Leadership should go to `to`, which is in sync. */
  handOver(to: NodeId): void;
}

export interface Coordinator {
  start(local: LocalState, hooks: CoordinatorHooks): void;
  standing(): Standing;
  /** Entries of older leaderships are refused. */
  accepts(): Epoch;
  /** A leader that is followed or may be followed now sent entries; may call `changed`. False: not from this one. */
  admits(leader: NodeId, epoch: Epoch): boolean;
  /** `from` accepts nothing older than `epoch`; may call `changed`. */
  refused(from: NodeId, epoch: Epoch): void;
  /** Resolves when the leader of `epoch` may use this in-sync set. Errors: it may not (it is no leader any more). */
  approveInSync(epoch: Epoch, nodes: readonly NodeId[]): Promise<void>;
  /**
   * First half of an orderly hand-over: this node leads no more and waits for `to`; undefined: `to` did not want it.
   * Calls `changed`.
   */
  abdicate(to: NodeId | undefined): void;
  /** Second half, at the new leader: leads at once. Calls `changed`. Errors: a sentence why it cannot. */
  takeOver(from: NodeId): Promise<{ readonly epoch: Epoch } | { readonly refusal: string }>;
  /** Wants no leadership any more, and gives it up when it has it; others are told. May call `changed`. */
  leave(reason: string): void;
  /** Members or their roles changed. */
  membersChanged(): void;
  /** What was last heard of a node, and when (monotonic). */
  heard(id: NodeId): { readonly heartbeat: Heartbeat; readonly atMs: number } | undefined;
  close(): void;
}
