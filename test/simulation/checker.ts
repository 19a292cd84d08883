/**
 * What must hold, seen from outside. The checker hears of every entry that any node applies and of every answer that a
 * client got, and compares the two at the end.
 *
 * An operation of a client carries its number in its time stamp (`seconds`), so that it is found again in any history.
 */

import type { EpochStart } from '../../daemon/protocol/cluster.ts';
import type { Epoch, NodeId, Version } from '../../daemon/protocol/ids.ts';
import type { Operation } from '../../daemon/protocol/operations.ts';
import { epochAt } from '../../daemon/replication/history.ts';
import type { Applied, StateMachine } from '../../daemon/replication/state-machine.ts';
import type { SimulatedNode } from './node.ts';

export type Result = 'pending' | 'done' | 'refused' | 'not-done' | 'unknown';

export interface Request {
  readonly number: number;
  readonly node: NodeId;
  readonly operation: Operation;
  readonly durable: boolean;
  /** The life of the node that took it. */
  readonly incarnation: number;
  result: Result;
}

export interface Checker {
  readonly failures: string[];
  readonly requests: Request[];
  applied(id: NodeId, applied: Applied): void;
  leads(id: NodeId, epoch: Epoch): void;
  answered(request: Request, node: Pick<SimulatedNode, 'id' | 'state' | 'replication'>): void;
  /** What a node gave away for keeping. */
  forked(state: StateMachine, after: Version): void;
  fail(what: string): void;
  /** Compares the answers with the history that all agreed on. */
  finish(state: StateMachine, rules: { readonly forks: boolean; readonly powerCuts: boolean }): void;
}

export function createChecker(): Checker {
  const failures: string[] = [];
  const requests: Request[] = [];
  /** Every entry that was ever applied, by epoch and version: what it was. */
  const entries = new Map<string, string>();
  const leaders = new Map<Epoch, NodeId>();
  const kept = new Set<string>();

  function fail(what: string): void {
    if (failures.length < 20) failures.push(what);
  }

  function nameOf({ operation }: Pick<Applied, 'operation'>): string {
    if ('time' in operation && operation.time !== null) return `#${operation.time.seconds}`;
    return operation.kind === 'lead' ? `lead ${operation.leader}` : operation.kind;
  }

  function historyOf(state: { epochs(): readonly EpochStart[] }, from: number, to: number): string[] {
    const found: string[] = [];
    const epochs = state.epochs();
    for (let version = from; version <= to; version++) {
      const name = entries.get(`${epochAt(epochs, version as Version)}/${version}`);
      if (name === undefined) fail(`nobody has seen entry ${version} being applied`);
      else found.push(name);
    }
    return found;
  }

  return {
    failures,
    requests,
    fail,
    applied(id, applied) {
      const key = `${applied.epoch}/${applied.version}`;
      const name = nameOf(applied);
      const known = entries.get(key);
      if (known === undefined) entries.set(key, name);
      else if (known !== name) fail(`${id} applied ${name} as ${key}, another node ${known}`);
    },
    leads(id, epoch) {
      const known = leaders.get(epoch);
      if (known === undefined) leaders.set(epoch, id);
      else if (known !== id) fail(`${id} and ${known} both led with epoch ${epoch}`);
    },
    answered(request, { id, state, replication }) {
      // A node that is cut off hears late that its proposals are done, and shows that it is not in sync.
      if (request.result !== 'done' || !replication.isInSync()) return;
      const { version } = state.position();
      const mark = `#${request.number}`;
      const epochs = state.epochs();
      for (let at: number = version; at > 0; at--) {
        if (entries.get(`${epochAt(epochs, at as Version)}/${at}`) === mark) return;
      }
      fail(`${id} answered ${mark} (${request.operation.kind}) at ${version} before it had applied it`);
    },
    forked(state, after) {
      for (const name of historyOf(state, after + 1, state.position().version)) kept.add(name);
    },
    finish(state, { forks, powerCuts }) {
      const history = historyOf(state, 1, state.position().version);
      const counts = new Map<string, number>();
      for (const name of history) counts.set(name, (counts.get(name) ?? 0) + 1);
      for (const request of requests) {
        const mark = `#${request.number}`;
        const count = counts.get(mark) ?? 0;
        const what = `${mark} (${request.operation.kind} by ${request.node}, ${request.result})`;
        if (count > 1) fail(`${what} is in the history ${count} times`);
        // With two histories it may have been done in the other one: a refusal is the word of one of them.
        const refused = request.result === 'not-done' || (request.result === 'refused' && kept.size === 0);
        if (refused && count > 0) fail(`${what} is in the history`);
        if (request.result === 'pending') fail(`${what} has no answer`);
        if (request.result !== 'done' || count === 1) continue;
        if (powerCuts && !request.durable) continue;
        if (!forks) fail(`${what} is lost`);
        else if (!kept.has(mark)) fail(`${what} is lost, and was not kept as a fork either`);
      }
    },
  };
}
