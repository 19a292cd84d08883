/**
 * A node with role client: it has an identity and mounts, and stores nothing. Its files are served by the storing nodes
 * of its cluster, one at a time (`filesystem/remote`).
 *
 * Start: data directory and its lock, identity, connections, control socket, mount. It starts also when no storing node
 * answers: its mount then waits for one, each call for `mount.timeout`.
 */

import { randomUUID } from 'node:crypto';
import { startControlServer } from './control/server.ts';
import { clusterLocks, type LockLeader, mountBase } from './filesystem/cluster-locks.ts';
import { openRemoteFileSystem, type RemoteFileSystem } from './filesystem/remote.ts';
import type { RemoteTransport } from './filesystem/remote-connection.ts';
import type { EventsAnswer, FileAnswer, SessionAnswer, Standing } from './filesystem/remote-protocol.ts';
import { type KnownMembers, loadMembers, saveMembers } from './known-members.ts';
import { type Mounts, openMounts } from './mounts.ts';
import type { NodeOptions, RunningNode } from './node.ts';
import { loadIdentity } from './peers/identity.ts';
import { openPeers, type PeerNetwork } from './peers/peers.ts';
import {
  CONTROL_API_VERSION,
  type ControlHandlers,
  type ControlMethod,
  type Health,
  type Status,
} from './protocol/control-api.ts';
import { serversSchema } from './protocol/control-cluster.ts';
import { WarrenError } from './protocol/errors.ts';
import type { Epoch, NodeId } from './protocol/ids.ts';
import { RELEASE } from './protocol/release.ts';
import { systemClock } from './runtime/clock.ts';
import { openDataDirectory } from './storage/data-directory.ts';

const CONTROL_TIMEOUT_MS = 10_000;
/** A waiting lock call ends with its connection, not by time. */
const LOCK_WAIT_MS = 2 ** 31 - 1;

