/**
 * One run of the simulator: a cluster, a workload and faults from one seed; first faults, then calm in which all must
 * come together again; then the checks.
 */

import { createHash } from 'node:crypto';
import type { Member } from '../../daemon/protocol/cluster.ts';
import { firstInode } from '../../daemon/protocol/cluster.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import { type ChunkHash, type Inode, type NodeId, ROOT_INODE } from '../../daemon/protocol/ids.ts';
import type { Operation } from '../../daemon/protocol/operations.ts';
import { type Checker, createChecker, type Request } from './checker.ts';
import { createNetwork } from './network.ts';
import { createNode, type SimulatedNode, type Storage, TIMEOUT_MS } from './node.ts';
import { createWorld, type World } from './world.ts';

export type Kind = 'calm' | 'crashes' | 'power' | 'partitions' | 'all';
const KINDS: readonly Kind[] = ['calm', 'crashes', 'power', 'partitions', 'all'];
/** After the faults, everything must have come together within this. */
const CALM_MS = 45_000;
/** Each node makes its last change this long after the faults, when a cold start has waited for all it waits for. */
const LAST_AFTER_MS = 14_000;

export interface RunOptions {
  readonly seed: number;
  readonly faultsMs: number;
  /** Makes the disk of one node. */
  readonly storage: (world: World, id: NodeId, members: readonly Member[]) => Storage;
  readonly say?: (line: string) => void;
  /** Also says each request and its end. */
  readonly requests?: boolean;
}

export interface RunResult {
  readonly kind: Kind;
  readonly failures: readonly string[];
  readonly answered: number;
  readonly simulatedMs: number;
  readonly events: { crashes: number; leaders: number; forks: number; copies: number };
}

export async function simulate(options: RunOptions): Promise<RunResult> {
  const { seed } = options;
  const world = createWorld(seed);
  const kind = KINDS[seed % KINDS.length]!;
  const network = createNetwork(world);
  const checker = createChecker();
  const events = { crashes: 0, leaders: 0, forks: 0, copies: 0 };
  const members = makeMembers(world);
  const say = (line: string): void => options.say?.(`${world.nowMs().toFixed(1).padStart(9)} ${line}`);
  say(`seed ${seed}: ${kind}, ${members.length} nodes`);

  const nodes = members.map(({ id }) =>
    createNode({
      id,
      world,
      network,
      storage: options.storage(world, id, members),
      hooks: {
        opened(node) {
          node.state.onApplied((applied) => checker.applied(node.id, applied));
          node.state.onRewound((change) => {
            if (change.kind === 'restored') events.copies++;
          });
        },
        forked(node, fork) {
          events.forks++;
          say(`${node.id} keeps a fork after ${fork.common.version} up to ${fork.last.version}`);
          checker.forked(node.state, fork.common.version);
        },
        say: (id, line) => say(`${id}: ${line}`),
      },
    }),
  );
  const watch = (node: SimulatedNode): void => {
    const see = (): void => {
      const leadership = node.replication.leadership();
      if (leadership.kind !== 'leads') return;
      events.leaders++;
      checker.leads(node.id, leadership.epoch);
    };
    see();
    node.replication.onLeadership(see);
  };
  const start = async (node: SimulatedNode): Promise<void> => {
    await node.start();
    watch(node);
  };
  for (const node of nodes) world.at(world.between(0, 500), () => start(node));

  const load = createLoad(world, checker, nodes, options.requests === true ? say : () => {});
  const faults = createFaults({ world, network, nodes, kind, start, events, checker, say });
  await world.run(options.faultsMs);
  say('the faults end');
  faults.end();
  load.end();
  await faults.mend();
  const calmFromMs = world.nowMs();
  const isTogether = (): boolean => load.isDone() && together(nodes);
  // One that only just came together might fall apart again: it must last.
  let sinceMs = Number.POSITIVE_INFINITY;
  await world.run(calmFromMs + CALM_MS, () => {
    if (!isTogether()) sinceMs = Number.POSITIVE_INFINITY;
    else if (sinceMs === Number.POSITIVE_INFINITY) sinceMs = world.nowMs();
    return world.nowMs() - sinceMs > 1500;
  });
  if (!isTogether()) {
    for (const node of nodes) {
      const { replication, state } = node;
      checker.fail(
        `not together: ${node.id} ${JSON.stringify({ ...replication.leadership(), ...state.position(), inSync: replication.inSync(), peers: replication.peers().map(({ id, state, reason }) => `${id} ${state} ${reason}`) })}`,
      );
    }
  } else {
    const dumps = await Promise.all(nodes.map((node) => node.dump()));
    for (const [index, dump] of dumps.entries()) {
      if (dump !== dumps[0]) checker.fail(`${nodes[index]!.id} and ${nodes[0]!.id} differ in content`);
    }
    checker.finish(nodes[0]!.state, {
      forks: kind === 'partitions' || kind === 'all',
      powerCuts: kind === 'power' || kind === 'all',
    });
  }
  for (const node of nodes) await node.crash(false);
  const answered = checker.requests.filter(({ result }) => result === 'done').length;
  return { kind, failures: checker.failures, answered, simulatedMs: world.nowMs(), events };
}

