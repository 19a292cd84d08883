/**
 * `Peers` within one process: nodes that call each other's handlers, over links that can be cut, slow or lossy and to
 * nodes that can be down. Keeps what the interface promises: order within a lane, an end for every call (answer, error
 * or time-out), bytes that the receiver owns.
 */

import { setTimeout as delay } from 'node:timers/promises';
import {
  type Answer,
  type CallOptions,
  type LinkState,
  PeerError,
  type Peers,
} from '../../daemon/peers/interface.ts';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import { LANES, type PeerAnswer, type PeerMethod, type PeerRequest } from '../../daemon/protocol/peer-api.ts';

export interface FakeCall {
  readonly from: NodeId;
  readonly to: NodeId;
  readonly method: PeerMethod;
  readonly request: unknown;
  readonly bytes: number;
}

/** What becomes of one message: undefined goes on; `lose` never arrives; `break` ends the connection after it was handled. */
export type Fault = 'lose' | 'break' | { readonly delayMs: number } | undefined;

export interface FakeNetwork {
  /** The node's view; made at the first call. */
  peers(id: NodeId): Peers;
  /** The process of the node is dead, until `up`. Calls under way are lost. */
  down(id: NodeId): void;
  up(id: NodeId): void;
  /** No message between the two, until `heal`. */
  cut(a: NodeId, b: NodeId): void;
  heal(a: NodeId, b: NodeId): void;
  /** Decides for each request that would arrive. */
  fault: (call: FakeCall) => Fault;
  /** Replaces an answer's bytes on the way: a peer that lies. */
  tamper: (call: FakeCall, bytes: Buffer) => Buffer;
  /** Every call that was made, in order. */
  readonly calls: FakeCall[];
  count(method: PeerMethod): number;
}

type AnyHandler = (
  from: NodeId,
  request: unknown,
  bytes: Buffer,
) => Promise<{ readonly answer: unknown; readonly bytes?: readonly Uint8Array[] }>;

interface Node {
  readonly peers: Peers;
  readonly handlers: Map<PeerMethod, AnyHandler>;
  readonly listeners: Set<(id: NodeId, state: LinkState) => void>;
  /** Ends the calls that wait for this node. */
  readonly waiting: Set<(error: PeerError) => void>;
  isDown: boolean;
}