/** Errors: WarrenError of whatever is in the way, after everything started was ended. */
export async function startClientNode(options: NodeOptions): Promise<RunningNode> {
  const { config, log } = options;
  const clock = systemClock();
  const startedMs = clock.monotonicMs();
  const self = config.node.id;
  await using stack = new AsyncDisposableStack();

  const directory = openDataDirectory(config.node.dataDirectory, { nodeId: self });
  stack.defer(() => directory.close());
  const identity = loadIdentity(directory.path);
  if (directory.format.origin !== 'joined' || identity === undefined) {
    throw new WarrenError({
      code: 'JOIN_INCOMPLETE',
      message: `${directory.path} was not admitted to a cluster yet; a client has no files of its own.`,
      hint: `run \`warren join TOKEN -d ${directory.path}\`; \`warren token\` on a node of the cluster prints a token`,
    });
  }
  const { memberNumber } = directory.format;
  let known = loadMembers(directory.path);
  let standing: Standing = {
    ...{ leader: null, epoch: 0 as Epoch, inSync: [] },
    ...{ members: known.members, version: known.membersVersion },
  };

  const peers = await openPeers({
    identity,
    bind: config.node.bind,
    onJoin: () => Promise.resolve({ kind: 'elsewhere', address: leaderAddress() }),
    clock,
    log,
  });
  stack.defer(() => peers.close());
  setMembers(known);
  const lockListeners = new Set<() => void>();
  const locks = clusterLocks({
    self: { number: memberNumber },
    log: log.room('locks'),
    timeoutMs: config.mount.timeoutMs,
    leader: lockLeader,
    onLeader: (listener) => void lockListeners.add(listener),
    inSync: () => [],
    async call(to, call, { timeoutMs }) {
      const { answer } = await peers.call(to, 'lock', call, { timeoutMs: timeoutMs ?? LOCK_WAIT_MS });
      return answer;
    },
    alone: () => false,
  });
  const filesystem: RemoteFileSystem = openRemoteFileSystem({
    session: randomUUID(),
    transport: transportOver(peers, () => servers()),
    locks,
    timeoutMs: config.mount.timeoutMs,
    log: log.room('client'),
    onStanding: learn,
    told: () => opened?.told(),
    several: () => (opened?.list().length ?? 0) > 1,
  });
  stack.defer(() => filesystem.close());
  let opened: Mounts | undefined;
  const mounts = openMounts({
    filesystem,
    driver: config.mount.driver,
    allowOther: config.mount.allowOther,
    firstId: mountBase(memberNumber) + 1,
    log: log.room('fuse'),
  });
  opened = mounts;
  stack.defer(() => mounts.close());

  function setMembers(list: KnownMembers): void {
    // Clients have nothing to say to each other.
    const spoken = list.members.filter(({ id, role }) => role !== 'client' || id === self);
    peers.setMembers(spoken, list.membersVersion);
  }

  function learn(next: Standing): void {
    if (next.version < standing.version && next.epoch < standing.epoch) return;
    const changedLeader = next.leader !== standing.leader || next.epoch !== standing.epoch;
    standing = next;
    if (JSON.stringify(next.members) !== JSON.stringify(known.members)) {
      known = { ...known, members: next.members, membersVersion: next.version };
      saveMembers(directory.path, known);
      setMembers(known);
    }
    if (changedLeader) for (const listener of lockListeners) listener();
  }

  function lockLeader(): LockLeader {
    const { leader, epoch } = standing;
    return leader === null ? { kind: 'none' } : { kind: 'other', node: leader, term: epoch };
  }

  function leaderAddress(): string | null {
    return known.members.find(({ id }) => id === standing.leader)?.address ?? null;
  }

  /** Those that are reached and in sync first; among equals each client begins elsewhere. */
  function servers(): NodeId[] {
    const storing = known.members.filter(({ role, state }) => role !== 'client' && state === 'active');
    const first = storing.length === 0 ? 0 : memberNumber % storing.length;
    const turned = [...storing.slice(first), ...storing.slice(0, first)].map(({ id }) => id);
    const rank = (id: NodeId): number =>
      (peers.link(id) === 'connected' ? 0 : peers.link(id) === 'lost' ? 2 : 4) +
      (standing.inSync.includes(id) ? 0 : 1);
    return turned.sort((a, b) => rank(a) - rank(b));
  }

  function health(): Health {
    if (filesystem.connection.server() !== undefined) {
      return { state: 'healthy', dataSafe: true, reason: '', nextStep: '' };
    }
    return {
      state: 'degraded',
      dataSafe: true,
      reason: `No storing node serves this client: ${filesystem.connection.reason()}.`,
      nextStep: 'Look at `warren status` on a storing node, and whether its port can be reached from here.',
    };
  }

  async function status(): Promise<Status> {
    const memory = process.memoryUsage();
    const clientCalls = filesystem.statistics().calls;
    const usage = filesystem.connection.server() === undefined ? undefined : await filesystem.statfs();
    return {
      nodeId: self,
      clusterName: known.clusterName,
      role: 'client',
      version: RELEASE,
      health: health(),
      uptimeMs: Math.round(clock.monotonicMs() - startedMs),
      mounts: mounts.list(),
      usage: {
        diskBytes: usage === undefined ? 0 : usage.blocks * usage.blockBytes,
        diskFreeBytes: usage === undefined ? 0 : usage.blocksFree * usage.blockBytes,
        fileBytes: 0,
        files: usage === undefined ? 0 : usage.files - usage.filesFree,
        chunks: 0,
        chunkBytes: 0,
      },
      logVersion: standing.version,
      pid: process.pid,
      dataDirectory: directory.path,
      configFile: options.configFile,
      memory: { residentBytes: memory.rss, heapBytes: memory.heapUsed },
      clientCalls,
    };
  }

  async function carried(method: 'servers'): Promise<unknown> {
    const server = filesystem.connection.server();
    if (server === undefined) {
      throw new WarrenError({
        code: 'NO_SERVER',
        message: `No storing node of the cluster answers: ${filesystem.connection.reason()}.`,
        hint: 'look at `warren status` on a storing node, and whether its port can be reached from here',
      });
    }
    const { answer } = await peers.call(
      server,
      'control',
      { method, params: {} },
      { timeoutMs: CONTROL_TIMEOUT_MS },
    );
    if ('error' in answer) throw new WarrenError(answer.error);
    return answer.result;
  }

  const handlers: ControlHandlers = {
    ...elsewhere(),
    version: () => ({ version: RELEASE, api: CONTROL_API_VERSION, node: process.versions.node }),
    status,
    async servers() {
      const { servers: list, ...rest } = serversSchema.parse(await carried('servers'));
      return { ...rest, servers: list.map((server) => ({ ...server, isSelf: server.id === self })) };
    },
    mount: ({ path: mountPath }) => mounts.mount(mountPath),
    async unmount({ path: mountPath, force }) {
      await mounts.unmount(mountPath, { force });
      return { path: mountPath };
    },
    shutdown() {
      options.onShutdown();
      return { pid: process.pid };
    },
  };
  const control = await startControlServer({
    socketPath: config.control.socket,
    handlers,
    log: log.room('control'),
  });
  stack.defer(() => control.close());
  const mounted = await mounts.mount(config.mount.path);

  const running = stack.move();
  return {
    mountPath: mounted.path,
    socketPath: control.socketPath,
    stop: () => running.disposeAsync(),
  };
}

function transportOver(peers: PeerNetwork, servers: () => readonly NodeId[]): RemoteTransport {
  return {
    servers,
    async call(to, request, sent) {
      const { answer, bytes } = await peers.call(to, 'file-call', request, sent);
      return { answer: answer as FileAnswer, bytes };
    },
    async open(to, request, timeoutMs) {
      const { answer } = await peers.call(to, 'file-session', request, { timeoutMs });
      return answer as SessionAnswer;
    },
    async events(to, request, timeoutMs) {
      const { answer } = await peers.call(to, 'file-events', request, { timeoutMs });
      return answer as EventsAnswer;
    },
  };
}

/** What only a node that stores can do. */
function elsewhere(): Omit<
  ControlHandlers,
  'version' | 'status' | 'servers' | 'mount' | 'unmount' | 'shutdown'
> {
  const refuse = (method: ControlMethod) => (): never => {
    throw new WarrenError({
      code: 'CLIENT_NODE',
      message: `This node is a client and stores nothing: it cannot do "${method}".`,
      hint: 'run the command on a storing node; `warren servers` lists them',
    });
  };
  return {
    token: refuse('token'),
    promote: refuse('promote'),
    role: refuse('role'),
    'node-remove': refuse('node-remove'),
    'node-forget': refuse('node-forget'),
    replication: refuse('replication'),
    'replication-set': refuse('replication-set'),
    'repair-pause': refuse('repair-pause'),
    conflicts: refuse('conflicts'),
    'conflict-resolve': refuse('conflict-resolve'),
    fsck: refuse('fsck'),
    barrier: refuse('barrier'),
  };
}
