/**
 * Nodes that die, hang and come back under load. WARREN_FAILOVERS: how often the leader is killed (default 3).
 *
 * A writer on a surviving node appends records with fsync and notes how long each took: the longest one is the failover.
 */

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Cluster, type ClusterNode, startCluster, treeOf } from '../support/cluster.ts';

const KILLS = Number(process.env['WARREN_FAILOVERS'] ?? '3');
const TEST_TIMEOUT_MS = 180_000 + KILLS * 20_000;
/** The promise is one second on a quiet machine; a busy one may be slower, a hang is not. */
const PAUSE_MAX_MS = 10_000;
const RECORD = 'a record that was acknowledged by fsync, number ';

interface Writer {
  readonly acknowledged: string[];
  readonly errors: string[];
  longestMs: number;
  stop(): Promise<void>;
}

/** Appends and syncs, one file for each record, until it is stopped. */
function startWriter(node: ClusterNode, folder: string): Writer {
  const directory = join(node.mount, folder);
  fs.mkdirSync(directory);
  let going = true;
  const writer: Writer = {
    acknowledged: [],
    errors: [],
    longestMs: 0,
    async stop() {
      going = false;
      await running;
    },
  };
  const running = (async () => {
    for (let number = 0; going; number++) {
      const name = `r${number}`;
      const startMs = performance.now();
      try {
        const file = await fs.promises.open(join(directory, name), 'wx');
        try {
          await file.writeFile(`${RECORD}${number}`);
          await file.sync();
        } finally {
          await file.close();
        }
        writer.acknowledged.push(name);
      } catch (error) {
        writer.errors.push(`${name}: ${String(error)}`);
      }
      writer.longestMs = Math.max(writer.longestMs, performance.now() - startMs);
    }
  })();
  return writer;
}

function verify(cluster: Cluster, folder: string, writer: Writer): void {
  assert.deepEqual(writer.errors, []);
  for (const node of cluster.nodes) {
    if (!node.running()) continue;
    for (const name of writer.acknowledged) {
      const text = fs.readFileSync(join(node.mount, folder, name), 'utf8');
      assert.equal(text, `${RECORD}${name.slice(1)}`, `${name} on ${node.id}`);
    }
  }
}

async function grows(writer: Writer, by: number): Promise<void> {
  const goal = writer.acknowledged.length + by;
  const limitMs = performance.now() + 60_000;
  while (writer.acknowledged.length < goal) {
    assert.ok(performance.now() < limitMs, `the writer stands still: ${writer.errors.join('; ')}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test(`the leader is killed ${KILLS} times under load: nothing is lost, nobody gets an error`, {
  timeout: TEST_TIMEOUT_MS,
}, async (context) => {
  await using cluster = await startCluster({ nodes: 3 });
  const pauses: number[] = [];
  for (let round = 0; round < KILLS; round++) {
    const leader = await cluster.leader();
    const survivor = cluster.nodes.find((node) => node !== leader);
    assert.ok(survivor !== undefined);
    const folder = `round-${round}`;
    const writer = startWriter(survivor, folder);
    await grows(writer, 20);
    writer.longestMs = 0;
    await leader.kill();
    await grows(writer, 20);
    pauses.push(writer.longestMs);
    leader.detach();
    await leader.start();
    await cluster.settled();
    await writer.stop();
    await cluster.settled();
    verify(cluster, folder, writer);
    const trees = cluster.nodes.map((node) => treeOf(node.mount));
    assert.equal(trees[1], trees[0]);
    assert.equal(trees[2], trees[0]);
  }
  const sorted = pauses.toSorted((left, right) => left - right);
  context.diagnostic(
    `pause of the writer: median ${sorted[Math.floor(sorted.length / 2)]?.toFixed(0)} ms, longest ${sorted.at(-1)?.toFixed(0)} ms`,
  );
  assert.ok((sorted.at(-1) ?? 0) < PAUSE_MAX_MS, `a pause of ${sorted.at(-1)} ms`);
});

test('a follower that dies or hangs does not stop the others and comes back by itself', {
  timeout: TEST_TIMEOUT_MS,
}, async (context) => {
  await using cluster = await startCluster({ nodes: 3 });
  const leader = await cluster.leader();
  const [first, second] = cluster.nodes.filter((node) => node !== leader);
  assert.ok(first !== undefined && second !== undefined);
  const writer = startWriter(leader, 'followers');
  await grows(writer, 20);
  writer.longestMs = 0;
  await first.kill();
  await grows(writer, 20);
  context.diagnostic(`a follower killed: longest ${writer.longestMs.toFixed(0)} ms`);
  assert.ok(writer.longestMs < PAUSE_MAX_MS);
  writer.longestMs = 0;
  second.pause();
  await grows(writer, 20);
  context.diagnostic(`a follower hung: longest ${writer.longestMs.toFixed(0)} ms`);
  assert.ok(writer.longestMs < PAUSE_MAX_MS);
  const status = await leader.call('status', {});
  assert.equal(status.health.state, 'degraded');
  second.resume();
  first.detach();
  await first.start();
  await cluster.settled(60_000);
  await writer.stop();
  await cluster.settled();
  verify(cluster, 'followers', writer);
});

test('all nodes killed at once start again in any order with everything acknowledged', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using cluster = await startCluster({ nodes: 3 });
  for (const order of [
    [2, 1, 0],
    [1, 0, 2],
  ]) {
    const folder = `before-${order.join('')}`;
    const writer = startWriter(cluster.node(1), folder);
    await grows(writer, 20);
    const ended = writer.stop();
    await Promise.all(cluster.nodes.map((node) => node.kill()));
    for (const node of cluster.nodes) node.detach();
    await ended;
    // What was under way when everything died may have failed.
    writer.errors.length = 0;
    await Promise.all(order.map((index) => cluster.node(index).start()));
    await cluster.settled(60_000);
    verify(cluster, folder, writer);
  }
});

test('with one node missing after everything died, the others say what they wait for and go on', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using cluster = await startCluster({ nodes: 3 });
  const writer = startWriter(cluster.node(2), 'missing');
  await grows(writer, 20);
  const ended = writer.stop();
  await Promise.all(cluster.nodes.map((node) => node.kill()));
  for (const node of cluster.nodes) node.detach();
  await ended;
  writer.errors.length = 0;
  await Promise.all([cluster.node(1).start(), cluster.node(2).start()]);
  await cluster.leader(60_000);
  fs.writeFileSync(join(cluster.node(1).mount, 'alive'), 'alive');
  verify(cluster, 'missing', writer);
  await cluster.node(0).start();
  await cluster.settled(60_000);
  verify(cluster, 'missing', writer);
  assert.equal(fs.readFileSync(join(cluster.node(0).mount, 'alive'), 'utf8'), 'alive');
});
