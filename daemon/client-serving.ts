/**
 * What a storing node does for clients: carries their calls to the file system, and answers for the cluster where they
 * have nothing to say themselves (`warren servers` on a client). The leader ends the locks of a client that it has lost
 * for LOCKS_MS; one that was only cut off tells what it holds when it asks for a lock again.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { ClusterLocks } from './filesystem/cluster-locks.ts';
import type { LocalFileSystem } from './filesystem/filesystem.ts';
import type { EventsRequest, FileRequest, SessionRequest } from './filesystem/remote-protocol.ts';
import { serveClients } from './filesystem/remote-server.ts';
import type { Peers } from './peers/interface.ts';
import type { ControlHandlers } from './protocol/control-api.ts';
import { WarrenError } from './protocol/errors.ts';
import type { NodeId } from './protocol/ids.ts';
import type { Replication } from './replication/interface.ts';
import type { Log } from './runtime/log.ts';

/** How long this node's own kernels are waited for while one may hold the lock that telling it needs. */
const CROSSED_WITHIN_MS = 5;
const LOCKS_MS = 10_000;

export interface ClientServing {
  /** Every client was told of every change so far; undefined: nobody has to be. */
  told(): Promise<void> | undefined;
  close(): void;
}

export function serveClientNodes(options: {
  readonly self: NodeId;
  readonly peers: Peers;
  readonly replication: Replication;
  readonly filesystem: LocalFileSystem;
  readonly locks: ClusterLocks;
  readonly control: Pick<ControlHandlers, 'servers' | 'replication'>;
  mountsTold(): Promise<void> | undefined;
  readonly log: Log;
}): ClientServing {
  const { self, peers, replication, filesystem, control } = options;
  const numberOf = (id: NodeId) => replication.members().find((member) => member.id === id)?.number ?? -1;

  function refusal(): string | undefined {
    if (!replication.members().some(({ id }) => id === self))
      return 'it has not the state of the cluster yet';
    return replication.isInSync() ? undefined : 'it is not in sync';
  }

  const clients = serveClients({
    filesystem,
    log: options.log,
    memberNumber: numberOf,
    refusal,
    mountsTold: () => options.mountsTold(),
    standing() {
      const leadership = replication.leadership();
      const leader =
        leadership.kind === 'leads' ? self : leadership.kind === 'follows' ? leadership.leader : null;
      return {
        leader,
        epoch: leadership.kind === 'none' ? replication.position().epoch : leadership.epoch,
        inSync: replication.inSync(),
        members: replication.members(),
        version: replication.position().version,
      };
    },
  });
  // The peers carry these shapes as they are; who sends them has a certificate of this cluster.
  peers.handle('file-session', async (from, request) => ({
    answer: await clients.open(from, request as SessionRequest),
  }));
  peers.handle('file-call', (from, request, bytes) => clients.call(from, request as FileRequest, bytes));
  peers.handle('file-events', async (from, request) => ({
    answer: await clients.events(from, request as EventsRequest),
  }));
  peers.handle('control', async (_from, { method }) => {
    const context = { signal: new AbortController().signal, progress: () => {} };
    if (method === 'servers') return { answer: { result: await control.servers(undefined, context) } };
    if (method === 'replication')
      return { answer: { result: await control.replication(undefined, context) } };
    throw new WarrenError({
      code: 'NOT_CARRIED',
      message: `"${method}" is not carried from node to node.`,
      hint: 'ask on that node itself',
    });
  });
  const lost = new Map<NodeId, NodeJS.Timeout>();
  const stopLinks = peers.onLink((id, state) => {
    if (state === 'connected') {
      clearTimeout(lost.get(id));
      lost.delete(id);
      return;
    }
    const isClient = replication.members().some((member) => member.id === id && member.role === 'client');
    if (lost.has(id) || !isClient) return;
    const timer = setTimeout(() => {
      lost.delete(id);
      options.locks.nodeLost(numberOf(id));
    }, LOCKS_MS);
    timer.unref();
    lost.set(id, timer);
  });
  return {
    told: () => clients.told(),
    close() {
      stopLinks();
      for (const timer of lost.values()) clearTimeout(timer);
      clients.close();
    },
  };
}

/** Kernels of this node and of its clients; how long each side may take is decided here and there. */
export function bothTold(
  mounts: Promise<void> | undefined,
  clients: Promise<void> | undefined,
  crossed: boolean,
): Promise<void> | undefined {
  if (mounts === undefined) return clients;
  const own = crossed ? Promise.race([mounts, delay(CROSSED_WITHIN_MS)]) : mounts;
  return Promise.all([own, clients]).then(() => undefined);
}
