/**
 * The election `lowest-id`, without I/O: heartbeats, link states and time come in as calls, effects come out of `take`.
 *
 * A node leads only after every storing member that can be heard granted it the epoch that it asks for. Who grants
 * follows nobody, has no better claim itself, and accepts no older leadership from then on; its answer carries where
 * its log ends now. So nothing can be acknowledged to the old leader behind the back of the new one, and the newest log
 * is known when it counts. Members that cannot be heard are out of the question when their process is gone or after
 * SILENT_MS; who hears a leader that this node does not hear does not grant, so a cut between two nodes elects nobody.
 *
 * Only nodes that were in sync by the newest state that this node knows may take over, because only they have every
 * acknowledged entry; another one waits, and says for whom. After its start a node waits up to COLD_WAIT_MS for those that
 * were in sync with it, because "gone" may then mean "not started yet".
 *
 * Two leaders (after a partition): `beats` decides; the winner leads on with an epoch above both, the loser follows.
 *
 * A node that stood still (no tick for STALL_MS) has heard nobody meanwhile: that silence is its own and is not counted.
 */

import { comparePositions, MEMBER_NUMBER_MAX, type Member, nextEpoch } from '../protocol/cluster.ts';
import type { Epoch, NodeId } from '../protocol/ids.ts';
import type { Heartbeat } from '../protocol/peer-api.ts';
import { assert } from '../runtime/assert.ts';
import type { LocalState, Standing } from './coordinator.ts';
import {
  beats,
  type Candidate,
  type Claim,
  compareCandidates,
  comparePreference,
  mayLead,
  stores,
} from './ranking.ts';

export const HEARTBEAT_INTERVAL_MS = 500;
/** A node that was not heard for this long is silent. */
export const SILENT_MS = 2000;
const STALL_MS = 800;
/** After its start a node waits this long for those that were in sync with it. */
const COLD_WAIT_MS = 10_000;
/** A better leader must be in sync for this long before leadership goes to it. */
const HAND_BACK_AFTER_MS = 1000;
const HAND_OVER_RETRY_MS = 10_000;
/** A request for leadership that is not granted by all is given up after this. */
const ASK_MS = 1000;
/** Nodes ask again at different times, so that two which see things differently do not meet each time. */
const ASK_STEP_MS = 130;
const ASK_STEPS = 8;

export type ElectionEffect =
  | { readonly kind: 'changed'; readonly standing: Standing }
  /** Heartbeats to everybody now, or to one. */
  | { readonly kind: 'beat'; readonly to: NodeId | 'all' }
  | { readonly kind: 'hand-over'; readonly to: NodeId };

export interface Heard {
  readonly heartbeat: Heartbeat;
  atMs: number;
}

export interface Election {
  standing(): Standing;
  accepts(): Epoch;
  heard(id: NodeId): Heard | undefined;
  /** A heartbeat or the answer to one. */
  hear(heartbeat: Heartbeat, nowMs: number): void;
  link(id: NodeId, gone: boolean, nowMs: number): void;
  tick(nowMs: number): void;
  admits(leader: NodeId, epoch: Epoch, nowMs: number): boolean;
  refused(from: NodeId, epoch: Epoch, nowMs: number): void;
  /** `to` undefined: it did not want it. */
  abdicate(to: NodeId | undefined, nowMs: number): void;
  takeOver(from: NodeId): { readonly epoch: Epoch } | { readonly refusal: string };
  leave(reason: string): void;
  /** The heartbeat to `to`, as things are now. */
  heartbeat(to: NodeId): Heartbeat;
  take(): readonly ElectionEffect[];
}

export interface ElectionOptions {
  readonly self: NodeId;
  readonly incarnation: string;
  readonly local: LocalState;
  /** Highest epoch that this node ever led or asked for, also in earlier lives; called before one is used. */
  readonly highestUsed: Epoch;
  readonly saveUsed: (epoch: Epoch) => void;
  readonly nowMs: number;
}

