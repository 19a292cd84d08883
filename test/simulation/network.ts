/**
 * A simulated network between the nodes of one run: `Peers` with delay, loss, late repeats, cuts in one or both
 * directions, connections that break, processes that are gone, slow and hung ones.
 *
 * Kept of the real one: calls of one lane arrive in order while its connection stands; a call ends by its answer, an
 * error, or its time. Not kept: a request may arrive a second time, later.
 */

import type { Answer, CallOptions, Handler, LinkState, Peers } from '../../daemon/peers/interface.ts';
import { PeerError } from '../../daemon/peers/interface.ts';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import { LANES, type PeerAnswer, type PeerMethod, type PeerRequest } from '../../daemon/protocol/peer-api.ts';
import type { World } from './world.ts';

export interface Weather {
  /** Delay of a message, milliseconds. */
  delayMs: [from: number, to: number];
  lossChance: number;
  repeatChance: number;
}

/** One life of a process: what it has scheduled does not happen after its end, and waits while it hangs. */
export interface Life {
  readonly id: NodeId;
  alive: boolean;
  hungUntilMs: number;
  /** Added to each message from and to it. */
  slowMs: number;
}

export interface Network {
  readonly weather: Weather;
  join(life: Life): Peers;
  /** The process is there no more; others are refused. */
  left(id: NodeId): void;
  /** Messages from one to the other do not arrive. */
  cut(from: NodeId, to: NodeId): void;
  heal(): void;
  /** All calls under way between two nodes end as lost. */
  reset(one: NodeId, other: NodeId): void;
  /** Runs in a life: not after its end, later while it hangs. */
  after(life: Life, delayMs: number, action: () => unknown): void;
}

interface Member {
  readonly life: Life;
  readonly handlers: Map<PeerMethod, Handler<PeerMethod>>;
  readonly listeners: Set<(id: NodeId, state: LinkState) => void>;
  readonly links: Map<NodeId, LinkState>;
}

interface Call {
  readonly from: NodeId;
  readonly to: NodeId;
  readonly fail: (kind: 'lost' | 'timeout') => void;
}

const REFUSED_AFTER_MS = 2;
const LOST_AFTER_MS = 2500;

