/**
 * The cluster as people ask for it: who is there and how, whether the data is safe, and the changes of membership.
 *
 * Changes of members and settings are operations like any other: whichever node is asked proposes them, the leader
 * orders them, every node acts on what it applied. So there is nothing to carry to another node here.
 */

import type { Member } from './protocol/cluster.ts';
import type { HomesCheck } from './chunks/replicated-drain.ts';
import type { ChunkFiles } from './metadata/chunk-files.ts';
import type { ControlHandlers, Health, Progress } from './protocol/control-api.ts';
import { type CLUSTER_METHODS, type ReplicationStatus, type Server } from './protocol/control-cluster.ts';
import { WarrenError } from './protocol/errors.ts';
import type { ChunkHash, NodeId } from './protocol/ids.ts';
import type { Heartbeat, NodeFigures } from './protocol/peer-api.ts';
import type { Operation } from './protocol/operations.ts';
import type { Replication } from './replication/interface.ts';
import type { Clock } from './runtime/clock.ts';

/** How long a promoted node may take to lead; draining takes as long as the chunks need. */
const PROMOTE_TIMEOUT_MS = 30_000;
const DRAIN_CHECK_MS = 1000;
const POLL_MS = 100;
/** Lacking chunks named in one answer. */
const LACKING_MAX = 1000;

export interface RepairFigures {
  readonly paused: boolean;
  readonly queuedChunks: number;
  readonly queuedBytes: number;
  readonly bytesPerSecond: number;
  readonly secondsLeft: number | null;
  readonly lastError: string;
}

export interface ClusterControlOptions {
  readonly self: NodeId;
  readonly clusterName: string;
  readonly clock: Clock;
  readonly replication: Replication;
  heard(id: NodeId): { readonly heartbeat: Heartbeat; readonly atMs: number } | undefined;
  figures(): NodeFigures;
  makeToken(ttlMs: number): Promise<{ token: string; expires: string }>;
  repair(): RepairFigures;
  pauseRepair(paused: boolean): void;
  lacking(limit: number): readonly { readonly hash: ChunkHash; readonly bytes: number }[];
  /** The files that these chunks belong to. */
  filesOf(hashes: readonly ChunkHash[]): Promise<readonly ChunkFiles[]>;
  /** Asks the homes of every chunk. */
  checkHomes(signal: AbortSignal): Promise<HomesCheck>;
}

type ClusterHandlers = Pick<ControlHandlers, keyof typeof CLUSTER_METHODS>;

export interface ClusterControl {
  readonly handlers: ClusterHandlers;
  /** Undefined: nothing is wrong. */
  health(): Health | undefined;
}

