/**
 * Replication at work: puts together who leads (the coordinator), leading or following, and the proposals of this node.
 *
 * What can go wrong, and where it is handled: a leader that dies or is cut off (election.ts), its unfinished entries
 * (follower.ts, following.ts), a slow or dead follower (leader.ts), a proposal whose answer is lost (proposals.ts).
 *
 * A node without other members is a cluster of one: the same path, without network and without timers.
 *
 * The order of things when the state machine reports an entry: tags, then the in-sync set, then proposals; so whoever
 * proposed finds everything else in place.
 */

import { comparePreference, mayLead, stores } from '../cluster/ranking.ts';
import type { Standing } from '../cluster/coordinator.ts';
import { describeError, WarrenError } from '../protocol/errors.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { ForwardAnswer } from '../protocol/peer-api.ts';
import { openBarrier } from './barrier.ts';
import type { Context, ReplicationOptions } from './context.ts';
import { startFollowing } from './following.ts';
import { type Forwards, forwardedTo } from './forwards.ts';
import type { Leadership, PeerView, Replication } from './interface.ts';
import { type Leading, startLeading } from './leading.ts';
import { openProposals, type Way } from './proposals.ts';
import { serveSnapshots } from './snapshots.ts';
import { recentTags } from './tags.ts';
import type { Applied } from './state-machine.ts';

/** A follower counts as in sync while its leader was heard within this; the leader drops it later than that. */
const LEASE_MS = 1500;
/** An orderly hand-over: the follower gets everything; then it answers; then it is heard to lead. */
const READY_WITHIN_MS = 5000;
const TAKE_OVER_WITHIN_MS = 2000;
const FOLLOW_WITHIN_MS = 3000;
const POLL_MS = 5;
const EXPIRE_MS = 10_000;
const NO_PAYLOAD = new Map<never, never>();

