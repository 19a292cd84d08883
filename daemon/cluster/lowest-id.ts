/**
 * The coordinator `lowest-id`: the election (election.ts) with its heartbeats, timers and links.
 *
 * Heartbeats go to every storing member every HEARTBEAT_INTERVAL_MS and whenever something changed; the answer is a
 * heartbeat too, so one that arrives tells both sides. A node without other members sends none and needs no timer.
 */

import type { Epoch, NodeId } from '../protocol/ids.ts';
import type { Peers } from '../peers/interface.ts';
import { defined } from '../runtime/assert.ts';
import type { Clock, Timers } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Coordinator, CoordinatorHooks, LocalState } from './coordinator.ts';
import { type Election, HEARTBEAT_INTERVAL_MS, openElection } from './election.ts';
import { stores } from './ranking.ts';

const TICK_MS = 100;
/** A heartbeat that is not answered within this is lost. */
const ANSWER_WITHIN_MS = 1000;
/** Heartbeats under way to one node; a hung one must not collect them. */
const UNDER_WAY_MAX = 4;

export interface LowestIdOptions {
  readonly self: NodeId;
  readonly incarnation: string;
  readonly peers: Peers;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  /** Highest epoch this node used in earlier lives, and how one is written down before it is used. */
  readonly epochs: { readonly highestUsed: Epoch; save(epoch: Epoch): void };
}

export function lowestId(options: LowestIdOptions): Coordinator {
  const { self, peers, clock, timers } = options;
  const log = options.log.room('cluster');
  const underWay = new Map<NodeId, number>();
  let election: Election | undefined;
  let local: LocalState | undefined;
  let hooks: CoordinatorHooks | undefined;
  let cancelTick: (() => void) | undefined;
  let stopLinks: (() => void) | undefined;
  let beatFromMs = 0;
  let performing = false;
  let closed = false;

  function started(): Election {
    return defined(election, 'the coordinator is started before it is used');
  }

  function perform(): void {
    // An effect may call back and make more; they are performed in their order, after this one.
    if (performing) return;
    performing = true;
    try {
      for (let effects = started().take(); effects.length > 0; effects = started().take()) {
        for (const effect of effects) {
          switch (effect.kind) {
            case 'changed':
              log.info(describe(effect.standing));
              hooks?.changed(effect.standing);
              break;
            case 'hand-over':
              hooks?.handOver(effect.to);
              break;
            case 'beat':
              if (effect.to === 'all') beatAll();
              else beat(effect.to);
              break;
          }
        }
      }
    } finally {
      performing = false;
    }
  }

  function beatAll(): void {
    beatFromMs = clock.monotonicMs() + HEARTBEAT_INTERVAL_MS;
    for (const member of local?.members() ?? []) if (member.id !== self && stores(member)) beat(member.id);
  }

  function beat(to: NodeId): void {
    const count = underWay.get(to) ?? 0;
    if (closed || count >= UNDER_WAY_MAX) return;
    underWay.set(to, count + 1);
    peers
      .call(to, 'heartbeat', started().heartbeat(to), { timeoutMs: ANSWER_WITHIN_MS })
      .then(
        ({ answer }) => {
          if (closed) return;
          started().hear(answer, clock.monotonicMs());
          perform();
        },
        // Silence and links say it already.
        () => {},
      )
      .finally(() => underWay.set(to, (underWay.get(to) ?? 1) - 1));
  }

  function tick(): void {
    if (closed) return;
    const nowMs = clock.monotonicMs();
    started().tick(nowMs);
    perform();
    if (nowMs >= beatFromMs) beatAll();
    schedule();
  }

  function schedule(): void {
    cancelTick?.();
    cancelTick = isAlone() ? undefined : timers.after(TICK_MS, tick);
  }

  function isAlone(): boolean {
    if (local?.hasState() === false) return false;
    return (local?.members() ?? []).every((member) => member.id === self || !stores(member));
  }

  return {
    start(localState, coordinatorHooks) {
      local = localState;
      hooks = coordinatorHooks;
      const nowMs = clock.monotonicMs();
      election = openElection({
        self,
        incarnation: options.incarnation,
        local: localState,
        highestUsed: options.epochs.highestUsed,
        saveUsed: (epoch) => options.epochs.save(epoch),
        nowMs,
      });
      peers.handle('heartbeat', (from, request) => {
        if (!closed && request.from === from) {
          started().hear(request, clock.monotonicMs());
          perform();
        }
        return Promise.resolve({ answer: started().heartbeat(from) });
      });
      stopLinks = peers.onLink((id, state) => {
        if (closed) return;
        started().link(id, state === 'gone', clock.monotonicMs());
        perform();
      });
      for (const { id } of localState.members()) {
        if (peers.link(id) === 'gone') started().link(id, true, nowMs);
      }
      tick();
    },
    standing: () => started().standing(),
    accepts: () => started().accepts(),
    admits(leader, epoch) {
      const admitted = started().admits(leader, epoch, clock.monotonicMs());
      perform();
      return admitted;
    },
    refused(from, epoch) {
      started().refused(from, epoch, clock.monotonicMs());
      perform();
    },
    approveInSync(epoch) {
      const standing = started().standing();
      return standing.kind === 'leads' && standing.epoch === epoch
        ? Promise.resolve()
        : Promise.reject(new Error(`leadership ${epoch} is over`));
    },
    abdicate(to) {
      started().abdicate(to, clock.monotonicMs());
      perform();
    },
    takeOver(from) {
      const result = started().takeOver(from);
      perform();
      return Promise.resolve(result);
    },
    leave(reason) {
      started().leave(reason);
      perform();
    },
    membersChanged() {
      if (!closed && cancelTick === undefined) schedule();
    },
    heard: (id) => started().heard(id),
    close() {
      closed = true;
      cancelTick?.();
      stopLinks?.();
    },
  };
}

function describe(standing: ReturnType<Coordinator['standing']>): string {
  switch (standing.kind) {
    case 'none':
      return `nobody leads: ${standing.reason}`;
    case 'follows':
      return `follows ${standing.leader} (leadership ${standing.epoch})`;
    case 'leads':
      return `leads (leadership ${standing.epoch})`;
  }
}
