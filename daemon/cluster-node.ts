/**
 * The part of a storing node that knows the others: identity, connections, who leads, replication, copies of chunks,
 * locks. `storing-node.ts` puts a file system and mounts on it.
 *
 * A node alone runs the same code with nobody to talk to. Its port answers machines with a token, and nobody else; when
 * the port is taken, a node alone goes on without it and says so, while a member of a cluster refuses to start.
 *
 * What an applied operation means for the other parts is decided in one place, `applied`: caches and kernels of this
 * node when another node proposed it, chunks that should be or are no longer here, members and settings.
 */

import { randomUUID } from 'node:crypto';
import * as path from 'node:path';
import { type Admission, addMember, openAdmission } from './admission.ts';
import { advertisedAddress } from './advertise.ts';
import { type ReplicatedChunks, replicatedChunks } from './chunks/replicated-chunks.ts';
import { type ClusterControl, clusterControl, type RepairFigures } from './cluster-control.ts';
import { lowestId } from './cluster/lowest-id.ts';
import { type Discovery, openDiscovery } from './cluster/discovery.ts';
import { openEpochFile } from './cluster/epoch-file.ts';
import { type ClusterLocks, clusterLocks, type LockLeader } from './filesystem/cluster-locks.ts';
import type { ClusterView } from './filesystem/context.ts';
import { takeTag } from './filesystem/operation-tags.ts';
import type { Metadata } from './metadata/metadata.ts';
import { mergingOf } from './merging-node.ts';
import { createIdentity, type Identity, loadIdentity, renewIdentity } from './peers/identity.ts';
import { openJoinSecrets } from './peers/join-secrets.ts';
import { openPeers, type PeerNetwork } from './peers/peers.ts';
import type { Config } from './protocol/config.ts';
import type { Health } from './protocol/control-api.ts';
import { describeError, WarrenError } from './protocol/errors.ts';
import { type ChunkHash, type Inode, type NodeId, SMALL_CHUNK_BYTES_MAX } from './protocol/ids.ts';
import type { NodeFigures } from './protocol/peer-api.ts';
import { RELEASE } from './protocol/release.ts';
import type { Replication } from './replication/interface.ts';
import { openReplication } from './replication/replication.ts';
import { snapshotFiles } from './replication/snapshots.ts';
import type { Applied } from './replication/state-machine.ts';
import { defined } from './runtime/assert.ts';
import { type Clock, systemTimers } from './runtime/clock.ts';
import type { Log } from './runtime/log.ts';
import type { NodeStorage } from './storage/node-storage.ts';

const HELD_TIMEOUT_MS = 2000;
const RENEW_INTERVAL_MS = 24 * 60 * 60 * 1000;
/** A waiting lock call ends with its connection, not by time. */
const LOCK_WAIT_MS = 2 ** 31 - 1;

export interface ClusterHealth {
  readonly hasOthers: boolean;
  readonly health: Health | undefined;
}

export interface ClusterNode {
  readonly peers: PeerNetwork;
  readonly replication: Replication;
  readonly chunks: ReplicatedChunks;
  readonly locks: ClusterLocks;
  readonly view: ClusterView;
  readonly control: ClusterControl;
  /** Histories of a partition that are not merged yet. */
  merging(): number;
  /** The metadata as the file system uses them: changes go through the leader. */
  readonly metadata: Metadata;
  health(): ClusterHealth;
  /** What the file system does with entries of other nodes; set once, before `start`. */
  attach(hooks: ClusterHooks): void;
  /** Adds this node to the members where it is the first; keeps its address current. */
  register(): Promise<void>;
  close(): Promise<void>;
}

export interface ClusterHooks {
  /** Another node's entry was applied. */
  applied(entry: Applied): void;
  rewound(): void;
  /** This node leads from now on. */
  leads(): void;
  /** Kernels were told of everything that was applied. */
  told(crossed: boolean): Promise<void> | undefined;
  /** Which of these inodes this node uses. */
  held(inodes: readonly Inode[]): readonly Inode[];
}

export interface ClusterNodeOptions {
  readonly config: Config;
  readonly storage: NodeStorage;
  readonly clock: Clock;
  readonly log: Log;
  readonly onDamage: (damage: { hash: ChunkHash; reason: string }) => void;
  readonly onRepaired: (hash: ChunkHash) => void;
}

