/**
 * Discovery: nodes tell by UDP multicast where they listen, so that a machine that got another address is found.
 *
 * Nothing is trusted from it. A packet names a node and an address; `onHint` makes that one more address to try, and
 * whoever answers there must have the node's certificate. Packets carry a hash of the cluster's id, so that clusters on
 * one network do not bother each other. Too many packets are dropped unread.
 *
 * What can go wrong: interfaces come and go (looked for again every INTERVAL_MS), there is no default route (so each
 * interface is named, for membership and for sending), several daemons share a machine (the port is shared), multicast
 * is blocked (then this finds nobody, and the addresses of the member list remain).
 */

import { createHash } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { networkInterfaces } from 'node:os';
import { z } from 'zod';
import { formatAddress, parseAddress } from '../protocol/addresses.ts';
import { nodeIdSchema } from '../protocol/config-keys.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';

const INTERVAL_MS = 3000;
const PACKET_BYTES_MAX = 512;
const PACKETS_PER_SECOND_MAX = 200;
/** One node's packets are looked at this often. */
const NODE_INTERVAL_MS = 500;
const NODES_MAX = 256;
const MAGIC = 'warren1';

const packetSchema = z.object({
  w: z.literal(MAGIC),
  /** Hash of the cluster's id. */
  c: z.string().max(64),
  n: nodeIdSchema,
  /** Port of the node; its host is where the packet comes from. */
  p: z.number().int().min(1).max(65_535),
});

export interface DiscoveryOptions {
  /** `udp://GROUP:PORT`, or `none`. */
  readonly discovery: string;
  readonly clusterId: string;
  readonly nodeId: NodeId;
  /** Port on which this node's peers reach it. */
  readonly port: number;
  readonly onHint: (id: NodeId, address: string) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Discovery {
  close(): Promise<void>;
}

/** Starts to tell and to listen. Errors: DISCOVERY_INVALID, DISCOVERY_FAILED (the port cannot be shared). */
export async function openDiscovery(options: DiscoveryOptions): Promise<Discovery> {
  const { discovery, nodeId, port, log } = options;
  if (discovery === 'none') return { close: async () => {} };
  const group = parseAddress(discovery.replace(/^udp:\/\//, ''));
  if (!discovery.startsWith('udp://') || group === undefined || group.port === 0) {
    throw new WarrenError({
      code: 'DISCOVERY_INVALID',
      message: `"${discovery}" is no way of discovery.`,
      hint: 'set discovery in section [cluster] to "udp://239.255.0.1:9501" or to "none"',
    });
  }
  const cluster = createHash('sha256').update(options.clusterId).digest('base64url').slice(0, 22);
  const packet = Buffer.from(JSON.stringify({ w: MAGIC, c: cluster, n: nodeId, p: port }));
  const receiver = createSocket({ type: 'udp4', reuseAddr: true });
  const senders = new Map<string, Socket>();
  const accept = packetFilter(options, cluster);

  receiver.on('message', (bytes, from) => accept(bytes, from.address));
  await bind(receiver, group.port, discovery);
  receiver.on('error', (error) => log.warn('discovery cannot receive', { reason: error.message }));

  const join = (address: string): void => {
    try {
      receiver.addMembership(group.host, address);
    } catch (error) {
      // It went away in this moment, or has no multicast: another round will tell.
      log.debug('discovery skips an interface', { address, reason: String(error) });
      return;
    }
    const sender = createSocket({ type: 'udp4' });
    const drop = (): void => {
      if (senders.get(address) !== sender) return;
      senders.delete(address);
      sender.close();
    };
    senders.set(address, sender);
    sender.on('error', drop);
    sender.bind({ address, port: 0, exclusive: true }, () => {
      try {
        sender.setMulticastInterface(address);
        send(sender);
      } catch {
        drop();
      }
    });
  };
  const leave = (address: string, sender: Socket): void => {
    senders.delete(address);
    sender.close();
    try {
      receiver.dropMembership(group.host, address);
    } catch {
      // The kernel has dropped it with the interface.
    }
  };
  const send = (sender: Socket): void => {
    // An unreachable network is no news: the next round tries again.
    sender.send(packet, group.port, group.host, () => {});
  };
  const round = (): void => {
    const present = new Set(externalAddresses());
    for (const [address, sender] of senders) {
      if (present.has(address)) send(sender);
      else leave(address, sender);
    }
    for (const address of present) if (!senders.has(address)) join(address);
  };
  round();
  const timer = setInterval(round, INTERVAL_MS);

  return {
    async close() {
      clearInterval(timer);
      const sockets = [receiver, ...senders.values()];
      senders.clear();
      await Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.close(resolve))));
    },
  };
}

/** Takes packets as they come, and passes on what is a hint. */
function packetFilter(options: DiscoveryOptions, cluster: string): (bytes: Buffer, from: string) => void {
  const { clock, nodeId, onHint } = options;
  const lookedAtMs = new Map<string, number>();
  let secondEndsMs = 0;
  let packets = 0;
  return (bytes, from) => {
    const nowMs = clock.monotonicMs();
    if (nowMs >= secondEndsMs) {
      secondEndsMs = nowMs + 1000;
      packets = 0;
    }
    packets += 1;
    if (packets > PACKETS_PER_SECOND_MAX || bytes.length > PACKET_BYTES_MAX) return;
    const parsed = packetSchema.safeParse(parseJson(bytes));
    if (!parsed.success || parsed.data.c !== cluster || parsed.data.n === nodeId) return;
    const { n: id, p: port } = parsed.data;
    const place = `${id} ${from} ${port}`;
    if (nowMs < (lookedAtMs.get(place) ?? 0) + NODE_INTERVAL_MS) return;
    if (lookedAtMs.size >= NODES_MAX) lookedAtMs.clear();
    lookedAtMs.set(place, nowMs);
    onHint(id as NodeId, formatAddress({ host: from, port }));
  };
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}

/** IPv4 addresses of this machine but loopback, which has no multicast. */
function externalAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .filter(({ family, internal }) => family === 'IPv4' && !internal)
    .map(({ address }) => address);
}

function bind(socket: Socket, port: number, discovery: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      socket.close();
      reject(
        new WarrenError({
          code: 'DISCOVERY_FAILED',
          message: `This node cannot listen on ${discovery}: ${error.message}.`,
          hint: 'set discovery in section [cluster] to another port, or to "none"',
          cause: error,
        }),
      );
    };
    socket.once('error', fail);
    socket.bind({ port, exclusive: false }, () => {
      socket.off('error', fail);
      resolve();
    });
  });
}
