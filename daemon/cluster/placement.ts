/**
 * Which nodes hold the copies of a chunk: rendezvous hashing (Thaler and Ravishankar, 1998) with weights
 * (Schindelhauer and Schomaker, 2005).
 *
 * Each node gets a score from the chunk's hash and its own id, and the highest `factor` scores are the chunk's
 * homes. The order is the same on every node that knows the same nodes, and when a node comes or goes only the
 * chunks that it gains or loses move. Pure: no clock, no state, no I/O.
 *
 * Invariant: scores must never change between releases, or every chunk would move.
 */

import { hash as digest } from 'node:crypto';
import type { ReplicationMode } from '../protocol/cluster.ts';
import type { ChunkHash, NodeId } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';

export interface PlacedNode {
  readonly id: NodeId;
  /** Share of chunks in proportion to it, above 0; the same on every node. Default: 1. */
  readonly weight?: number;
}

export interface PlacementInput {
  readonly mode: ReplicationMode;
  /** Copies in mode `replicated`, 1 or more. */
  readonly factor: number;
  /** Mode `shared`: the node that holds everything. Null: nobody is known to. */
  readonly leader: NodeId | null;
  readonly nodes: readonly PlacedNode[];
}

export interface Placement {
  /** Homes that a chunk has: the factor, or fewer when there are fewer nodes. */
  readonly copies: number;
  /** Every node: homes first, then those that stand in for them, in order. */
  order(hash: ChunkHash): NodeId[];
  homes(hash: ChunkHash): NodeId[];
  isHome(hash: ChunkHash, node: NodeId): boolean;
}

interface Seeded {
  readonly id: NodeId;
  readonly weight: number;
  readonly high: number;
  readonly low: number;
}

export function placementOf({ mode, factor, leader, nodes }: PlacementInput): Placement {
  assert(Number.isSafeInteger(factor) && factor >= 1, 'a chunk has at least one copy');
  const seeded = nodes.map(seed);
  const holder = mode === 'shared' && nodes.some(({ id }) => id === leader) ? leader : null;
  const wanted = mode === 'shared' ? 1 : factor;
  const copies = mode === 'shared' && holder === null ? 0 : Math.min(wanted, nodes.length);

  function order(hash: ChunkHash): NodeId[] {
    const scored = seeded.map((node) => ({ id: node.id, score: scoreOf(hash, node) }));
    scored.sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1));
    const ids = scored.map(({ id }) => id);
    return holder === null ? ids : [holder, ...ids.filter((id) => id !== holder)];
  }

  function homes(hash: ChunkHash): NodeId[] {
    if (holder !== null) return [holder];
    return order(hash).slice(0, copies);
  }

  return {
    copies,
    order,
    homes,
    isHome(hash, node) {
      // Where every node is a home nothing has to be computed: small clusters, and a node alone.
      if (mode === 'replicated' && copies === nodes.length) return nodes.some(({ id }) => id === node);
      return homes(hash).includes(node);
    },
  };
}

function seed({ id, weight = 1 }: PlacedNode): Seeded {
  assert(weight > 0, 'a placed node weighs something');
  const bytes = digest('sha256', id, 'buffer');
  return { id, weight, high: bytes.readUInt32BE(0), low: bytes.readUInt32BE(4) };
}

/** -weight / ln(u), with u in (0, 1) from 53 bits that depend on all bits of both seeds. */
function scoreOf(hash: ChunkHash, node: Seeded): number {
  const low = mix(Number.parseInt(hash.slice(8, 16), 16) ^ node.low);
  const high = mix(Number.parseInt(hash.slice(0, 8), 16) ^ node.high ^ low);
  const u = (high * 2 ** 21 + (mix(low + high) >>> 11) + 0.5) / 2 ** 53;
  return -node.weight / Math.log(u);
}

/** The finaliser of MurmurHash3: each bit of the input changes half of the output's. */
function mix(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}