/** Errors: those of the identity and of the port; JOIN_INCOMPLETE. */
export async function openClusterNode(options: ClusterNodeOptions): Promise<ClusterNode> {
  const { config, storage, clock, log } = options;
  const { metadata } = storage;
  const self = config.node.id;
  const incarnation = randomUUID();
  const dataDirectory = storage.directory.path;
  let identity = await openIdentity(options);
  let hooks: ClusterHooks | undefined;
  let opened: Replication | undefined;
  let discovery: Promise<Discovery | undefined> | undefined;
  await using stack = new AsyncDisposableStack();

  const secrets = openJoinSecrets(dataDirectory, clock);
  const admission: Admission = openAdmission({
    identity: () => identity,
    clusterName: config.cluster.name,
    secrets,
    replication: () => replication,
    clock,
    address: ownAddress,
  });
  const peers = await listen(config.node.bind);
  stack.defer(() => peers.close());
  peers.setMembers(metadata.stateMachine.members(), metadata.stateMachine.position().version);

  const coordinator = lowestId({
    self,
    incarnation,
    peers,
    clock,
    timers: systemTimers(),
    log,
    epochs: openEpochFile(path.join(dataDirectory, 'epoch')),
  });

  const chunks = replicatedChunks({
    local: storage.chunks,
    peers,
    cluster: {
      members: () => metadata.reads.members(),
      settings: () => metadata.reads.settings(),
      leader: leaderId,
    },
    rows: {
      chunksAfter: (row, limit) => metadata.reads.chunksAfter(row, limit),
      hasChunk: (hash) => metadata.reads.hasChunk(hash),
      unsettled: (hash) => metadata.unsettled(hash),
      barrier: () => metadata.barrier(),
    },
    clock,
    log,
    onDamage: options.onDamage,
    onRepaired: options.onRepaired,
  });
  const replication = openReplication({
    self,
    incarnation,
    peers,
    state: metadata.stateMachine,
    coordinator,
    clock,
    timers: systemTimers(),
    log,
    files: snapshotFiles(path.join(dataDirectory, 'tmp')),
    timeoutMs: config.mount.timeoutMs,
    joining: storage.directory.format.origin === 'joined',
    figures,
    beforeAck: (crossed) => hooks?.told(crossed),
    onFork: (fork) => merging.keep(fork),
  });
  opened = replication;
  const merging = mergingOf({
    self,
    dataDirectory,
    metadata,
    replication,
    chunks,
    peers,
    leaderId,
    clock,
    log,
  });
  stack.defer(() => chunks.close());
  // Its proposals end with replication.
  stack.defer(() => merging.close());
  // Leadership goes to another node while everything still answers.
  stack.defer(() => replication.close());

  const locks = clusterLocks({
    self: {
      get number() {
        return memberNumber(self);
      },
    },
    log: log.room('locks'),
    timeoutMs: config.mount.timeoutMs,
    leader: lockLeader,
    onLeader: (listener) => void replication.onLeadership(listener),
    inSync: () =>
      replication
        .inSync()
        .filter((id) => id !== self)
        .map(memberNumber),
    async call(to, call, { timeoutMs }) {
      const { answer } = await peers.call(to, 'lock', call, { timeoutMs: timeoutMs ?? LOCK_WAIT_MS });
      return answer;
    },
    alone: () => others().length === 0,
  });
  peers.handle('lock', async (from, call) => ({ answer: await locks.handle(memberNumber(from), call) }));
  peers.handle('held-inodes', (_from, { inodes }) =>
    Promise.resolve({ answer: { held: hooks === undefined ? inodes : hooks.held(inodes) } }),
  );

  const control = clusterControl({
    self,
    clusterName: config.cluster.name,
    clock,
    replication,
    heard: (id) => coordinator.heard(id),
    figures,
    makeToken: (ttlMs) => Promise.resolve(admission.token(ttlMs)),
    repair: repairFigures,
    pauseRepair: (paused) => (paused ? chunks.pauseRepair() : chunks.resumeRepair()),
    lacking: (limit) => chunks.lacking(0, limit).chunks,
    filesOf: (hashes) => metadata.filesOfChunks(hashes),
    checkHomes: (signal) => chunks.checkHomes(signal),
  });

  const stops = [
    metadata.stateMachine.onApplied(applied),
    metadata.stateMachine.onRewound(() => {
      membersChanged();
      chunks.rescan();
      hooks?.rewound();
    }),
    replication.onLeadership((leadership) => {
      chunks.changed();
      if (leadership.kind === 'leads') hooks?.leads();
    }),
    peers.onLink(() => chunks.changed()),
  ];
  stack.defer(async () => (await discovery)?.close());
  findOthers();
  const renewal = setInterval(() => void renew(), RENEW_INTERVAL_MS);
  renewal.unref();
  stack.defer(() => {
    clearInterval(renewal);
    for (const stop of stops) stop();
  });

  async function listen(bind: string): Promise<PeerNetwork> {
    try {
      return await openPeers({ identity, bind, onJoin: (request) => admission.onJoin(request), clock, log });
    } catch (error) {
      const alone = metadata.stateMachine.members().length <= 1;
      if (!(error instanceof WarrenError) || error.code !== 'PEER_PORT_IN_USE' || !alone) throw error;
      log.warn('this node is alone and its port is taken: no machine can join it until it has a port', {
        reason: describeError(error),
        hint: 'set another [node] bind and restart',
      });
      return openPeers({
        identity,
        bind: '127.0.0.1:0',
        onJoin: (request) => admission.onJoin(request),
        clock,
        log,
      });
    }
  }

  async function renew(): Promise<void> {
    try {
      identity = await renewIdentity(dataDirectory, identity, { nowMs: Date.now(), log });
      peers.setIdentity(identity);
    } catch (error) {
      log.warn('the certificate of this node could not be renewed; it is tried again tomorrow', {
        reason: describeError(error),
      });
    }
  }

  function ownAddress(): string {
    const port = Number(peers.address.slice(peers.address.lastIndexOf(':') + 1));
    return advertisedAddress({ bind: config.node.bind, advertise: config.node.advertise, port });
  }

  function others() {
    return replication.members().filter(({ id, state }) => id !== self && state !== 'removed');
  }

  function memberNumber(id: NodeId): number {
    return replication.members().find((member) => member.id === id)?.number ?? 0;
  }

  function leaderId(): NodeId | null {
    // The chunks are opened first, because replication reports their figures.
    const leadership = opened?.leadership();
    if (leadership === undefined || leadership.kind === 'none') return null;
    return leadership.kind === 'leads' ? self : leadership.leader;
  }

  function lockLeader(): LockLeader {
    const leadership = replication.leadership();
    if (leadership.kind === 'none') return { kind: 'none' };
    if (leadership.kind === 'leads') return { kind: 'self', term: leadership.epoch };
    return { kind: 'other', node: leadership.leader, term: leadership.epoch };
  }

  function figures(): NodeFigures {
    const usage = storage.chunks.usage();
    const { lackingChunks, lackingBytes } = chunks.figures();
    return {
      release: RELEASE,
      diskBytes: usage.diskBytes,
      diskFreeBytes: usage.diskFreeBytes,
      lackingChunks,
      lackingBytes,
    };
  }

  function repairFigures(): RepairFigures {
    const { lackingChunks, lackingBytes } = chunks.figures();
    const repair = defined(
      chunks.workers().find(({ name }) => name === 'repair'),
      'there is a repair worker',
    );
    return {
      paused: repair.state === 'paused',
      queuedChunks: lackingChunks,
      queuedBytes: lackingBytes,
      bytesPerSecond: repair.secondsLeft ? Math.round(repair.bytes / repair.secondsLeft) : 0,
      secondsLeft: repair.secondsLeft ?? null,
      lastError: repair.lastError ?? '',
    };
  }

  function membersChanged(): void {
    peers.setMembers(replication.members(), replication.position().version);
    chunks.changed();
    findOthers();
  }

  /** Hints where the other members may be reached, besides the addresses that they told. */
  function findOthers(): void {
    for (const { id } of others()) {
      for (const address of config.cluster.peers) peers.hintAddress(id, address);
    }
    if (discovery !== undefined || others().length === 0) return;
    discovery = openDiscovery({
      discovery: config.cluster.discovery,
      clusterId: identity.clusterId,
      nodeId: self,
      port: Number(peers.address.slice(peers.address.lastIndexOf(':') + 1)),
      onHint: (id, address) => peers.hintAddress(id, address),
      clock,
      log: log.room('discovery'),
    }).catch((error: unknown) => {
      log.warn('nodes do not find each other by multicast; the addresses they told remain', {
        reason: describeError(error),
      });
      return undefined;
    });
  }

  function applied(entry: Applied): void {
    const { operation, tag } = entry;
    const isOwn = tag?.session === incarnation;
    switch (operation.kind) {
      case 'member':
        membersChanged();
        break;
      case 'settings':
        chunks.changed();
        if (operation.settings.inSync !== undefined) lostLocks(operation.settings.inSync);
        break;
      case 'write':
      case 'fold':
        chunks.named(
          operation.extents
            .filter(({ chunkBytes }) => chunkBytes > SMALL_CHUNK_BYTES_MAX)
            .map(({ hash, chunkBytes }) => ({ hash, size: chunkBytes })),
        );
        break;
      case 'drop-chunks':
        if (!isOwn) chunks.dropped(operation.hashes);
        break;
      default:
        break;
    }
    if (!isOwn) hooks?.applied(entry);
  }

  function lostLocks(inSync: readonly NodeId[]): void {
    for (const { id, number } of others()) if (!inSync.includes(id)) locks.nodeLost(number);
  }

  const view: ClusterView = {
    leads: () => replication.leadership().kind === 'leads',
    async heldElsewhere(inodes) {
      const held = new Set<Inode>();
      const asked = others().filter(({ id }) => replication.inSync().includes(id));
      await Promise.all(
        asked.map(async ({ id }) => {
          const { answer } = await peers.call(id, 'held-inodes', { inodes }, { timeoutMs: HELD_TIMEOUT_MS });
          for (const inode of answer.held) held.add(inode);
        }),
      );
      return held;
    },
    usage: clusterUsage,
  };

  /** Of all storing nodes that were heard, as files see it: what fits once it is there `factor` times. */
  function clusterUsage(): { diskBytes: number; availableBytes: number } | undefined {
    const storing = others().filter(({ role }) => role !== 'client');
    if (storing.length === 0) return undefined;
    const own = storage.chunks.usage();
    let diskBytes = own.diskBytes;
    let availableBytes = own.availableBytes;
    let nodes = 1;
    for (const { id } of storing) {
      const about = coordinator.heard(id)?.heartbeat.about;
      if (about === undefined) continue;
      nodes++;
      diskBytes += about.diskBytes;
      availableBytes += about.diskFreeBytes;
    }
    const { mode, factor } = replication.settings();
    const copies = mode === 'shared' ? 1 : Math.min(factor, nodes);
    return { diskBytes: Math.floor(diskBytes / copies), availableBytes: Math.floor(availableBytes / copies) };
  }

  async function register(): Promise<void> {
    const address = ownAddress();
    const known = replication.members().find(({ id }) => id === self);
    const { role } = config.node;
    const changed = known === undefined || known.address !== address || known.key !== identity.fingerprint;
    if (!changed) return;
    if (known === undefined && storage.directory.format.origin !== 'made') return;
    await addMember(replication, {
      id: self,
      role: known?.role ?? role,
      address,
      state: known?.state ?? 'active',
      key: identity.fingerprint,
    });
    if (known === undefined) {
      const { mode, factor } = config.replication;
      await replication.propose({ kind: 'settings', settings: { mode, factor } });
    }
  }

  const running = stack.move();
  return {
    peers,
    replication,
    chunks,
    locks,
    view,
    control,
    merging: () => merging.waiting(),
    metadata: {
      ...metadata,
      async propose(operation, payload) {
        const tag = takeTag(operation);
        // Small chunks wait in memory until small.db has them: who brings more waits for room.
        if (payload !== undefined && payload.size > 0) {
          for (let full = metadata.room(); full !== undefined; full = metadata.room()) await full;
        }
        return replication.propose(operation, payload, tag === undefined ? {} : { tag });
      },
      barrier: (alone) => (others().length === 0 ? metadata.barrier(alone) : replication.barrier()),
    },
    health: () => ({ hasOthers: others().length > 0, health: control.health() }),
    attach(given) {
      hooks = given;
    },
    register,
    close: () => running.disposeAsync(),
  };
}

async function openIdentity({ config, storage, clock, log }: ClusterNodeOptions): Promise<Identity> {
  const { path: dataDirectory, format } = storage.directory;
  if (format.origin === 'joining') {
    throw new WarrenError({
      code: 'JOIN_INCOMPLETE',
      message: `${dataDirectory} was made to join a cluster and was not admitted yet.`,
      hint: `run \`warren join TOKEN -d ${dataDirectory}\` again; \`warren token\` on a node of the cluster prints a token`,
    });
  }
  const nowMs = clock.now().seconds * 1000;
  const found = loadIdentity(dataDirectory);
  if (found !== undefined) return renewIdentity(dataDirectory, found, { nowMs, log });
  if (format.origin === 'joined') {
    throw new WarrenError({
      code: 'IDENTITY_MISSING',
      message: `${path.join(dataDirectory, 'identity')} is gone: the other nodes cannot know this one.`,
      hint: 'restore the folder from a backup, or remove the node and let it join again',
    });
  }
  return createIdentity(dataDirectory, { clusterId: format.clusterId, nodeId: config.node.id, nowMs });
}