export function fakeNetwork(): FakeNetwork {
  const nodes = new Map<NodeId, Node>();
  const cuts = new Set<string>();
  /** The last message of a lane that was handed over, so that the next one comes after it. */
  const lanes = new Map<string, Promise<void>>();
  const pair = (a: NodeId, b: NodeId): string => [a, b].sort().join(' ');

  function link(from: NodeId, to: NodeId): LinkState {
    const node = nodes.get(to);
    if (cuts.has(pair(from, to)) || node === undefined) return 'lost';
    return node.isDown || nodes.get(from)?.isDown === true ? 'gone' : 'connected';
  }

  /** Tells both ends of every link what changed by `change`, and ends the calls over links that are no more. */
  function changing(change: () => void): void {
    const ids = [...nodes.keys()];
    const states = () => new Map(ids.flatMap((a) => ids.map((b) => [`${a} ${b}`, link(a, b)] as const)));
    const before = states();
    change();
    const after = states();
    for (const a of ids) {
      for (const b of ids) {
        const state = after.get(`${a} ${b}`)!;
        if (a === b || before.get(`${a} ${b}`) === state) continue;
        for (const listener of nodes.get(a)!.listeners) listener(b, state);
      }
    }
    for (const id of ids) {
      if (!nodes.get(id)!.isDown) continue;
      for (const end of nodes.get(id)!.waiting) end(new PeerError('lost', `the connection to ${id} ended`));
    }
  }

  async function deliver(
    call: FakeCall,
    bytes: Buffer,
    fault: Fault,
  ): Promise<{ answer: unknown; bytes: Buffer }> {
    const lane = `${call.from} ${call.to} ${LANES[call.method]}`;
    const before = lanes.get(lane) ?? Promise.resolve();
    const { promise: handed, resolve: handOver } = Promise.withResolvers<void>();
    lanes.set(lane, handed);
    await before;
    if (typeof fault === 'object') await delay(fault.delayMs);
    else await new Promise(setImmediate);
    const handler = nodes.get(call.to)?.handlers.get(call.method);
    if (handler === undefined) {
      handOver();
      throw new PeerError('refused', `${call.to} answers no ${call.method}`);
    }
    const answering = handler(call.from, structuredClone(call.request), bytes);
    handOver();
    let answered: Awaited<ReturnType<AnyHandler>>;
    try {
      answered = await answering;
    } catch (error) {
      throw new PeerError('refused', error instanceof Error ? error.message : String(error));
    }
    if (fault === 'break') throw new PeerError('lost', `the connection to ${call.to} broke`);
    const whole = Buffer.concat(answered.bytes ?? []);
    return { answer: structuredClone(answered.answer), bytes: network.tamper(call, whole) };
  }

  async function call(from: NodeId, to: NodeId, method: PeerMethod, request: unknown, options: CallOptions) {
    const size = (options.bytes ?? []).reduce((sum, part) => sum + part.length, 0);
    const made: FakeCall = { from, to, method, request, bytes: size };
    network.calls.push(made);
    if (options.signal?.aborted === true) throw new PeerError('aborted', 'the call was aborted');
    if (link(from, to) !== 'connected') throw new PeerError('unreachable', `${to} is ${link(from, to)}`);
    const target = nodes.get(to)!;
    const ended = Promise.withResolvers<{ answer: unknown; bytes: Buffer }>();
    const fail = (error: PeerError): void => ended.reject(error);
    const abort = (): void => fail(new PeerError('aborted', 'the call was aborted'));
    const timer = setTimeout(
      () => fail(new PeerError('timeout', `${to} did not answer within ${options.timeoutMs} ms`)),
      options.timeoutMs,
    );
    options.signal?.addEventListener('abort', abort);
    target.waiting.add(fail);
    const fault = network.fault(made);
    if (fault !== 'lose')
      deliver(made, Buffer.concat(options.bytes ?? []), fault).then(ended.resolve, ended.reject);
    try {
      return await ended.promise;
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', abort);
      target.waiting.delete(fail);
    }
  }

  function addNode(id: NodeId): Node {
    const handlers = new Map<PeerMethod, AnyHandler>();
    const listeners = new Set<(id: NodeId, state: LinkState) => void>();
    const peers: Peers = {
      self: id,
      async call<M extends PeerMethod>(to: NodeId, method: M, request: PeerRequest<M>, options: CallOptions) {
        const { answer, bytes } = await call(id, to, method, request, options);
        return { answer: answer as PeerAnswer<M>, bytes } satisfies Answer<M>;
      },
      handle(method, handler) {
        handlers.set(method, handler);
      },
      link: (to) => link(id, to),
      onLink(listener) {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
    };
    const node = {
      peers,
      handlers,
      listeners,
      waiting: new Set<(error: PeerError) => void>(),
      isDown: false,
    };
    changing(() => nodes.set(id, node));
    return node;
  }

  const network: FakeNetwork = {
    peers: (id) => (nodes.get(id) ?? addNode(id)).peers,
    down: (id) => changing(() => (nodes.get(id)!.isDown = true)),
    up: (id) => changing(() => (nodes.get(id)!.isDown = false)),
    cut: (a, b) => changing(() => cuts.add(pair(a, b))),
    heal: (a, b) => changing(() => cuts.delete(pair(a, b))),
    fault: () => undefined,
    tamper: (_call, bytes) => bytes,
    calls: [],
    count: (method) => network.calls.filter((made) => made.method === method).length,
  };
  return network;
}