export function createNetwork(world: World): Network {
  const members = new Map<NodeId, Member>();
  const cuts = new Set<string>();
  const calls = new Set<Call>();
  /** When the last message of a lane arrives, so that the next one does not overtake it. */
  const lanes = new Map<string, number>();
  const weather: Weather = { delayMs: [0.1, 1], lossChance: 0, repeatChance: 0 };

  function after(life: Life, delayMs: number, action: () => unknown): void {
    world.at(delayMs, () => {
      if (!life.alive) return undefined;
      if (life.hungUntilMs > world.nowMs()) {
        after(life, life.hungUntilMs - world.nowMs(), action);
        return undefined;
      }
      return action();
    });
  }

  function delay(from: Life, to: Life): number {
    const [least, most] = weather.delayMs;
    return least + world.random() * (most - least) + from.slowMs + to.slowMs;
  }

  const isCut = (from: NodeId, to: NodeId): boolean => cuts.has(`${from}>${to}`);

  function setLink(member: Member, id: NodeId, state: LinkState): void {
    if (member.links.get(id) === state) return;
    member.links.set(id, state);
    for (const listener of member.listeners) listener(id, state);
  }

  /** What `member` finds out about its link to `id` a little later. */
  function look(member: Member, id: NodeId, delayMs: number): void {
    after(member.life, delayMs, () => {
      const other = members.get(id);
      if (isCut(member.life.id, id) || isCut(id, member.life.id)) setLink(member, id, 'lost');
      else setLink(member, id, other?.life.alive === true ? 'connected' : 'gone');
    });
  }

  function everybodyLooksAt(id: NodeId, delayMs: () => number): void {
    for (const member of members.values()) if (member.life.id !== id) look(member, id, delayMs());
  }

  function call<M extends PeerMethod>(
    from: Member,
    to: NodeId,
    method: M,
    request: PeerRequest<M>,
    options: CallOptions,
  ): Promise<Answer<M>> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer<M>>();
    const caller = from.life;
    const copy = structuredClone(request);
    const bytes = Buffer.concat(options.bytes ?? []);
    let over = false;
    const record: Call = { from: caller.id, to, fail };
    calls.add(record);

    function end(action: () => void): void {
      if (over || !caller.alive) return;
      over = true;
      calls.delete(record);
      action();
    }
    function fail(
      kind: 'lost' | 'timeout' | 'unreachable' | 'refused' | 'aborted',
      message = kind as string,
    ): void {
      end(() => reject(new PeerError(kind, `${method} to ${to}: ${message}`)));
    }
    async function arrive(answers: boolean): Promise<void> {
      const target = members.get(to)!;
      const handler = target.handlers.get(method) as Handler<M> | undefined;
      if (handler === undefined) {
        if (answers) after(caller, 1, () => fail('refused', 'no handler'));
        return;
      }
      let answered: { readonly answer: PeerAnswer<M>; readonly bytes?: readonly Uint8Array[] };
      try {
        answered = await handler(caller.id, copy, bytes);
      } catch (error) {
        if (answers && target.life.alive) after(caller, 1, () => fail('refused', String(error)));
        return;
      }
      if (!answers || !target.life.alive) return;
      if (world.chance(weather.lossChance)) {
        after(caller, 5, () => fail('lost'));
        return;
      }
      const answer = structuredClone(answered.answer);
      const answerBytes = Buffer.concat(answered.bytes ?? []);
      after(caller, delay(target.life, caller), () => {
        if (!isCut(to, caller.id)) end(() => resolve({ answer, bytes: answerBytes }));
      });
    }

    after(caller, options.timeoutMs, () => fail('timeout'));
    options.signal?.addEventListener('abort', () => fail('aborted'));
    const target = members.get(to);
    if (target === undefined || !target.life.alive) {
      after(caller, REFUSED_AFTER_MS, () => fail('unreachable', 'refused'));
      return promise;
    }
    if (isCut(caller.id, to)) return promise;
    if (world.chance(weather.lossChance)) {
      // The connection broke before or after the request arrived.
      after(caller, 5, () => fail('lost'));
      if (world.chance(0.5)) return promise;
    }
    const lane = `${caller.id}>${to} ${LANES[method]}`;
    const atMs = Math.max(world.nowMs() + delay(caller, target.life), lanes.get(lane) ?? 0);
    lanes.set(lane, atMs);
    // Answers are made while time goes on: the handler's promise is not waited for.
    after(target.life, atMs - world.nowMs(), () => void arrive(true));
    if (world.chance(weather.repeatChance)) {
      after(target.life, atMs - world.nowMs() + world.between(0, 3000), () => void arrive(false));
    }
    return promise;
  }

  return {
    weather,
    after,
    join(life) {
      const member: Member = { life, handlers: new Map(), listeners: new Set(), links: new Map() };
      members.set(life.id, member);
      for (const id of members.keys()) if (id !== life.id) look(member, id, world.between(1, 20));
      everybodyLooksAt(life.id, () => world.between(1, 50));
      return {
        self: life.id,
        call: (to, method, request, options) => call(member, to, method, request, options),
        handle(method, handler) {
          member.handlers.set(method, handler as unknown as Handler<PeerMethod>);
        },
        link: (id) => member.links.get(id) ?? 'lost',
        onLink(listener) {
          member.listeners.add(listener);
          return () => member.listeners.delete(listener);
        },
      };
    },
    left(id) {
      for (const call of calls) {
        if (call.from === id) calls.delete(call);
        else if (call.to === id) {
          const caller = members.get(call.from)!.life;
          if (!isCut(id, call.from)) after(caller, world.between(1, 10), () => call.fail('lost'));
        }
      }
      everybodyLooksAt(id, () => world.between(1, 30));
    },
    cut(from, to) {
      cuts.add(`${from}>${to}`);
      const [one, other] = [members.get(from), members.get(to)];
      if (one !== undefined) look(one, to, LOST_AFTER_MS);
      if (other !== undefined) look(other, from, LOST_AFTER_MS);
    },
    heal() {
      cuts.clear();
      for (const member of members.values()) {
        for (const id of members.keys()) if (id !== member.life.id) look(member, id, world.between(1, 300));
      }
    },
    reset(one, other) {
      for (const call of calls) {
        const between = [one, other].includes(call.from) && [one, other].includes(call.to);
        if (between) after(members.get(call.from)!.life, 0, () => call.fail('lost'));
      }
    },
  };
}