export function clusterControl(options: ClusterControlOptions): ClusterControl {
  const { self, clock, replication } = options;

  const active = () => replication.members().filter(({ state }) => state !== 'removed');
  const others = () => active().filter(({ id }) => id !== self);

  function memberOf(node: string): Member {
    const member = active().find(({ id }) => id === node);
    if (member !== undefined) return member;
    throw new WarrenError({
      code: 'NODE_UNKNOWN',
      message: `There is no node "${node}" in this cluster.`,
      hint: `its nodes: ${active()
        .map(({ id }) => id)
        .join(', ')}`,
    });
  }

  async function propose(operation: Operation): Promise<void> {
    await replication.propose(operation);
  }

  function leaderId(): NodeId | null {
    const leadership = replication.leadership();
    switch (leadership.kind) {
      case 'none':
        return null;
      case 'leads':
        return self;
      case 'follows':
        return leadership.leader;
    }
  }

  function server(member: Member, leaderVersion: number): Server {
    const isSelf = member.id === self;
    const heard = options.heard(member.id);
    const figures = isSelf ? options.figures() : heard?.heartbeat.about;
    const version = isSelf ? replication.position().version : (heard?.heartbeat.last.version ?? 0);
    const { state, reason } = standing(member, heard?.heartbeat);
    return {
      id: member.id,
      role: member.role,
      state,
      reason,
      address: member.address,
      release: figures?.release ?? '',
      logVersion: version,
      // What a heartbeat said is half a second old: an in-sync node has every answered change.
      lag: state === 'in-sync' || state === 'client' ? 0 : Math.max(0, leaderVersion - version),
      diskBytes: figures?.diskBytes ?? 0,
      diskFreeBytes: figures?.diskFreeBytes ?? 0,
      lackingChunks: figures?.lackingChunks ?? 0,
      lackingBytes: figures?.lackingBytes ?? 0,
      lastSeenMs: isSelf ? 0 : heard === undefined ? null : Math.max(0, clock.monotonicMs() - heard.atMs),
      isSelf,
    };
  }

  function standing(
    member: Member,
    heartbeat: Heartbeat | undefined,
  ): { state: Server['state']; reason: string } {
    const leader = leaderId();
    if (member.id === leader) return { state: 'leader', reason: '' };
    const peer = replication.peers().find(({ id }) => id === member.id);
    if (member.id !== self && (peer?.state === 'gone' || peer?.state === 'lost')) {
      return { state: peer.state, reason: peer.reason };
    }
    if (member.role === 'client') return { state: 'client', reason: '' };
    if (member.state === 'draining') return { state: 'draining', reason: 'its chunks move to other nodes' };
    if (replication.inSync().includes(member.id)) return { state: 'in-sync', reason: '' };
    const leadership = replication.leadership();
    if (member.id === self) {
      const why = leadership.kind === 'none' ? leadership.reason : 'it catches up with the leader';
      return { state: 'catching-up', reason: why };
    }
    const reason = heartbeat === undefined ? 'it was never heard' : (peer?.reason ?? '');
    return {
      state: heartbeat === undefined ? 'lost' : 'catching-up',
      reason: reason === '' ? 'it catches up with the leader' : reason,
    };
  }

  function servers(): Server[] {
    const leader = leaderId();
    const heard = leader === null ? undefined : options.heard(leader)?.heartbeat.last.version;
    const version = Math.max(replication.position().version, heard ?? 0);
    return active().map((member) => server(member, version));
  }

  async function until(what: string, timeoutMs: number, condition: () => boolean): Promise<void> {
    const deadlineMs = clock.monotonicMs() + timeoutMs;
    while (!condition()) {
      if (clock.monotonicMs() > deadlineMs) {
        throw new WarrenError({
          code: 'CLUSTER_TIMEOUT',
          message: `${what} did not happen within ${Math.round(timeoutMs / 1000)} s.`,
          hint: 'see `warren servers` for what is in the way; what was asked for still holds',
        });
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** How many storing nodes are left without `member`; refuses to take the last one. */
  function refuseLast(member: Member): void {
    const left = active().filter(
      ({ id, role, state }) => id !== member.id && role !== 'client' && state === 'active',
    );
    if (member.role === 'client' || left.length > 0) return;
    throw new WarrenError({
      code: 'NODE_LAST',
      message: `${member.id} is the only node that stores data; without it everything would be lost. Nothing was changed.`,
      hint: 'add another node first: `warren token`',
    });
  }

  /** Every chunk is on all the nodes that should have it now that `node` is draining. */
  async function untilMoved(
    node: string,
    signal: AbortSignal,
    progress: (progress: Progress) => void,
  ): Promise<void> {
    for (;;) {
      const check = await options.checkHomes(signal);
      progress({
        phase: `moving the chunks of ${node}`,
        done: check.checked - check.missing,
        total: check.checked,
      });
      if (check.missing === 0) return;
      await new Promise((resolve) => setTimeout(resolve, DRAIN_CHECK_MS));
      signal.throwIfAborted();
    }
  }

  async function replicationStatus(): Promise<ReplicationStatus> {
    const { mode, factor } = replication.settings();
    const all = servers();
    const lacking = options.lacking(LACKING_MAX);
    const files = lacking.length === 0 ? [] : await options.filesOf(lacking.map(({ hash }) => hash));
    const byHash = new Map(files.map((found) => [found.hash, found]));
    return {
      mode,
      factor,
      inSync: [...replication.inSync()],
      logVersion: replication.position().version,
      lackingChunks: all.reduce((sum, { lackingChunks }) => sum + lackingChunks, 0),
      lackingBytes: all.reduce((sum, { lackingBytes }) => sum + lackingBytes, 0),
      repair: options.repair(),
      lacking: lacking.map(({ hash, bytes }) => ({
        chunk: hash,
        bytes,
        files: byHash.get(hash)?.files ?? 0,
        paths: [...(byHash.get(hash)?.paths ?? [])],
      })),
    };
  }

  const handlers: ClusterHandlers = {
    servers() {
      const leadership = replication.leadership();
      return {
        clusterName: options.clusterName,
        leader: leaderId(),
        epoch: leadership.kind === 'none' ? replication.position().epoch : leadership.epoch,
        servers: servers(),
      };
    },
    token: ({ ttlMs }) => options.makeToken(ttlMs),
    async promote({ node }) {
      const member = memberOf(node);
      if (member.role === 'client' || member.role === 'follower') {
        throw new WarrenError({
          code: 'NODE_NEVER_LEADS',
          message: `${node} has role ${member.role}, which never leads. Nothing was changed.`,
          hint: `\`warren role ${node} auto\` lets it lead`,
        });
      }
      if (leaderId() === member.id && replication.settings().preferred === member.id) {
        return { node, result: 'it leads already' };
      }
      await propose({ kind: 'settings', settings: { preferred: member.id } });
      await until(`The hand-over to ${node}`, PROMOTE_TIMEOUT_MS, () => leaderId() === member.id);
      return { node, result: 'it leads now' };
    },
    async role({ node, role }) {
      const member = memberOf(node);
      if (member.role === role) return { node, result: `it has role ${role} already` };
      if (member.role === 'client' || role === 'client') {
        throw new WarrenError({
          code: 'ROLE_FIXED',
          message: `A node that stores data does not become a client, nor the other way round. Nothing was changed.`,
          hint: `remove ${node} (\`warren node remove ${node}\`) and let it join again with the role that it should have`,
        });
      }
      await propose({ kind: 'member', member: { ...member, role } });
      return { node, result: `its role is ${role} now` };
    },
    async 'node-remove'({ node }, { signal, progress }) {
      const member = memberOf(node);
      refuseLast(member);
      if (member.role !== 'client') {
        await propose({ kind: 'member', member: { ...member, state: 'draining' } });
        await untilMoved(node, signal, progress);
      }
      await propose({ kind: 'member', member: { ...member, state: 'removed' } });
      return { node, result: 'it is no member any more; its certificate is refused' };
    },
    async 'node-forget'({ node }) {
      const member = memberOf(node);
      refuseLast(member);
      const { state } = server(member, 0);
      if (state !== 'gone' && state !== 'lost') {
        throw new WarrenError({
          code: 'NODE_ALIVE',
          message: `${node} is there (${state}); forgetting it could lose the last copy of a chunk. Nothing was changed.`,
          hint: `\`warren node remove ${node}\` moves its chunks away first`,
        });
      }
      await propose({ kind: 'member', member: { ...member, state: 'removed' } });
      return { node, result: 'it is forgotten; its certificate is refused' };
    },
    replication: replicationStatus,
    async 'replication-set'({ mode, factor }) {
      await propose({
        kind: 'settings',
        settings: { ...(mode === undefined ? {} : { mode }), ...(factor === undefined ? {} : { factor }) },
      });
      const now = replication.settings();
      return { mode: now.mode, factor: now.factor };
    },
    'repair-pause'({ paused }) {
      options.pauseRepair(paused);
      return { paused };
    },
  };

  function health(): Health | undefined {
    if (others().length === 0) return undefined;
    const leadership = replication.leadership();
    if (leadership.kind === 'none') {
      return {
        state: 'read-only',
        dataSafe: true,
        reason: `No node leads: ${leadership.reason}.`,
        nextStep:
          'Changes wait and then fail; reads go on. Start the missing nodes, or see `warren servers`.',
      };
    }
    const all = servers();
    const away = all.filter(({ state }) => state !== 'leader' && state !== 'in-sync' && state !== 'client');
    const lacking = all.reduce((sum, { lackingChunks }) => sum + lackingChunks, 0);
    if (away.length > 0) {
      const copies = all.length - away.length;
      return {
        state: 'degraded',
        dataSafe: copies > 0,
        reason: away
          .map(({ id, state, reason }) => `${id} is ${state}${reason === '' ? '' : ` (${reason})`}`)
          .join('; '),
        nextStep:
          'A node that is back catches up by itself; `warren node forget NODE` if it is gone for good.',
      };
    }
    if (lacking === 0) return undefined;
    return {
      state: 'degraded',
      dataSafe: true,
      reason: `${lacking} copies of chunks are missing.`,
      nextStep: 'They are made by themselves; `warren replication` shows the files and the time left.',
    };
  }

  return { handlers, health };
}
