/**
 * A few nodes with real chunk stores in folders of their own, joined by a fake network and one chunk table that all
 * of them see, as if every operation had been applied everywhere at once.
 */

import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { chunkPath, layoutOf } from '../../daemon/chunks/layout.ts';
import { openChunkStore } from '../../daemon/chunks/open.ts';
import { type ReplicatedChunks, replicatedChunks } from '../../daemon/chunks/replicated-chunks.ts';
import type { ChunkRow, ReplicatedChunksOptions } from '../../daemon/chunks/replicated-options.ts';
import type { Member, ReplicationMode } from '../../daemon/protocol/cluster.ts';
import { type ChunkHash, type NodeId, SMALL_CHUNK_BYTES_MAX } from '../../daemon/protocol/ids.ts';
import { type FakeClock, fakeClock } from '../support/fake-clock.ts';
import { type FakeNetwork, fakeNetwork } from '../support/fake-peers.ts';
import { hashOf, silentLog } from './harness.ts';

const UNTIL_MS_MAX = 60_000;

export interface TestNode {
  readonly id: NodeId;
  readonly directory: string;
  chunks: ReplicatedChunks;
  readonly damage: Map<ChunkHash, string>;
  readonly repaired: ChunkHash[];
  /** Small chunks that only the log has. */
  readonly unsettled: Map<ChunkHash, Uint8Array>;
  path(hash: ChunkHash): string;
  has(hash: ChunkHash): boolean;
  flip(hash: ChunkHash, offset: number): void;
}

export interface TestCluster {
  readonly network: FakeNetwork;
  readonly clock: FakeClock;
  readonly nodes: TestNode[];
  readonly rows: ChunkRow[];
  members: Member[];
  settings: { mode: ReplicationMode; factor: number };
  leader: NodeId | null;
  node(id: string): TestNode;
  /** Tells all nodes that members, settings or leader changed. */
  changed(): void;
  setState(id: NodeId, state: Member['state']): void;
  /** Stores random bytes on the node and gives them a row, as a written file does. */
  write(on: TestNode, bytes: number): Promise<{ hash: ChunkHash; size: number; data: Buffer }>;
  addRow(hash: ChunkHash, bytes: number): void;
  dropRow(hash: ChunkHash): void;
  holders(hash: ChunkHash): NodeId[];
  homes(chunk: { hash: ChunkHash; size: number }): NodeId[];
  /** Ends the node and starts it again; `empty`: on a new disk. */
  restart(node: TestNode, options: { empty: boolean }): Promise<void>;
}

export interface ClusterOptions extends Partial<ReplicatedChunksOptions> {
  readonly nodes: number;
  readonly factor: number;
  readonly mode?: ReplicationMode;
}

