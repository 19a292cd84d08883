/**
 * What this node believes about who stores chunks: members, who of them is away and since when, the placement that
 * follows. Everything else of the replicated store asks here, so that one moment has one answer.
 *
 * Small chunks travel in the log, so every storing node is their home; large ones have the homes of the placement.
 *
 * Mode `shared`: the leader is the one home. A new leader becomes it at once only when the old one is no storing
 * member any more; otherwise after it has led for the grace time, or else each failover of a minute would copy
 * everything. Until then writes go to the new leader as the next in order, and reads find what is anywhere.
 */

import { placementOf, type Placement } from '../cluster/placement.ts';
import { type PlacedNodes, placedNodes } from '../cluster/placed-nodes.ts';
import type { ReplicationMode } from '../protocol/cluster.ts';
import { type ChunkHash, type NodeId, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import type { ReplicatedChunksOptions } from './replicated-options.ts';

/** Absences turn into deaths by time alone, so the view is made anew after this long. */
const VIEW_AGE_MS_MAX = 1000;
const CALL_MS = 3000;
/** The slowest network and disk that are waited for: 2 MiB/s. */
const CALL_BYTES_PER_MS_MIN = 2048;

export interface View extends PlacedNodes {
  /** Equal for views with the same placement. */
  readonly key: string;
  readonly placement: Placement;
  readonly mode: ReplicationMode;
  readonly factor: number;
}

export interface ViewOfCluster {
  readonly self: NodeId;
  current(): View;
  /** Members, settings or the leader changed. */
  changed(): void;
  /** Called when the placement or who is away has changed. */
  onChange(listener: (view: View) => void): void;
  isHere(id: NodeId): boolean;
  /** How long a call that moves `bytes` may take. */
  timeoutMs(bytes: number): number;
  isHome(chunk: { hash: ChunkHash; size: number }, node: NodeId): boolean;
  homes(chunk: { hash: ChunkHash; size: number }): readonly NodeId[];
  /** Where else to ask for a chunk, the likeliest first. */
  sources(hash: ChunkHash): readonly NodeId[];
  close(): void;
}

export function viewOfCluster(options: ReplicatedChunksOptions, graceMs: number): ViewOfCluster {
  const { peers, cluster, clock } = options;
  const { self } = peers;
  const awaySince = new Map<NodeId, number>();
  const listeners: ((view: View) => void)[] = [];
  let holder: NodeId | null = null;
  let leader: NodeId | null = null;
  let leaderSinceMs = 0;
  let view: View | undefined;
  let madeAtMs = 0;

  const isHere = (id: NodeId): boolean => id === self || peers.link(id) === 'connected';

  function noteAway(now: number): void {
    const known = new Set(cluster.members().map(({ id }) => id));
    for (const id of awaySince.keys()) if (!known.has(id) || isHere(id)) awaySince.delete(id);
    for (const id of known) if (!isHere(id) && !awaySince.has(id)) awaySince.set(id, now);
  }

  /** The node that holds everything in mode `shared`. */
  function sharedHolder(placed: readonly NodeId[], now: number): NodeId | null {
    const leads = cluster.leader() ?? (cluster.members().length === 0 ? self : null);
    if (leads !== leader) {
      leader = leads;
      leaderSinceMs = now;
    }
    const holderIsPlaced = holder !== null && placed.includes(holder);
    if (leader !== null && (!holderIsPlaced || now - leaderSinceMs >= graceMs)) holder = leader;
    return holder;
  }

  function make(now: number): View {
    noteAway(now);
    const { mode, factor } = cluster.settings();
    const nodes = placedNodes({
      self,
      members: cluster.members(),
      graceMs,
      awayMs(id) {
        const since = awaySince.get(id);
        return since === undefined ? undefined : now - since;
      },
    });
    const home = sharedHolder(nodes.placed, now);
    const key = `${mode} ${factor} ${mode === 'shared' ? home : ''} ${nodes.placed.join()} -${nodes.draining.join()}`;
    // The placement of an equal view is the same: keep its prepared seeds.
    const placement =
      view?.key === key
        ? view.placement
        : placementOf({ mode, factor, leader: home, nodes: nodes.placed.map((id) => ({ id })) });
    return { ...nodes, key, placement, mode, factor };
  }

  function current(): View {
    const now = clock.monotonicMs();
    if (view !== undefined && now - madeAtMs < VIEW_AGE_MS_MAX) return view;
    const before = view;
    view = make(now);
    madeAtMs = now;
    if (before !== undefined && (before.key !== view.key || before.away.join() !== view.away.join())) {
      for (const listener of listeners) listener(view);
    }
    return view;
  }

  function changed(): void {
    madeAtMs = Number.NEGATIVE_INFINITY;
    current();
  }

  function homes({ hash, size }: { hash: ChunkHash; size: number }): readonly NodeId[] {
    const { placed, placement } = current();
    return size <= SMALL_CHUNK_BYTES_MAX ? placed : placement.homes(hash);
  }

  const stopListening = peers.onLink(() => changed());

  return {
    self,
    current,
    changed,
    onChange(listener) {
      listeners.push(listener);
    },
    isHere,
    timeoutMs: (bytes) => (options.callMs ?? CALL_MS) + Math.ceil(bytes / CALL_BYTES_PER_MS_MIN),
    isHome: ({ hash, size }, node) =>
      size <= SMALL_CHUNK_BYTES_MAX
        ? current().placed.includes(node)
        : current().placement.isHome(hash, node),
    homes,
    sources(hash) {
      const { placement, storing } = current();
      const ordered = new Set([...placement.order(hash), ...storing]);
      ordered.delete(self);
      return [...ordered];
    },
    close: stopListening,
  };
}
