/** What the rest of the daemon asks of replication: propose, wait for durability, see who leads. */

import type { ClusterSettings, LogPosition, Member } from '../protocol/cluster.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { Operation, OperationOutcome } from '../protocol/operations.ts';
import type { OperationPayload } from './state-machine.ts';

export type Leadership =
  /** `reason`: what is waited for, as a sentence. */
  | { readonly kind: 'none'; readonly reason: string; readonly sinceMs: number }
  | { readonly kind: 'follows'; readonly leader: NodeId; readonly epoch: Epoch }
  | { readonly kind: 'leads'; readonly epoch: Epoch };

/** One other node, as this one sees it. */
export interface PeerView {
  readonly id: NodeId;
  readonly state: 'in-sync' | 'catching-up' | 'snapshot' | 'lost' | 'gone' | 'unknown';
  /** Why it is not in sync; empty when it is. */
  readonly reason: string;
  readonly version: Version;
  readonly lastHeardMs: number | undefined;
}

export interface Replication {
  /**
   * Answers when every in-sync node has applied the operation. While nobody leads it waits, at most `timeoutMs` of the
   * options, then FsError EROFS (certainly not done) or EIO (not known) with a reason; also FsError of the operation itself. Exactly once, also over a failover.
   * `durable`: and every in-sync node has it durable.
   */
  propose(
    operation: Operation,
    payload?: OperationPayload,
    options?: { readonly durable?: boolean; readonly tag?: { session: string; sequence: number } },
  ): Promise<OperationOutcome>;
  /** Resolves when everything answered so far is durable on every in-sync node. */
  barrier(): Promise<void>;
  leadership(): Leadership;
  onLeadership(listener: (leadership: Leadership) => void): () => void;
  /** The in-sync set that this node knows, itself included when it is in it. */
  inSync(): readonly NodeId[];
  isInSync(): boolean;
  peers(): readonly PeerView[];
  position(): LogPosition;
  /** Hands leadership over in order; resolves when `to` leads. Errors: WarrenError NOT_LEADER, NOT_IN_SYNC, HANDOVER_FAILED. */
  handOver(to: NodeId): Promise<void>;
  members(): readonly Member[];
  settings(): ClusterSettings;
  /** Stops: a leader hands over first where it can. */
  close(): Promise<void>;
}
