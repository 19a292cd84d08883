/**
 * Two logs compared by their leaderships.
 *
 * Invariant that everything here rests on: an entry is named by (epoch, version), and two logs that have the same
 * entry have the same entries before it, because each leader writes one sequence only and ships it in order.
 */

import type { EpochStart, LogPosition } from '../protocol/cluster.ts';
import type { Epoch, Version } from '../protocol/ids.ts';

/** Epoch of entries that a node wrote before it was in a cluster; no `lead` entry began it. */
const SOLO_EPOCH = 1 as Epoch;

export interface History {
  readonly last: LogPosition;
  /** All leaderships of the log, oldest first. */
  readonly epochs: readonly EpochStart[];
}

/** The leadership that wrote `version`; 0 for the place before the first entry. */
export function epochAt(epochs: readonly EpochStart[], version: Version): Epoch {
  for (let index = epochs.length - 1; index >= 0; index--) {
    const start = epochs[index];
    if (start !== undefined && start.first <= version) return start.epoch;
  }
  return version === 0 ? (0 as Epoch) : SOLO_EPOCH;
}

/** The leaderships that begin within (`after`, `through`]. */
export function startsWithin(
  epochs: readonly EpochStart[],
  after: Version,
  through: Version,
): readonly EpochStart[] {
  const newest = epochs.at(-1);
  if (newest === undefined || newest.first <= after) return [];
  return epochs.filter(({ first }) => first > after && first <= through);
}

/** The last entry that both logs have; (0, 0) when they have none in common. */
export function commonPoint(one: History, other: History): LogPosition {
  // From the newest place that could be common, back over the ends of leaderships in either log.
  let version = Math.min(one.last.version, other.last.version) as Version;
  while (version > 0) {
    const epoch = epochAt(one.epochs, version);
    if (epoch === epochAt(other.epochs, version)) return { epoch, version };
    const begins = Math.max(beginOf(one.epochs, version), beginOf(other.epochs, version));
    version = (begins - 1) as Version;
  }
  return { epoch: 0 as Epoch, version: 0 as Version };
}

/** First version of the leadership that wrote `version`. */
function beginOf(epochs: readonly EpochStart[], version: Version): number {
  return epochs.findLast(({ first }) => first <= version)?.first ?? 1;
}
