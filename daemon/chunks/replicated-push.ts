/**
 * Copies of a chunk that is being written: its bytes go to its homes while this node writes its own.
 *
 * Each copy that is wanted takes the next node of the rendezvous order until one has it durably; this node counts
 * where the order names it. Nodes that are away, and those that failed a moment ago, are passed over at once, so
 * that one hung node costs one time-out and not one for every chunk. When the order is at its end, the chunk has
 * fewer copies than it should: that is counted, and the homes fetch it once they are back (replicated-repair.ts).
 *
 * Invariant: bytes on their way to one node are bounded; a writer waits for room.
 */

import { type NodeId } from '../protocol/ids.ts';
import type { ChunkHash } from '../protocol/ids.ts';
import { PeerError, type Peers } from '../peers/interface.ts';
import { type ByteGate, openByteGate } from '../runtime/byte-gate.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { ViewOfCluster } from './replicated-view.ts';

/** On their way to one node: four whole chunks keep a fast link busy. */
const PEER_BYTES_IN_FLIGHT_MAX = 16 * 1024 * 1024;
const PEER_WAITING_MAX = 16_384;
/** A node that failed a push is passed over for this long. */
const AILING_MS = 10_000;

export interface PushFigures {
  readonly pushed: number;
  readonly pushedBytes: number;
  /** Not sent because the receiver had it. */
  readonly skipped: number;
  /** Chunks written with fewer copies than the factor, since the start. */
  readonly short: number;
  readonly shortBytes: number;
}

export interface Pusher {
  /**
   * Resolves when the copies are durable, or no node is left to try. `likelyThere`: content like this was stored
   * before, so the receiver is asked first. `data` must not change until then. Errors: PeerError `aborted`.
   */
  push(request: {
    hash: ChunkHash;
    data: Buffer;
    likelyThere: Promise<boolean>;
    signal: AbortSignal;
  }): Promise<void>;
  figures(): PushFigures;
}

export function openPusher(options: { peers: Peers; view: ViewOfCluster; clock: Clock; log: Log }): Pusher {
  const { peers, view, clock, log } = options;
  const gates = new Map<NodeId, ByteGate>();
  const ailingUntilMs = new Map<NodeId, number>();
  const figures = { pushed: 0, pushedBytes: 0, skipped: 0, short: 0, shortBytes: 0 };

  function gateOf(node: NodeId): ByteGate {
    let gate = gates.get(node);
    if (gate === undefined) {
      gate = openByteGate({ bytesMax: PEER_BYTES_IN_FLIGHT_MAX, waitingMax: PEER_WAITING_MAX });
      gates.set(node, gate);
    }
    return gate;
  }

  function isUsable(node: NodeId): boolean {
    return view.isHere(node) && clock.monotonicMs() >= (ailingUntilMs.get(node) ?? 0);
  }

  function failed(node: NodeId, error: unknown): false {
    if (!(error instanceof PeerError)) throw error;
    if (error.kind === 'aborted') throw error;
    ailingUntilMs.set(node, clock.monotonicMs() + AILING_MS);
    log.warn(`${node} did not take a chunk; others get its copies for ${AILING_MS / 1000} s`, {
      node,
      reason: error.message,
    });
    return false;
  }

  async function has(node: NodeId, hash: ChunkHash, signal: AbortSignal): Promise<boolean> {
    const request = { hashes: [hash], verify: false };
    const { answer } = await peers.call(node, 'chunk-have', request, {
      timeoutMs: view.timeoutMs(0),
      signal,
    });
    return answer.have[0] === true;
  }

  async function put(
    node: NodeId,
    { hash, data, likelyThere, signal }: Parameters<Pusher['push']>[0],
  ): Promise<boolean> {
    if (!isUsable(node)) return false;
    try {
      if ((await likelyThere) && (await has(node, hash, signal))) {
        figures.skipped += 1;
        return true;
      }
      const gate = gateOf(node);
      return await gate.run(data.length, async () => {
        if (signal.aborted) throw new PeerError('aborted', 'the store of this chunk has failed');
        // It may have failed others while this one waited.
        if (!isUsable(node)) return false;
        const timeoutMs = view.timeoutMs(gate.bytes);
        await peers.call(node, 'chunk-put', { hash }, { bytes: [data], timeoutMs, signal });
        figures.pushed += 1;
        figures.pushedBytes += data.length;
        return true;
      });
    } catch (error) {
      return failed(node, error);
    }
  }

  return {
    async push(request) {
      const { placement, factor, mode } = view.current();
      const wanted = mode === 'shared' ? 1 : factor;
      const order = placement.order(request.hash);
      let next = 0;
      let copies = 0;
      async function fillOne(): Promise<void> {
        for (let node = order[next++]; node !== undefined; node = order[next++]) {
          if (node !== view.self && !(await put(node, request))) continue;
          copies += 1;
          return;
        }
      }
      const results = await Promise.allSettled(Array.from({ length: wanted }, fillOne));
      // Only when none uses the bytes any more.
      const broken = results.find((result) => result.status === 'rejected');
      if (broken?.status === 'rejected') throw broken.reason;
      if (copies >= wanted) return;
      figures.short += 1;
      figures.shortBytes += request.data.length;
    },
    figures: () => ({ ...figures }),
  };
}