export async function openCluster(t: TestContext, options: ClusterOptions): Promise<TestCluster> {
  const network = fakeNetwork();
  const clock = fakeClock();
  const root = mkdtempSync(join(tmpdir(), 'warren-replicated-'));
  const ids = Array.from({ length: options.nodes }, (_, index) => String.fromCharCode(97 + index) as NodeId);
  let lastRow = 0;
  const rowOf = new Map<ChunkHash, ChunkRow>();

  async function start(node: Omit<TestNode, 'chunks'>, create: boolean): Promise<ReplicatedChunks> {
    const local = await openChunkStore({
      directory: node.directory,
      log: silentLog,
      clock,
      create,
      missingIsDamage: false,
      onDamage: ({ hash, reason }) => node.damage.set(hash, reason),
    });
    const chunks = replicatedChunks({
      local,
      peers: network.peers(node.id),
      cluster: {
        members: () => cluster.members,
        settings: () => cluster.settings,
        leader: () => cluster.leader,
      },
      rows: {
        chunksAfter(row, limit) {
          const from = cluster.rows.findIndex((chunk) => chunk.row > row);
          return from < 0 ? [] : cluster.rows.slice(from, from + limit);
        },
        hasChunk: (hash) => rowOf.has(hash),
        unsettled: (hash) => node.unsettled.get(hash),
        barrier: () => Promise.resolve(),
      },
      clock,
      log: silentLog,
      sleep: clock.sleep,
      // A busy machine is no reason to give up on a node, unless a test is about that.
      callMs: UNTIL_MS_MAX,
      onDamage: ({ hash, reason }) => node.damage.set(hash, reason),
      onRepaired(hash) {
        node.repaired.push(hash);
        node.damage.delete(hash);
      },
      ...options,
    });
    return {
      ...chunks,
      async close() {
        await chunks.close();
        await local.close();
      },
    };
  }

  async function addNode(id: NodeId): Promise<TestNode> {
    const directory = mkdtempSync(join(root, `${id}-`));
    const path = (hash: ChunkHash) => chunkPath(layoutOf(directory), hash);
    const bare = {
      ...{ id, directory, path, damage: new Map(), repaired: [], unsettled: new Map() },
      has: (hash: ChunkHash) => existsSync(path(hash)),
      flip(hash: ChunkHash, offset: number) {
        const bytes = readFileSync(path(hash));
        bytes[offset] = bytes[offset]! ^ 1;
        writeFileSync(path(hash), bytes);
      },
    };
    return Object.assign(bare, { chunks: await start(bare, true) });
  }

  const cluster: TestCluster = {
    network,
    clock,
    nodes: [],
    rows: [],
    members: ids.map((id, number) => ({
      ...{ id, number, role: 'auto', state: 'active', key: '' },
      address: `${id}:9500`,
    })),
    settings: { mode: options.mode ?? 'replicated', factor: options.factor },
    leader: ids[0] ?? null,
    node: (id) => cluster.nodes.find((node) => node.id === id)!,
    changed() {
      for (const { chunks } of cluster.nodes) chunks.changed();
    },
    setState(id, state) {
      cluster.members = cluster.members.map((member) => (member.id === id ? { ...member, state } : member));
      cluster.changed();
    },
    async write(on, size) {
      const data = randomBytes(size);
      const hash = hashOf(data);
      if (size > SMALL_CHUNK_BYTES_MAX) await on.chunks.store(data);
      else await Promise.all(cluster.nodes.map(({ chunks }) => chunks.settle([{ hash, data }])));
      cluster.addRow(hash, size);
      if (size > SMALL_CHUNK_BYTES_MAX) on.chunks.unpin(hash);
      return { hash, size, data };
    },
    addRow(hash, bytes) {
      lastRow += 1;
      const row = { row: lastRow, hash, bytes };
      rowOf.set(hash, row);
      cluster.rows.push(row);
      for (const { chunks } of cluster.nodes) chunks.named([{ hash, size: bytes }]);
    },
    dropRow(hash) {
      rowOf.delete(hash);
      cluster.rows.splice(
        cluster.rows.findIndex((row) => row.hash === hash),
        1,
      );
    },
    holders: (hash) => cluster.nodes.filter((node) => node.has(hash)).map(({ id }) => id),
    homes: (chunk) => [...cluster.nodes[0]!.chunks.homes(chunk)].sort() as NodeId[],
    async restart(node, { empty }) {
      network.down(node.id);
      await node.chunks.close();
      if (empty)
        for (const name of ['chunks', 'small.db']) rmSync(join(node.directory, name), { recursive: true });
      if (empty)
        for (const ending of ['-wal', '-shm'])
          rmSync(join(node.directory, `small.db${ending}`), { force: true });
      node.chunks = await start(node, empty);
      network.up(node.id);
    },
  };
  t.after(async () => {
    await Promise.all(cluster.nodes.map(({ chunks }) => chunks.close()));
    rmSync(root, { recursive: true, force: true });
  });
  for (const id of ids) cluster.nodes.push(await addNode(id));
  cluster.changed();
  return cluster;
}

/** Waits until the condition holds; `step` runs before each look. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  step?: () => void,
): Promise<void> {
  const endMs = performance.now() + UNTIL_MS_MAX;
  for (;;) {
    step?.();
    if (await condition()) return;
    if (performance.now() > endMs) throw new Error(`waited ${UNTIL_MS_MAX / 1000} s in vain: ${what}`);
    await delay(5);
  }
}

/** The whole chunk through the replicated store. */
export async function readWhole(node: TestNode, chunk: { hash: ChunkHash; size: number }): Promise<Buffer> {
  const target = Buffer.alloc(chunk.size);
  await node.chunks.read(chunk, 0, target);
  return target;
}