function makeMembers(world: World): Member[] {
  const count = world.pick([2, 3, 3, 3, 5]);
  return Array.from({ length: count }, (_, number) => ({
    id: `n${number}` as NodeId,
    number,
    role:
      count > 2 && number > 0 && world.chance(0.15) ? world.pick(['leader', 'follower'] as const) : 'auto',
    address: `n${number}:9500`,
    state: 'active' as const,
    key: '',
  }));
}

/** One leader, everybody follows it, is in sync and at the same entry. */
function together(nodes: readonly SimulatedNode[]): boolean {
  const [first] = nodes;
  if (first === undefined || nodes.some(({ life }) => !life.alive)) return false;
  const leaders = nodes.filter(({ replication }) => replication.leadership().kind === 'leads');
  const here = first.state.position();
  return (
    leaders.length === 1 &&
    leaders[0]!.replication.inSync().length === nodes.length &&
    nodes.every(({ replication, state }) => {
      const { epoch, version } = state.position();
      return epoch === here.epoch && version === here.version && replication.isInSync();
    })
  );
}

/** Clients on every node; after `end` each node makes one more change, which must succeed. */
function createLoad(
  world: World,
  checker: Checker,
  nodes: readonly SimulatedNode[],
  sayRequest: (line: string) => void,
) {
  let ended = false;
  let numbers = 0;
  const inodes: Inode[] = [];
  const lastOnes: Request[] = [];

  function nextOperation(node: SimulatedNode, number: number): Operation {
    const name = (): Buffer => Buffer.from(`f${world.between(0, 7)}`);
    const time = { seconds: number, nanoseconds: 0 };
    const choice = world.random();
    if (choice < 0.4 || inodes.length === 0) {
      const inode = (firstInode(nodes.indexOf(node)) + number) as Inode;
      inodes.push(inode);
      const entry = { parent: ROOT_INODE, name: name() };
      return {
        kind: 'make',
        inode,
        entry,
        mode: 0o100644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: null,
        xattrs: [],
        time,
      };
    }
    if (choice < 0.55) return { kind: 'unlink', parent: ROOT_INODE, name: name(), time };
    if (choice < 0.7) {
      return {
        kind: 'rename',
        from: { parent: ROOT_INODE, name: name() },
        to: { parent: ROOT_INODE, name: name() },
        noReplace: world.chance(0.5),
        exchange: false,
        time,
      };
    }
    const inode = inodes[Math.max(0, inodes.length - 1 - world.between(0, 12))]!;
    const hash = hashOf(number);
    const extents = [{ offset: 0, length: 8, hash, chunkBytes: 8, chunkOffset: 0 }];
    return { kind: 'write', inode, extents, sizeAtLeast: 8, time };
  }

  function propose(node: SimulatedNode, operation: Operation, number: number): Request {
    const durable = world.chance(0.3);
    const request: Request = { number, node: node.id, operation, durable, incarnation: 0, result: 'pending' };
    checker.requests.push(request);
    const { life } = node;
    sayRequest(`#${number} ${operation.kind} by ${node.id}${durable ? ', durable' : ''}`);
    const payload = operation.kind === 'write' ? new Map([[hashOf(number), contentOf(number)]]) : undefined;
    const ended = (): void => sayRequest(`#${number} by ${node.id}: ${request.result}`);
    node.replication.propose(operation, payload, { durable }).then(
      () => {
        if (!life.alive) return;
        request.result = 'done';
        ended();
        checker.answered(request, node);
      },
      (error: unknown) => {
        if (!life.alive) return;
        if (!(error instanceof FsError)) checker.fail(`#${number}: ${String(error)}`);
        else if (error.code === 'EIO') request.result = 'unknown';
        else request.result = error.code === 'EROFS' ? 'not-done' : 'refused';
        ended();
      },
    );
    // One whose process dies gets no answer: nobody knows.
    watchDeath(request, life);
    return request;
  }

  function watchDeath(request: Request, life: SimulatedNode['life']): void {
    world.at(TIMEOUT_MS + 1000, () => {
      if (request.result !== 'pending') return;
      if (!life.alive) request.result = 'unknown';
      else watchDeath(request, life);
    });
  }

  function client(node: SimulatedNode): void {
    world.at(world.between(5, 250), () => {
      if (ended) return;
      if (node.life.alive && node.life.hungUntilMs <= world.nowMs()) {
        const burst = world.chance(0.1) ? world.between(2, 12) : 1;
        for (let count = 0; count < burst; count++) {
          const number = ++numbers;
          propose(node, nextOperation(node, number), number);
        }
        if (world.chance(0.1)) node.replication.barrier().catch(() => {});
      }
      client(node);
    });
  }
  for (const node of nodes) client(node);

  return {
    end() {
      ended = true;
      world.at(LAST_AFTER_MS, () => {
        for (const node of nodes) {
          const number = ++numbers;
          const inode = (firstInode(nodes.indexOf(node)) + number) as Inode;
          const entry = { parent: ROOT_INODE, name: Buffer.from(`last-${node.id}`) };
          const time = { seconds: number, nanoseconds: 0 };
          lastOnes.push(
            propose(
              node,
              {
                kind: 'make',
                inode,
                entry,
                mode: 0o100644,
                uid: 0,
                gid: 0,
                rdev: 0,
                target: null,
                xattrs: [],
                time,
              },
              number,
            ),
          );
        }
      });
    },
    isDone: () =>
      lastOnes.length === nodes.length &&
      lastOnes.every(({ result }) => result === 'done') &&
      checker.requests.every(({ result }) => result !== 'pending'),
  };
}

