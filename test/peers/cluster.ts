/**
 * Nodes of a test: identities of one cluster made in memory's cost, and `Peers` on loopback ports that end with the
 * test, also when it fails.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { issueCertificate, makeKey, makeRequest } from '../../daemon/peers/certificates.ts';
import { authorityOf, createIdentity, type Identity, storeIdentity } from '../../daemon/peers/identity.ts';
import type { JoinHandler } from '../../daemon/peers/join-messages.ts';
import { openPeers, type PeerNetwork } from '../../daemon/peers/peers.ts';
import type { Member } from '../../daemon/protocol/cluster.ts';
import type { NodeId, Version } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import type { Log } from '../../daemon/runtime/log.ts';

export const A = 'alpha' as NodeId;
export const B = 'beta' as NodeId;
export const C = 'gamma' as NodeId;

export interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: Record<string, unknown>;
}

/** A log that keeps its lines. */
export function collectingLog(): Log & { readonly lines: Line[] } {
  const lines: Line[] = [];
  const at =
    (level: string) =>
    (message: string, fields: Record<string, unknown> = {}): void => {
      lines.push({ level, message, fields });
    };
  const log = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), lines };
  return { ...log, room: () => ({ ...log, room: () => collectingLog() }) };
}

/** A folder that is gone after the test. */
export function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'warren-peers-'));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface TestCluster {
  readonly clusterId: string;
  identity(id: NodeId): Promise<Identity>;
  /** A running node; closed with the test. */
  open(id: NodeId, options?: { bind?: string; identity?: Identity; onJoin?: JoinHandler }): Promise<TestNode>;
}

export interface TestNode {
  readonly peers: PeerNetwork;
  readonly identity: Identity;
  readonly log: ReturnType<typeof collectingLog>;
  member(changes?: Partial<Member>): Member;
}

export async function makeCluster(context: TestContext, clusterId = 'cluster-1'): Promise<TestCluster> {
  const folder = temporaryFolder(context);
  const nowMs = Date.now();
  const first = await createIdentity(join(folder, 'first'), { clusterId, nodeId: A, nowMs });
  const made = new Map<NodeId, Identity>([[A, first]]);
  let number = 0;

  const identity = async (id: NodeId): Promise<Identity> => {
    const known = made.get(id);
    if (known !== undefined) return known;
    const key = await makeKey();
    const publicKey = await makeRequest(key, id);
    const certificate = await issueCertificate({
      authority: authorityOf(first),
      publicKey,
      id,
      clusterId,
      nowMs,
    });
    const { authority, authorityKey } = first;
    const identity = storeIdentity(join(folder, id), { authority, authorityKey, certificate, key });
    made.set(id, identity);
    return identity;
  };

  return {
    clusterId,
    identity,
    async open(id, options = {}) {
      const own = options.identity ?? (await identity(id));
      const log = collectingLog();
      const peers = await openPeers({
        identity: own,
        bind: options.bind ?? '127.0.0.1:0',
        clock: systemClock(),
        log,
        onJoin: options.onJoin ?? (async () => ({ kind: 'elsewhere', address: null })),
      });
      context.after(() => peers.close());
      const ownNumber = number++;
      return {
        peers,
        identity: own,
        log,
        member: (changes = {}) => ({
          id,
          number: ownNumber,
          role: 'auto',
          address: peers.address,
          state: 'active',
          key: own.fingerprint,
          ...changes,
        }),
      };
    },
  };
}

/** Tells all nodes of all. */
export function introduce(nodes: readonly TestNode[], version = 1): void {
  const members = nodes.map((node) => node.member());
  for (const { peers } of nodes) peers.setMembers(members, version as Version);
}

/** Waits for a condition, at most `timeoutMs`. */
export async function until(condition: () => boolean, what: string, timeoutMs = 20_000): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`did not happen within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Waits until `node` is connected to all of `others`. */
export async function connected(node: TestNode, ...others: readonly TestNode[]): Promise<void> {
  for (const { peers } of others) {
    await until(
      () => node.peers.link(peers.self) === 'connected',
      `${node.peers.self} reaches ${peers.self}`,
    );
  }
}
