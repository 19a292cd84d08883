/**
 * What a follower does with an append, without I/O: given where its log is and what the leader sent, which entries are
 * new, and whether its own log parts from the leader's.
 *
 * Messages may come twice or late. So nothing is concluded from a length: entries are compared by their leaderships,
 * and the log is cut only in front of an entry that the leader's log has otherwise (as in Raft, section 5.3).
 */

import type { LogPosition } from '../protocol/cluster.ts';
import type { Epoch, Version } from '../protocol/ids.ts';
import type { AppendAnswer, AppendRequest } from '../protocol/peer-api.ts';
import { epochAt, type History } from './history.ts';

export type Verdict =
  | { readonly kind: 'answer'; readonly answer: AppendAnswer }
  /** The leader's log does not reach back to `common`, the last entry of both: a whole copy is needed. */
  | { readonly kind: 'fetch'; readonly common: LogPosition }
  /** Takes everything after `common` back first; then judge again. */
  | { readonly kind: 'rewind'; readonly common: LogPosition }
  /** The first `skip` entries are here already. `through`: the request's last entry. */
  | { readonly kind: 'take'; readonly skip: number; readonly through: Version };

/** `accepts`: the oldest leadership that this node still listens to. */
export function judgeAppend(log: History, accepts: Epoch, request: AppendRequest): Verdict {
  if (request.epoch < accepts) return { kind: 'answer', answer: { kind: 'stale', epoch: accepts } };
  const { previous } = request;
  if (request.fetch) return { kind: 'fetch', common: previous };
  const known =
    previous.version <= log.last.version && epochAt(log.epochs, previous.version) === previous.epoch;
  if (!known) {
    return { kind: 'answer', answer: { kind: 'mismatch', last: log.last, epochs: log.epochs } };
  }
  const through = (previous.version + request.sizes.length) as Version;
  const overlap = Math.min(log.last.version, through) as Version;
  if (log.last.epoch !== request.epoch) {
    for (let version = previous.version + 1; version <= overlap; version++) {
      if (epochSent(request, version) !== epochAt(log.epochs, version as Version)) {
        const common = (version - 1) as Version;
        return { kind: 'rewind', common: { epoch: epochAt(log.epochs, common), version: common } };
      }
    }
  }
  return { kind: 'take', skip: overlap - previous.version, through };
}

/** The leadership of an entry as the leader sent it. */
function epochSent({ starts, previous }: AppendRequest, version: number): Epoch {
  return starts.findLast(({ first }) => first <= version)?.epoch ?? previous.epoch;
}