function contentOf(number: number): Buffer {
  return Buffer.from(String(number).padStart(8, '0'));
}

function hashOf(number: number): ChunkHash {
  return createHash('sha256').update(contentOf(number)).digest('hex') as ChunkHash;
}

/** One fault at a time with room between them (`crashes`, `power`), or as they come. */
function createFaults(options: {
  readonly world: World;
  readonly network: ReturnType<typeof createNetwork>;
  readonly nodes: readonly SimulatedNode[];
  readonly kind: Kind;
  readonly start: (node: SimulatedNode) => Promise<void>;
  readonly events: RunResult['events'];
  readonly checker: Checker;
  readonly say: (line: string) => void;
}) {
  const { world, network, nodes, kind, events, checker, say } = options;
  let ended = false;
  const stopping = new Set<SimulatedNode['life']>();
  network.weather.delayMs = world
    .pick([
      [0.1, 1],
      [0.1, 30],
      [5, 120],
    ] as const)
    .slice() as [number, number];
  network.weather.repeatChance = world.pick([0, 0.01, 0.1]);
  network.weather.lossChance = kind === 'calm' ? world.pick([0, 0.002, 0.02]) : world.pick([0, 0.01]);

  const crash = async (node: SimulatedNode, power: boolean): Promise<void> => {
    if (!node.life.alive) return;
    events.crashes++;
    say(`${node.id} ${power ? 'loses power' : 'is killed'}`);
    await node.crash(power);
  };
  const restartLater = (node: SimulatedNode, mostMs: number): void => {
    world.at(world.between(20, mostMs), () => {
      if (node.life.alive || ended) return undefined;
      say(`${node.id} starts again`);
      return options.start(node);
    });
  };

  const faults: Record<string, () => unknown> = {
    async crash() {
      const node = world.pick(nodes);
      await crash(node, false);
      restartLater(node, 5000);
    },
    async crashAll() {
      for (const node of nodes) await crash(node, false);
      for (const node of nodes) restartLater(node, 5000);
    },
    async power() {
      const node = world.pick(nodes);
      await crash(node, true);
      restartLater(node, 5000);
    },
    async powerAll() {
      for (const node of nodes) await crash(node, true);
      for (const node of nodes) restartLater(node, 5000);
    },
    stop() {
      const node = world.pick(nodes);
      const { life } = node;
      if (!life.alive || stopping.has(life)) return;
      stopping.add(life);
      say(`${node.id} is stopped in order`);
      const ended = async (): Promise<void> => {
        // It may have been killed while it stopped.
        if (!life.alive) return;
        await crash(node, false);
        restartLater(node, 3000);
      };
      node.replication.close().then(
        () => network.after(life, 0, ended),
        (error: unknown) => checker.fail(`${node.id} cannot stop: ${String(error)}`),
      );
    },
    hang() {
      const node = world.pick(nodes);
      const forMs = world.between(200, 5000);
      say(`${node.id} hangs for ${forMs} ms`);
      node.life.hungUntilMs = world.nowMs() + forMs;
    },
    slow() {
      const node = world.pick(nodes);
      node.life.slowMs = world.between(50, 1500);
      say(`${node.id} is slow by ${node.life.slowMs} ms`);
      const { life } = node;
      world.at(world.between(500, 4000), () => {
        life.slowMs = 0;
      });
    },
    reset() {
      network.reset(world.pick(nodes).id, world.pick(nodes).id);
    },
    handOver() {
      const to = world.pick(nodes).id;
      for (const { life, replication } of nodes) {
        if (life.alive && replication.leadership().kind === 'leads') replication.handOver(to).catch(() => {});
      }
    },
    prefer() {
      const to = world.pick([...nodes.map(({ id }) => id), null]);
      const node = world.pick(nodes);
      if (!node.life.alive) return;
      node.replication.propose({ kind: 'settings', settings: { preferred: to } }).catch(() => {});
    },
    cutOne() {
      const [from, to] = [world.pick(nodes).id, world.pick(nodes).id];
      if (from === to) return;
      say(`nothing gets from ${from} to ${to}`);
      network.cut(from, to);
      if (world.chance(0.5)) network.cut(to, from);
      healLater();
    },
    split() {
      const side = new Set(nodes.filter(() => world.chance(0.5)).map(({ id }) => id));
      say(`cut off: ${[...side].join(', ')}`);
      for (const { id: one } of nodes) {
        for (const { id: other } of nodes) if (side.has(one) !== side.has(other)) network.cut(one, other);
      }
      healLater();
    },
  };
  const healLater = (): void =>
    world.at(world.between(500, 7000), () => {
      if (ended) return;
      say('the network is whole again');
      network.heal();
    });

  const always = ['reset', 'handOver', 'prefer', 'slow'];
  const chosen: Record<Kind, string[]> = {
    calm: always,
    crashes: [...always, 'crash', 'crash', 'crash', 'crashAll', 'hang', 'stop', 'stop'],
    power: [...always, 'power', 'power', 'crash', 'powerAll'],
    partitions: [...always, 'cutOne', 'split', 'split', 'hang'],
    all: Object.keys(faults),
  };
  const apart = kind === 'crashes' || kind === 'power';
  const next = (): void =>
    world.at(apart ? world.between(9000, 12_000) : world.between(200, 4000), async () => {
      if (ended) return;
      await faults[world.pick(chosen[kind])]!();
      next();
    });
  next();

  return {
    end() {
      ended = true;
    },
    async mend(): Promise<void> {
      network.heal();
      network.weather.lossChance = 0;
      network.weather.repeatChance = 0;
      network.weather.delayMs = [0.1, 2];
      for (const node of nodes) {
        node.life.slowMs = 0;
        node.life.hungUntilMs = 0;
        if (node.life.alive && stopping.has(node.life)) await crash(node, false);
        if (!node.life.alive) await options.start(node);
      }
    },
  };
}
