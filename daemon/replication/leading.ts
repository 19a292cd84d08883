/**
 * A leadership at work: takes proposals, ships them, and tells when they are committed or durable. The protocol itself is
 * in leader.ts; here are its calls, timers and the log.
 *
 * The proposals of one turn of the event loop share one append to each follower. Nothing is allocated per operation and
 * follower; bodies go from the log's encoder to the network as they are.
 */

import type { EncodedEntry } from '../protocol/cluster.ts';
import { describeError } from '../protocol/errors.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { OperationOutcome } from '../protocol/operations.ts';
import { joinEntries } from '../protocol/peer-api.ts';
import type { Context } from './context.ts';
import { type FollowerView, type LeaderEffect, openLeader } from './leader.ts';
import type { Proposal } from './state-machine.ts';

const TICK_MS = 100;
/** An append that is not answered within this is sent again, to a node that is out of sync by then. */
const APPEND_WITHIN_MS = 5000;
/** Newest entries that are kept in memory for followers. */
const RECENT_BYTES = 4 * 1024 * 1024;

export interface Leading {
  readonly epoch: Epoch;
  /** Errors: FsError of the operation; nothing has changed. */
  propose(proposal: Omit<Proposal, 'epoch'>): {
    readonly version: Version;
    readonly outcome: OperationOutcome;
  };
  /** Calls `done(true)` when `version` is committed, or durable everywhere; `done(false)` when the leadership ends. */
  wait(version: Version, durable: boolean, done: (reached: boolean) => void): void;
  inSyncChanged(nodes: readonly NodeId[], version: Version): void;
  setFollowers(ids: readonly NodeId[]): void;
  gone(id: NodeId, gone: boolean): void;
  followers(): readonly FollowerView[];
  /** `id` has everything, and everything is committed. */
  isReady(id: NodeId): boolean;
  end(): void;
}

interface Waiter {
  readonly version: Version;
  readonly done: (reached: boolean) => void;
}

