/** Who comes before whom: for leadership, and between two leaders of a healed partition. Pure functions. */

import { comparePositions, type LogPosition, type Member } from '../protocol/cluster.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Heartbeat } from '../protocol/peer-api.ts';

/** A node that could lead. */
export interface Candidate {
  readonly id: NodeId;
  readonly role: Member['role'];
  readonly last: LogPosition;
}

export function mayLead(member: Member): boolean {
  return member.state === 'active' && (member.role === 'auto' || member.role === 'leader');
}

export function stores(member: Member): boolean {
  return member.state !== 'removed' && member.role !== 'client';
}

/** Negative when `a` should lead rather than `b`, by preference alone. */
export function comparePreference(a: Candidate, b: Candidate, preferred: NodeId | null): number {
  const rank = ({ id, role }: Candidate): number => (id === preferred ? 0 : role === 'leader' ? 1 : 2);
  return rank(a) - rank(b) || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
}

/** Negative when `a` should lead rather than `b`: the newest log first. */
export function compareCandidates(a: Candidate, b: Candidate, preferred: NodeId | null): number {
  return comparePositions(b.last, a.last) || comparePreference(a, b, preferred);
}

/** A leadership that somebody claims. */
export type Claim = Pick<Heartbeat, 'from' | 'epoch' | 'inSync'>;

/**
 * Whether `one` leads on when both claim to. A leader whose in-sync set holds the other one has committed nothing
 * since the other began: it gives way. Where neither holds the other both may have committed (a partition): the larger
 * set wins, then the lower id.
 */
export function beats(one: Claim, other: Claim): boolean {
  const [newer, older] = one.epoch > other.epoch ? [one, other] : [other, one];
  if (older.inSync.includes(newer.from)) return newer === one;
  if (newer.inSync.includes(older.from)) return older === one;
  if (one.inSync.length !== other.inSync.length) return one.inSync.length > other.inSync.length;
  return one.from < other.from;
}