export function openReplication(options: ReplicationOptions): Replication {
  const { self, state, peers, coordinator, clock, timers } = options;
  const log = options.log.room('replication');
  const listeners = new Set<(leadership: Leadership) => void>();
  const tags = recentTags(state.position().version);
  let committed = 0 as Version;
  let leading: Leading | undefined;
  let forwards: Forwards | undefined;
  /** Handing over: proposals wait. */
  let paused = false;
  let brokenBy: string | undefined;
  let closed = false;
  let sinceMs = clock.monotonicMs();
  let cancelExpire: (() => void) | undefined;

  const context: Context = {
    ...options,
    committed: () => committed,
    hasProposals: () => proposals.pending(),
    doneAs: (tag) => tags.find(tag),
    noteCommitted(version) {
      if (version <= committed) return;
      committed = version;
      state.setCommitted(version);
      proposals.committed(version);
    },
    broken(what, error) {
      if (brokenBy !== undefined) return;
      brokenBy = `${what}: ${describeError(error)}`;
      log.error('this node takes no part any more until it is restarted', { reason: brokenBy });
      coordinator.leave(brokenBy);
    },
  };

  const barrier = openBarrier({ context, way });
  const proposals = openProposals({ context, way, barrier: barrier.wait });
  const following = startFollowing(context);
  const served = serveSnapshots(options);

  function way(): Way {
    const standing = coordinator.standing();
    if (brokenBy !== undefined) return { kind: 'wait', reason: brokenBy };
    if (paused) return { kind: 'wait', reason: 'leadership is being handed over' };
    switch (standing.kind) {
      case 'leads':
        return leading?.epoch === standing.epoch
          ? { kind: 'local', leading }
          : { kind: 'wait', reason: 'this node begins to lead' };
      case 'follows':
        return { kind: 'forward', leader: standing.leader, epoch: standing.epoch };
      case 'none':
        return { kind: 'wait', reason: `nobody leads: ${standing.reason}` };
    }
  }

  function followerIds(): NodeId[] {
    return state
      .members()
      .filter((member) => member.id !== self && stores(member))
      .map(({ id }) => id);
  }

  function changed(standing: Standing): void {
    sinceMs = clock.monotonicMs();
    const old = leading;
    leading = undefined;
    forwards = undefined;
    old?.end();
    if (standing.kind === 'leads') beginWhenSettled(standing.epoch);
    proposals.resume();
    barrier.resume();
    const now = leadership();
    for (const listener of listeners) listener(now);
  }

  /** Entries of the last leader may still be being applied; nothing is proposed meanwhile. */
  function beginWhenSettled(epoch: Epoch): void {
    const settled = following.settled();
    if (settled === undefined) {
      begin(epoch);
      return;
    }
    const again = (): void => {
      const standing = coordinator.standing();
      if (standing.kind !== 'leads' || standing.epoch !== epoch || leading !== undefined || closed) return;
      beginWhenSettled(epoch);
      proposals.resume();
    };
    settled.then(again, again);
  }

  function begin(epoch: Epoch): void {
    const followers = followerIds();
    const started = startLeading({ context, epoch, followers });
    try {
      started.propose({ operation: { kind: 'lead', leader: self, epoch }, payload: NO_PAYLOAD, tag: null });
    } catch (error) {
      started.end();
      context.broken('a leadership cannot begin', error);
      return;
    }
    leading = started;
    forwards = forwardedTo(started, context);
    for (const id of followers) if (peers.link(id) === 'gone') started.gone(id, true);
  }

  function applied(entry: Applied): void {
    const { operation, version, tag } = entry;
    tags.add(tag, version);
    if (operation.kind === 'settings' && operation.settings.inSync !== undefined) {
      leading?.inSyncChanged(operation.settings.inSync, version);
    } else if (operation.kind === 'member') membersChanged();
    proposals.applied(entry);
  }

  function membersChanged(): void {
    leading?.setFollowers(followerIds());
    coordinator.membersChanged();
  }

  function leadership(): Leadership {
    const standing = coordinator.standing();
    return standing.kind === 'none' ? { ...standing, sinceMs: clock.monotonicMs() - sinceMs } : standing;
  }

  peers.handle('forward', async (_from, request, bytes) => {
    const standing = coordinator.standing();
    const takes = forwards !== undefined && !paused && leading?.epoch === request.epoch;
    if (takes && forwards !== undefined) return { answer: await forwards.answer(request, bytes) };
    const answer: ForwardAnswer = {
      kind: 'not-leader',
      leader: standing.kind === 'follows' ? standing.leader : null,
      epoch: coordinator.accepts(),
    };
    return { answer };
  });
  peers.handle('barrier', (_from, { epoch, version }) => {
    if (leading?.epoch !== epoch) return Promise.resolve({ answer: { kind: 'not-leader' } });
    const { promise, resolve } = Promise.withResolvers<boolean>();
    leading.wait(version ?? state.position().version, true, resolve);
    return promise.then((reached) => ({ answer: { kind: reached ? 'durable' : 'not-leader' } }));
  });
  peers.handle('find-tags', (_from, request) =>
    Promise.resolve({
      answer: { versions: request.tags.map((tag) => tags.find(tag) ?? null), since: tags.since() },
    }),
  );
  peers.handle('take-over', async (from, { last }) => {
    const here = state.position();
    const refuse = (reason: string) => ({ answer: { ok: false, reason, epoch: coordinator.accepts() } });
    if (here.epoch !== last.epoch || here.version !== last.version) {
      return refuse(`${self} has entries up to ${here.version}, not ${last.version}`);
    }
    const result = await coordinator.takeOver(from);
    if ('refusal' in result) return refuse(result.refusal);
    return { answer: { ok: true, reason: '', epoch: result.epoch } };
  });

  const stops = [
    state.onApplied(applied),
    state.onRewound((change) => {
      const here = state.position().version;
      if (here < committed) committed = here;
      if (change.kind === 'taken-back') tags.takeBack(here);
      else tags.reset(here);
      proposals.rewound(change);
      membersChanged();
    }),
    peers.onLink((id, link) => leading?.gone(id, link === 'gone')),
  ];

  async function until(condition: () => boolean, withinMs: number): Promise<boolean> {
    const endMs = clock.monotonicMs() + withinMs;
    while (!condition()) {
      if (clock.monotonicMs() >= endMs) return false;
      await new Promise<void>((resolve) => timers.after(POLL_MS, resolve));
    }
    return true;
  }

  function resumeProposals(): void {
    paused = false;
    proposals.resume();
    barrier.resume();
  }

  async function handOver(to: NodeId): Promise<void> {
    const current = leading;
    if (current === undefined || paused) {
      throw handOverError('NOT_LEADER', `${self} does not lead${paused ? ', it is handing over' : ''}.`);
    }
    const isReady = (): boolean => state.settings().inSync.includes(to) && current.isReady(to);
    if (!state.settings().inSync.includes(to)) throw handOverError('NOT_IN_SYNC', `${to} is not in sync.`);
    paused = true;
    try {
      const ready = await until(() => leading !== current || isReady(), READY_WITHIN_MS);
      if (leading !== current) throw handOverError('NOT_LEADER', `${self} lost leadership meanwhile.`);
      if (!ready) throw handOverError('NOT_IN_SYNC', `${to} did not get all changes in time.`);
      const last = state.position();
      coordinator.abdicate(to);
      const { answer } = await peers.call(
        to,
        'take-over',
        { from: self, last },
        { timeoutMs: TAKE_OVER_WITHIN_MS },
      );
      if (!answer.ok) {
        coordinator.abdicate(undefined);
        throw handOverError('HANDOVER_FAILED', `${to} did not take over: ${answer.reason}.`);
      }
      coordinator.admits(to, answer.epoch);
      await until(() => coordinator.standing().kind !== 'none', FOLLOW_WITHIN_MS);
      log.info(`handed leadership over to ${to}`);
    } catch (error) {
      if (error instanceof WarrenError) throw error;
      throw handOverError('HANDOVER_FAILED', `${to} did not answer: ${describeError(error)}.`);
    } finally {
      resumeProposals();
    }
  }

  function expire(): void {
    cancelExpire = timers.after(EXPIRE_MS, expire);
    served.expire();
  }

  function peerView(id: NodeId): PeerView {
    const heard = coordinator.heard(id);
    const link = peers.link(id);
    const follower = leading?.followers().find((view) => view.id === id);
    const nowMs = clock.monotonicMs();
    const version = follower?.acked ?? heard?.heartbeat.last.version ?? (0 as Version);
    const base = { id, version, lastHeardMs: heard === undefined ? undefined : nowMs - heard.atMs };
    const silent = heard === undefined || nowMs - heard.atMs > LEASE_MS;
    if (link === 'gone') return { ...base, state: 'gone', reason: 'its process does not run' };
    if (silent && link === 'lost') {
      return { ...base, state: heard === undefined ? 'unknown' : 'lost', reason: 'it cannot be reached' };
    }
    if (state.settings().inSync.includes(id)) return { ...base, state: 'in-sync', reason: '' };
    return {
      ...base,
      state: follower?.mode === 'snapshot' ? 'snapshot' : 'catching-up',
      reason: follower?.reason ?? 'only the leader knows more',
    };
  }

  function heirAtClose(): NodeId | undefined {
    const { inSync, preferred } = state.settings();
    const position = state.position();
    return state
      .members()
      .filter(({ id }) => id !== self && inSync.includes(id) && peers.link(id) === 'connected')
      .filter((member) => mayLead(member) && coordinator.heard(member.id)?.heartbeat.leaving === false)
      .map(({ id, role }) => ({ id, role, last: position }))
      .sort((a, b) => comparePreference(a, b, preferred))[0]?.id;
  }

  coordinator.start(
    {
      position: () => state.position(),
      members: () => state.members(),
      settings: () => state.settings(),
      hasState: () =>
        brokenBy === undefined &&
        following.busy() === undefined &&
        (!options.joining || state.members().some(({ id }) => id === self)),
      figures: () => options.figures(),
    },
    {
      changed,
      handOver(to) {
        handOver(to).catch((error: unknown) =>
          log.info('leadership stays here', { reason: describeError(error) }),
        );
      },
    },
  );
  if (followerIds().length > 0) expire();

  return {
    propose(operation, payload = NO_PAYLOAD, { durable = false, tag } = {}) {
      return proposals.propose(operation, payload, { durable, tag });
    },
    barrier: () => barrier.wait(),
    leadership,
    onLeadership(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    inSync: () => state.settings().inSync,
    isInSync() {
      const standing = coordinator.standing();
      if (standing.kind !== 'follows') return standing.kind === 'leads';
      const heard = coordinator.heard(standing.leader);
      const fresh = heard !== undefined && clock.monotonicMs() - heard.atMs < LEASE_MS;
      // The leader may have left this node behind by an entry that does not reach it.
      const counted =
        heard?.heartbeat.inSync.includes(self) === true || heard?.heartbeat.epoch !== standing.epoch;
      return (
        fresh &&
        counted &&
        state.position().epoch === standing.epoch &&
        state.settings().inSync.includes(self)
      );
    },
    peers: () => followerIds().map(peerView),
    position: () => state.position(),
    handOver,
    members: () => state.members(),
    settings: () => state.settings(),
    async close() {
      if (closed) return;
      closed = true;
      const heir = leading === undefined ? undefined : heirAtClose();
      if (heir !== undefined) {
        await handOver(heir).catch((error: unknown) =>
          log.warn('this node stops without handing leadership over', { reason: describeError(error) }),
        );
      }
      coordinator.leave('this node is shutting down');
      proposals.close();
      barrier.close();
      coordinator.close();
      cancelExpire?.();
      for (const stop of stops) stop();
      leading?.end();
      await following.close();
      await served.close();
    },
  };
}

function handOverError(code: string, message: string): WarrenError {
  return new WarrenError({
    code,
    message: `Leadership was not handed over: ${message}`,
    hint: '`warren servers` shows who leads and which nodes are in sync; try again when the node is in sync.',
  });
}
