/**
 * What the rooms above may ask of the network: calls to members by their id. The simulator implements it too.
 *
 * A call ends by its answer, by PeerError, or by its time-out: never later. After an error the caller does not know
 * whether the other side has done it. Calls of one lane to one node arrive in the order in which they were made, and
 * handlers of one lane are started in that order; answers come in any order.
 */

import type { NodeId } from '../protocol/ids.ts';
import type { PeerAnswer, PeerMethod, PeerRequest } from '../protocol/peer-api.ts';

export interface CallOptions {
  /** Raw bytes beside the request; must not change until the call ends. */
  readonly bytes?: readonly Uint8Array[];
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export interface Answer<M extends PeerMethod> {
  readonly answer: PeerAnswer<M>;
  /** View into a buffer that nobody else writes; keep or copy at will. */
  readonly bytes: Buffer;
}

/** `unreachable`: nothing was sent. `lost`, `timeout`: unknown whether it was done. `refused`: the handler threw. */
export type PeerErrorKind = 'unreachable' | 'lost' | 'timeout' | 'refused' | 'aborted';

export class PeerError extends Error {
  readonly kind: PeerErrorKind;
  constructor(kind: PeerErrorKind, message: string) {
    super(message);
    this.name = 'PeerError';
    this.kind = kind;
  }
}

export type Handler<M extends PeerMethod> = (
  from: NodeId,
  request: PeerRequest<M>,
  bytes: Buffer,
) => Promise<{ readonly answer: PeerAnswer<M>; readonly bytes?: readonly Uint8Array[] }>;

/**
 * `gone`: its machine says that nobody listens (connection refused): the process is dead. `lost`: no connection and
 * no such word (cut, powered off, or not tried yet). `connected`: at least the control lane is up.
 */
export type LinkState = 'connected' | 'gone' | 'lost';

export interface Peers {
  readonly self: NodeId;
  call<M extends PeerMethod>(
    to: NodeId,
    method: M,
    request: PeerRequest<M>,
    options: CallOptions,
  ): Promise<Answer<M>>;
  /** One handler for each method, set once before the first message. */
  handle<M extends PeerMethod>(method: M, handler: Handler<M>): void;
  link(id: NodeId): LinkState;
  /** Called when `link(id)` changes. Answers how to stop. */
  onLink(listener: (id: NodeId, state: LinkState) => void): () => void;
}