export function startLeading(options: {
  readonly context: Context;
  readonly epoch: Epoch;
  readonly followers: readonly NodeId[];
}): Leading {
  const { context, epoch } = options;
  const { self, state, peers, clock, timers, coordinator } = context;
  const log = context.log.room('replication');
  let recent: EncodedEntry[] = [];
  let recentBytes = 0;
  let followerCount = options.followers.length;
  let ended = false;
  let flushing = false;
  let writing: { readonly promise: Promise<void>; version: Version } | undefined;
  const committedWaiters = waiters();
  const durableWaiters = waiters();
  let durableEverywhere = 0 as Version;
  let durableWanted = 0 as Version;
  let syncing = false;
  let cancelTick: (() => void) | undefined;

  const first = (state.position().version + 1) as Version;
  const leader = openLeader({
    self,
    epoch,
    first,
    source: {
      last: () => state.position(),
      epochs: () => state.epochs(),
      after: (version, bytesMax) => recentAfter(version, bytesMax) ?? state.entriesAfter(version, bytesMax),
    },
    inSync: state.settings().inSync,
    followers: options.followers,
    committed: context.committed(),
    nowMs: clock.monotonicMs(),
  });
  leader.durable(state.durableVersion());

  function recentAfter(version: Version, bytesMax: number): readonly EncodedEntry[] | undefined {
    const oldest = recent[0];
    if (oldest === undefined || version + 1 < oldest.version) return undefined;
    const start = version + 1 - oldest.version;
    let end = start;
    for (let bytes = 0; end < recent.length && (bytes < bytesMax || end === start); end++) {
      bytes += recent[end]?.body.length ?? 0;
    }
    return start === 0 && end === recent.length ? [...recent] : recent.slice(start, end);
  }

  function remember(entry: EncodedEntry): void {
    recent.push(entry);
    recentBytes += entry.body.length;
    if (recentBytes < 2 * RECENT_BYTES) return;
    let drop = 0;
    for (; recentBytes > RECENT_BYTES && drop < recent.length - 1; drop++) {
      recentBytes -= recent[drop]?.body.length ?? 0;
    }
    recent = recent.slice(drop);
  }

  function propose(proposal: Omit<Proposal, 'epoch'>) {
    const { entry, outcome, written } = state.propose({ epoch, ...proposal });
    if (followerCount > 0) remember(entry);
    if (writing?.promise === written) writing.version = entry.version;
    else {
      const current = { promise: written, version: entry.version };
      writing = current;
      written.then(
        () => {
          if (ended) return;
          leader.written(current.version);
          perform();
        },
        (error: unknown) => context.broken('the log cannot be written', error),
      );
    }
    flushSoon();
    return { version: entry.version, outcome };
  }

  /** At the end of the turn, when all its proposals are in. */
  function flushSoon(): void {
    if (flushing || followerCount === 0) return;
    flushing = true;
    queueMicrotask(() => {
      flushing = false;
      if (ended) return;
      leader.flush(clock.monotonicMs());
      perform();
    });
  }

  function perform(): void {
    for (const effect of leader.take()) {
      if (ended) return;
      carryOut(effect);
    }
  }

  function carryOut(effect: LeaderEffect): void {
    switch (effect.kind) {
      case 'send':
        send(effect);
        break;
      case 'committed':
        context.noteCommitted(effect.version);
        committedWaiters.reached(effect.version);
        break;
      case 'durable':
        durableEverywhere = effect.version;
        durableWaiters.reached(effect.version);
        break;
      case 'in-sync':
        changeInSync(effect.nodes, effect.why);
        break;
      case 'refused':
        coordinator.refused(effect.from, effect.epoch);
        break;
    }
  }

  function send({ to, ticket, request, entries }: Extract<LeaderEffect, { kind: 'send' }>): void {
    peers
      .call(to, 'append', request, { bytes: joinEntries(entries).bytes, timeoutMs: APPEND_WITHIN_MS })
      .then(
        ({ answer }) => {
          if (ended) return;
          leader.answered(to, ticket, answer, clock.monotonicMs());
          perform();
        },
        (error: unknown) => {
          if (ended) return;
          leader.failed(to, ticket, describeError(error), clock.monotonicMs());
          perform();
        },
      );
  }

  function changeInSync(nodes: readonly NodeId[], why: string): void {
    coordinator.approveInSync(epoch, nodes).then(
      () => {
        if (ended) return;
        log.info(`in sync now: ${nodes.join(', ')} (${why})`);
        try {
          propose({
            operation: { kind: 'settings', settings: { inSync: nodes } },
            payload: new Map(),
            tag: null,
          });
        } catch (error) {
          context.broken('the in-sync set cannot be written down', error);
        }
      },
      (error: unknown) => {
        log.warn('the in-sync set may not change', { reason: describeError(error) });
        if (!ended) leader.inSyncRefused();
      },
    );
  }

  /** Makes the own log durable: one sync for all who wait. */
  function syncSelf(): void {
    if (syncing || ended || state.durableVersion() >= durableWanted) {
      leader.durable(state.durableVersion());
      return;
    }
    syncing = true;
    const { version } = state.position();
    state.barrier().then(
      () => {
        syncing = false;
        if (ended) return;
        leader.durable(version);
        perform();
        if (durableWanted > version) syncSelf();
      },
      (error: unknown) => {
        syncing = false;
        context.broken('the log cannot be made durable', error);
      },
    );
  }

  function tick(): void {
    cancelTick = undefined;
    if (ended) return;
    leader.tick(clock.monotonicMs(), (id) => coordinator.heard(id)?.atMs);
    perform();
    schedule();
  }

  function schedule(): void {
    if (cancelTick === undefined && followerCount > 0) cancelTick = timers.after(TICK_MS, tick);
  }

  schedule();

  return {
    epoch,
    propose,
    wait(version, durable, done) {
      if (durable) {
        if (version <= durableEverywhere) done(true);
        else {
          durableWaiters.add(version, done);
          if (version > durableWanted) durableWanted = version;
          leader.wantDurable(durableWanted);
          flushSoon();
          // With the turn's other writes in the log, one sync has them all.
          queueMicrotask(syncSelf);
        }
      } else if (version <= leader.committed()) done(true);
      else committedWaiters.add(version, done);
    },
    inSyncChanged(nodes, version) {
      leader.inSyncChanged(nodes, version, clock.monotonicMs());
      perform();
    },
    setFollowers(ids) {
      followerCount = ids.length;
      leader.setFollowers(ids, clock.monotonicMs());
      schedule();
      flushSoon();
    },
    gone(id, gone) {
      leader.gone(id, gone, clock.monotonicMs());
      flushSoon();
      // A dead node is left behind at once, not at the next tick.
      if (gone) {
        cancelTick?.();
        tick();
      }
    },
    followers: () => leader.followers(),
    isReady: (id) => leader.hasAll(id) && leader.committed() === state.position().version,
    end() {
      ended = true;
      cancelTick?.();
      committedWaiters.lost();
      durableWaiters.lost();
    },
  };
}

/** Those who wait for a version, in its order. */
function waiters() {
  let queue: Waiter[] = [];
  let head = 0;
  let newest = 0;
  return {
    add(version: Version, done: (reached: boolean) => void): void {
      // One that waits for less than the last waits with it: the queue stays in order.
      newest = Math.max(newest, version);
      queue.push({ version: newest as Version, done });
    },
    reached(version: Version): void {
      for (
        let waiter = queue[head];
        waiter !== undefined && waiter.version <= version;
        waiter = queue[head]
      ) {
        head++;
        waiter.done(true);
      }
      if (head > 0 && head >= queue.length) {
        queue = [];
        head = 0;
      } else if (head > 1024) {
        queue = queue.slice(head);
        head = 0;
      }
    },
    lost(): void {
      const waiting = queue.slice(head);
      queue = [];
      head = 0;
      for (const { done } of waiting) done(false);
    },
  };
}
