/**
 * Which members take part in placement now.
 *
 * A node that is away keeps its chunks for a grace time, so that a reboot moves nothing. After it, others take
 * over its homes, with a brake: while more than a third of the storing nodes is away, the fault is rather in the
 * network or the power than in disks, and copying everything would only add load and fill the disks that are
 * left. A draining node is no home from the first moment, but is still asked for what it has.
 *
 * Pure: the caller knows the time. Nodes may judge a node's absence differently for a while; whoever deletes a
 * chunk asks its homes first (chunks/replicated-trim.ts), so a difference costs copies and never data.
 */

import type { Member } from '../protocol/cluster.ts';
import type { NodeId } from '../protocol/ids.ts';

/** More than this share of the storing nodes away: nothing is moved. */
const BRAKE_SHARE = 1 / 3;

export interface PlacedNodesInput {
  readonly self: NodeId;
  readonly members: readonly Member[];
  /** For how long a member has been away, or undefined when it is here. */
  readonly awayMs: (id: NodeId) => number | undefined;
  readonly graceMs: number;
}

export interface PlacedNodes {
  /** Those that may be homes, by id. */
  readonly placed: readonly NodeId[];
  /** Every node that may have chunks: the placed ones, the draining and the dead. */
  readonly storing: readonly NodeId[];
  readonly draining: readonly NodeId[];
  /** Away at all. */
  readonly away: readonly NodeId[];
  /** Away for longer than the grace time, and replaced by others. */
  readonly dead: readonly NodeId[];
  /** Too many are away to replace any. */
  readonly braked: boolean;
}

export function placedNodes({ self, members, awayMs, graceMs }: PlacedNodesInput): PlacedNodes {
  const storing = members
    .filter(({ role, state }) => role !== 'client' && state !== 'removed')
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  // Not a cluster yet, or not a member yet: what is stored here is stored here.
  if (!storing.some(({ id }) => id === self)) {
    const ids = storing.map(({ id }) => id);
    return { placed: [self], storing: [self, ...ids], draining: [], away: [], dead: [], braked: false };
  }
  const active = storing.filter(({ state }) => state === 'active');
  const awayFor = new Map(storing.map(({ id }) => [id, id === self ? undefined : awayMs(id)]));
  const away = active.filter(({ id }) => awayFor.get(id) !== undefined);
  const overdue = away.filter(({ id }) => (awayFor.get(id) ?? 0) >= graceMs);
  const braked = away.length > active.length * BRAKE_SHARE;
  const dead = braked ? [] : overdue.map(({ id }) => id);
  return {
    placed: active.map(({ id }) => id).filter((id) => !dead.includes(id)),
    storing: storing.map(({ id }) => id),
    draining: storing.filter(({ state }) => state === 'draining').map(({ id }) => id),
    away: storing.map(({ id }) => id).filter((id) => awayFor.get(id) !== undefined),
    dead,
    braked: braked && overdue.length > 0,
  };
}