export function openElection(options: ElectionOptions): Election {
  const { self, local } = options;
  const seen = new Map<NodeId, Heard>();
  const gone = new Set<NodeId>();
  const startedMs = options.nowMs;
  let effects: ElectionEffect[] = [];
  let standing: Standing = { kind: 'none', reason: 'it has just started' };
  /** Nothing older is followed. */
  let accepted = 0 as Epoch;
  let highest = options.highestUsed;
  let asking: { readonly epoch: Epoch; readonly sinceMs: number; readonly granted: Set<NodeId> } | undefined;
  let grants: Heartbeat['grants'] = null;
  let sequence = 0;
  /** It has been part of a running cluster since it started. */
  let warm = false;
  let leaving = false;
  let lastTickMs = options.nowMs;
  let better: { readonly id: NodeId; readonly sinceMs: number } | undefined;
  let handOverFromMs = 0;
  /** When this node last began to follow, and what it had heard of the leader then. */
  let followedMs = 0;
  let followedAfter: Heartbeat | undefined;
  /** Leadership was just given to this node: others hear that it leads until it says so itself. */
  let heir: { readonly id: NodeId; readonly untilMs: number } | undefined;

  function raise(epoch: Epoch): void {
    if (epoch > highest) highest = epoch;
  }

  function others(): readonly Member[] {
    return local.members().filter((member) => member.id !== self && stores(member));
  }

  function own(): Member | undefined {
    return local.members().find(({ id }) => id === self);
  }

  function isHeard(id: NodeId, nowMs: number): Heard | undefined {
    const heard = seen.get(id);
    return heard !== undefined && !gone.has(id) && nowMs - heard.atMs < SILENT_MS ? heard : undefined;
  }

  function set(next: Standing): void {
    const same =
      next.kind === standing.kind &&
      (next.kind === 'none'
        ? standing.kind === 'none' && next.reason === standing.reason
        : standing.kind !== 'none' && next.epoch === standing.epoch);
    if (same) return;
    const silently = next.kind === 'none' && standing.kind === 'none';
    standing = next;
    if (next.kind !== 'none') {
      warm = true;
      asking = undefined;
      accepted = next.epoch;
      raise(next.epoch);
      heir = undefined;
    }
    effects.push({ kind: 'changed', standing });
    if (!silently) effects.push({ kind: 'beat', to: 'all' });
  }

  function none(reason: string): void {
    set({ kind: 'none', reason });
  }

  /** An epoch above all that this node knows, written down before anybody hears of it. */
  function freshEpoch(): Epoch {
    const number = own()?.number ?? 0;
    assert(number >= 0 && number <= MEMBER_NUMBER_MAX, 'member numbers are within their limit');
    raise(accepted);
    const epoch = nextEpoch(highest, number);
    options.saveUsed(epoch);
    highest = epoch;
    return epoch;
  }

  function lead(epoch: Epoch): void {
    better = undefined;
    set({ kind: 'leads', epoch });
  }

  /** The leaders that are heard, the one to follow first. */
  function claims(nowMs: number): readonly Claim[] {
    const found: Claim[] = [];
    for (const id of seen.keys()) {
      const heartbeat = isHeard(id, nowMs)?.heartbeat;
      if (heartbeat !== undefined && heartbeat.leader === id) found.push(heartbeat);
    }
    return found.sort((a, b) => (beats(a, b) ? -1 : 1));
  }

  function ownClaim(): Claim {
    return { from: self, epoch: accepted, inSync: local.settings().inSync };
  }

  function consider(nowMs: number): void {
    if (standing.kind === 'leads') defend(nowMs);
    if (standing.kind === 'follows') stayOrLeave(standing, nowMs);
    if (standing.kind === 'none') seek(nowMs);
  }

  /** A leader looks at rivals, and for somebody who should lead in its place. */
  function defend(nowMs: number): void {
    const rival = claims(nowMs)[0];
    if (rival !== undefined) {
      if (beats(rival, ownClaim())) {
        none(`${rival.from} leads too and has the better claim`);
        return;
      }
      if (rival.epoch > accepted) lead(freshEpoch());
      return;
    }
    const target = leaving ? undefined : betterLeader(nowMs);
    if (target === undefined) better = undefined;
    else if (better?.id !== target) better = { id: target, sinceMs: nowMs };
    else if (nowMs - better.sinceMs >= HAND_BACK_AFTER_MS && nowMs >= handOverFromMs) {
      handOverFromMs = nowMs + HAND_OVER_RETRY_MS;
      effects.push({ kind: 'hand-over', to: target });
    }
  }

  function betterLeader(nowMs: number): NodeId | undefined {
    const { preferred, inSync } = local.settings();
    const me = own();
    if (me === undefined) return undefined;
    let best: Candidate = { id: self, role: me.role, last: local.position() };
    for (const member of others()) {
      const heartbeat = isHeard(member.id, nowMs)?.heartbeat;
      if (heartbeat === undefined || !mayLead(member) || !inSync.includes(member.id)) continue;
      if (heartbeat.leaving || !heartbeat.hasState || heartbeat.leader !== self) continue;
      const candidate = { id: member.id, role: member.role, last: heartbeat.last };
      if (!mayLead(me) && best.id === self) best = candidate;
      else if (comparePreference(candidate, best, preferred) < 0) best = candidate;
    }
    return best.id === self ? undefined : best.id;
  }

  function stayOrLeave(current: Extract<Standing, { kind: 'follows' }>, nowMs: number): void {
    const heard = isHeard(current.leader, nowMs);
    const claim = heard?.heartbeat;
    const followable = claims(nowMs).filter(({ epoch }) => epoch >= accepted);
    const best = followable[0];
    if (claim?.leader === current.leader && claim.epoch >= current.epoch) {
      if (best !== undefined && (best.from !== current.leader || best.epoch > current.epoch)) {
        set({ kind: 'follows', leader: best.from, epoch: best.epoch });
      }
      return;
    }
    // What was heard of the leader last may be older than the entries that made this node follow it.
    const nothingNew = seen.get(current.leader)?.heartbeat === followedAfter;
    if (nothingNew && !gone.has(current.leader) && nowMs - followedMs < SILENT_MS) return;
    none(
      gone.has(current.leader)
        ? `the process of ${current.leader} is gone`
        : `${current.leader} does not lead any more`,
    );
  }

  /** Nobody is followed: follows the best leader that is heard, or goes for it. */
  function seek(nowMs: number): void {
    const best = claims(nowMs).find(({ epoch }) => epoch >= accepted);
    if (best !== undefined) {
      followedMs = nowMs;
      followedAfter = seen.get(best.from)?.heartbeat;
      set({ kind: 'follows', leader: best.from, epoch: best.epoch });
      return;
    }
    const obstacle = whyNot(nowMs);
    if (obstacle !== undefined) {
      if (asking !== undefined && obstacle.drop) asking = undefined;
      none(obstacle.reason);
      if (obstacle.drop) return;
    }
    const waited = others().filter(({ id }) => isHeard(id, nowMs) !== undefined && !asking?.granted.has(id));
    if (asking !== undefined && waited.length === 0) {
      lead(asking.epoch);
      return;
    }
    const patienceMs = ASK_MS + ((own()?.number ?? 0) % ASK_STEPS) * ASK_STEP_MS;
    if (asking !== undefined && nowMs - asking.sinceMs < patienceMs) return;
    const epoch = freshEpoch();
    accepted = epoch;
    asking = { epoch, sinceMs: nowMs, granted: new Set() };
    if (waited.length === 0) lead(epoch);
    else {
      none(`it asks ${waited.map(({ id }) => id).join(', ')} to let it lead`);
      effects.push({ kind: 'beat', to: 'all' });
    }
  }

  /** Why this node does not go for leadership now. `drop`: nor waits for grants. */
  function whyNot(nowMs: number): { readonly reason: string; readonly drop: boolean } | undefined {
    const stop = (reason: string) => ({ reason, drop: true });
    const me = own();
    const { inSync, preferred } = local.settings();
    if (!local.hasState()) return stop('it does not have the state of the cluster yet');
    if (local.members().length > 0 && me === undefined) return stop('it is no member of this cluster');
    if (me !== undefined && !mayLead(me))
      return stop(`it never leads (role ${me.role}, ${me.state}), and no leader is heard`);
    if (leaving) return stop('it is shutting down');
    if (heir !== undefined && !gone.has(heir.id)) return stop(`${heir.id} takes over`);

    const mine: Candidate = { id: self, role: me?.role ?? 'auto', last: local.position() };
    for (const member of others()) {
      const heard = isHeard(member.id, nowMs)?.heartbeat;
      if (heard === undefined) continue;
      if (heard.leader !== null) {
        if (heard.leader === self)
          return stop(`${member.id} has not noticed yet that this node leads no more`);
        if (heard.leader === member.id)
          return stop(`${member.id} leads and must first hear of newer leaderships`);
        return stop(`${member.id} follows ${heard.leader}, which cannot be heard from here`);
      }
      const candidate: Candidate = { id: member.id, role: member.role, last: heard.last };
      const able = mayLead(member) && heard.hasState && !heard.leaving && inSync.includes(member.id);
      // One that is in sync comes before one that is not, whatever it prefers: two that both ask keep each other off.
      const outdated = inSync.length > 0 && !inSync.includes(self);
      if (able && (outdated || compareCandidates(candidate, mine, preferred) < 0)) {
        return stop(`${member.id} should lead, and does not yet`);
      }
    }
    const missing = inSync.filter((id) => id !== self && isHeard(id, nowMs) === undefined);
    if (inSync.length > 0 && !inSync.includes(self) && missing.length > 0) {
      return stop(`${missing.join(', ')} may have newer changes than this node, and cannot be reached`);
    }
    if (!warm && missing.length > 0 && nowMs - startedMs < COLD_WAIT_MS) {
      return stop(`it has just started and waits for ${missing.join(', ')}, which had the newest state too`);
    }
    const undecided = others().filter(
      ({ id }) =>
        isHeard(id, nowMs) === undefined &&
        !gone.has(id) &&
        nowMs - (seen.get(id)?.atMs ?? startedMs) < SILENT_MS,
    );
    if (undecided.length > 0) return stop(`it waits to hear of ${undecided.map(({ id }) => id).join(', ')}`);
    return undefined;
  }

  /** Whether somebody may lead as far as this node is concerned. */
  function grant(asked: Heartbeat, nowMs: number): void {
    const epoch = asked.asks;
    if (epoch === null || epoch < accepted || (epoch === accepted && grants?.to !== asked.from)) return;
    if (standing.kind !== 'none' || heir !== undefined) return;
    const me = own();
    const settings = local.settings();
    const theirs: Candidate = { id: asked.from, role: asked.role, last: asked.last };
    const mine: Candidate = { id: self, role: me?.role ?? 'auto', last: local.position() };
    const able =
      me !== undefined && mayLead(me) && local.hasState() && !leaving && settings.inSync.includes(self);
    if (able && compareCandidates(mine, theirs, settings.preferred) < 0) return;
    // It left the in-sync set and may not know: what this node has beyond it may have been acknowledged.
    const outdated = settings.inSync.length > 0 && !settings.inSync.includes(asked.from);
    if (outdated && comparePositions(local.position(), asked.last) > 0) return;
    if (claims(nowMs).some((claim) => claim.epoch >= accepted)) return;
    accepted = epoch;
    asking = undefined;
    grants = { to: asked.from, epoch };
  }

  function isInSync(id: NodeId): boolean {
    return local.settings().inSync.includes(id);
  }

  return {
    standing: () => standing,
    accepts: () => accepted,
    heard: (id) => seen.get(id),
    hear(heartbeat, nowMs) {
      const { from } = heartbeat;
      const members = local.members();
      if (from === self || (members.length > 0 && local.hasState() && !members.some(({ id }) => id === from)))
        return;
      const before = seen.get(from)?.heartbeat;
      if (before?.incarnation === heartbeat.incarnation && before.sequence >= heartbeat.sequence) return;
      seen.set(from, { heartbeat, atMs: nowMs });
      gone.delete(from);
      raise(heartbeat.epoch);
      if (heartbeat.asks !== null) {
        raise(heartbeat.asks);
        consider(nowMs);
        grant(heartbeat, nowMs);
      }
      const granted = heartbeat.grants;
      if (granted !== null && granted.to === self && granted.epoch === asking?.epoch)
        asking.granted.add(from);
      const fencesUs = standing.kind === 'leads' && heartbeat.leader === null && heartbeat.epoch > accepted;
      if (fencesUs) this.refused(from, heartbeat.epoch, nowMs);
      consider(nowMs);
    },
    link(id, isGone, nowMs) {
      if (isGone) gone.add(id);
      else gone.delete(id);
      consider(nowMs);
    },
    tick(nowMs) {
      const stood = nowMs - lastTickMs;
      lastTickMs = nowMs;
      if (heir !== undefined && nowMs >= heir.untilMs) heir = undefined;
      if (stood >= STALL_MS) {
        for (const heard of seen.values()) heard.atMs += stood;
        followedMs += stood;
      }
      consider(nowMs);
    },
    admits(leader, epoch, nowMs) {
      if (epoch < accepted) return false;
      if (standing.kind === 'follows' && standing.leader === leader && standing.epoch === epoch) return true;
      if (standing.kind === 'leads') return false;
      if (standing.kind === 'follows' && standing.leader !== leader) {
        const current = isHeard(standing.leader, nowMs)?.heartbeat;
        if (current?.leader === standing.leader && current.epoch >= standing.epoch) return false;
      }
      followedMs = nowMs;
      followedAfter = seen.get(leader)?.heartbeat;
      set({ kind: 'follows', leader, epoch });
      return true;
    },
    refused(from, epoch, nowMs) {
      raise(epoch);
      if (standing.kind !== 'leads' || epoch <= standing.epoch) return;
      // An in-sync node that grants a newer leadership has all that was committed; it may have been given away.
      if (isInSync(from)) none(`${from} has agreed to a newer leadership`);
      else lead(freshEpoch());
      consider(nowMs);
    },
    abdicate(to, nowMs) {
      heir = to === undefined ? undefined : { id: to, untilMs: nowMs + SILENT_MS };
      if (to !== undefined) none(`${to} takes over`);
      consider(nowMs);
    },
    takeOver(from) {
      const me = own();
      if (leaving || me === undefined || !mayLead(me) || !local.hasState()) {
        return { refusal: `${self} cannot lead now` };
      }
      if (standing.kind === 'leads') return { refusal: `${self} leads already` };
      if (standing.kind === 'follows' && standing.leader !== from) {
        return { refusal: `${self} follows ${standing.leader}` };
      }
      const epoch = freshEpoch();
      lead(epoch);
      return { epoch };
    },
    leave(reason) {
      leaving = true;
      if (standing.kind === 'leads') none(reason);
      effects.push({ kind: 'beat', to: 'all' });
    },
    heartbeat(to) {
      return {
        from: self,
        role: own()?.role ?? 'auto',
        incarnation: options.incarnation,
        sequence: ++sequence,
        leader:
          standing.kind === 'leads'
            ? self
            : standing.kind === 'follows'
              ? standing.leader
              : (heir?.id ?? null),
        epoch: accepted,
        asks: asking?.epoch ?? null,
        grants: grants?.to === to ? grants : null,
        last: local.position(),
        hasState: local.hasState(),
        inSync: local.settings().inSync,
        leaving,
        about: local.figures(),
      };
    },
    take() {
      const taken = effects;
      effects = [];
      return taken;
    },
  };
}
