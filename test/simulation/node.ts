/** One simulated node: real election, real replication, on a state machine with a disk that outlives the process. */

import { lowestId } from '../../daemon/cluster/lowest-id.ts';
import type { Peers } from '../../daemon/peers/interface.ts';
import type { Epoch, NodeId } from '../../daemon/protocol/ids.ts';
import type { Fork } from '../../daemon/replication/context.ts';
import type { Replication } from '../../daemon/replication/interface.ts';
import { openReplication } from '../../daemon/replication/replication.ts';
import type { SnapshotFiles } from '../../daemon/replication/snapshots.ts';
import type { StateMachine } from '../../daemon/replication/state-machine.ts';
import type { Log } from '../../daemon/runtime/log.ts';
import type { Life, Network } from './network.ts';
import type { World } from './world.ts';

/** A proposal ends at this. */
export const TIMEOUT_MS = 8000;

/** Where a node keeps its state: opened at each start of the process. */
export interface Storage {
  open(sync: () => Promise<void>): Promise<{ readonly state: StateMachine; dump(): Promise<string> }>;
  /** The process is gone; `power`: what was not durable too. */
  crash(power: boolean): Promise<void>;
  readonly files: SnapshotFiles;
}

export interface SimulatedNode {
  readonly id: NodeId;
  readonly life: Life;
  readonly replication: Replication;
  readonly state: StateMachine;
  readonly forks: Fork[];
  dump(): Promise<string>;
  start(): Promise<void>;
  crash(power: boolean): Promise<void>;
}

export interface NodeHooks {
  /** Before replication sees it. */
  opened(node: SimulatedNode): void;
  forked(node: SimulatedNode, fork: Fork): void;
  say(id: NodeId, line: string): void;
}

export function createNode(options: {
  readonly id: NodeId;
  readonly world: World;
  readonly network: Network;
  readonly storage: Storage;
  readonly hooks: NodeHooks;
}): SimulatedNode {
  const { id, world, network, storage, hooks } = options;
  let starts = 0;
  let highestUsed = 0 as Epoch;
  let life: Life = { id, alive: false, hungUntilMs: 0, slowMs: 0 };
  let replication: Replication | undefined;
  let opened: { readonly state: StateMachine; dump(): Promise<string> } | undefined;

  function log(): Log {
    const say = (message: string, fields?: Record<string, unknown>): void =>
      hooks.say(id, fields === undefined ? message : `${message} ${JSON.stringify(fields)}`);
    return { debug: say, info: say, warn: say, error: say, room: log };
  }

  function open(peers: Peers, mine: Life): void {
    const startMs = world.nowMs();
    const clock = {
      now: () => ({ seconds: Math.floor(world.nowMs() / 1000), nanoseconds: 0 }),
      monotonicMs: () => world.nowMs() - startMs + 1,
    };
    const timers = {
      after(delayMs: number, callback: () => void) {
        let cancelled = false;
        network.after(mine, delayMs, () => {
          if (!cancelled) callback();
        });
        return () => {
          cancelled = true;
        };
      },
    };
    const incarnation = `${id}.${starts}`;
    const coordinator = lowestId({
      self: id,
      incarnation,
      peers,
      clock,
      timers,
      log: log(),
      epochs: {
        highestUsed,
        save(epoch) {
          highestUsed = epoch;
        },
      },
    });
    replication = openReplication({
      self: id,
      incarnation,
      peers,
      state: opened!.state,
      coordinator,
      clock,
      timers,
      log: log(),
      files: storage.files,
      timeoutMs: TIMEOUT_MS,
      joining: opened!.state.members().length === 0,
      figures: () => ({ release: '0', diskBytes: 0, diskFreeBytes: 0, lackingChunks: 0, lackingBytes: 0 }),
      beforeAck: () =>
        world.chance(0.1) ? new Promise((resolve) => timers.after(world.between(0, 10), resolve)) : undefined,
      onFork(fork) {
        hooks.forked(node, fork);
        return Promise.resolve();
      },
    });
  }

  const node: SimulatedNode = {
    id,
    forks: [],
    get life() {
      return life;
    },
    get replication() {
      return replication!;
    },
    get state() {
      return opened!.state;
    },
    dump: () => opened!.dump(),
    async start() {
      starts++;
      const mine: Life = { id, alive: true, hungUntilMs: 0, slowMs: 0 };
      life = mine;
      // A sync that the process does not live to see never ends.
      opened = await storage.open(
        () => new Promise((resolve) => network.after(mine, world.between(1, 12), resolve)),
      );
      hooks.opened(node);
      open(network.join(mine), mine);
    },
    async crash(power) {
      life.alive = false;
      network.left(id);
      await storage.crash(power);
    },
  };
  return node;
}
