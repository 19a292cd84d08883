/**
 * The network between the nodes is cut silently and healed: both sides go on, and afterwards every node has the same
 * content again, with everything that either side acknowledged.
 */

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Cluster, type ClusterNode, startCluster, treeOf, until } from '../support/cluster.ts';
import { openNetwork } from '../support/network.ts';

const TEST_TIMEOUT_MS = 240_000;
const GROW_TIMEOUT_MS = 60_000;
const SETTLE_TIMEOUT_MS = 90_000;
/** Heartbeats are missed after two seconds; a busy machine needs longer, a hang is not. */
const PAUSE_MAX_MS = 15_000;
const POLL_MS = 10;
/** Two chunks, one of them not whole. */
const LARGE_BYTES = 5 * 1024 * 1024;

interface Writer {
  /** Contents that fsync acknowledged; each is unlike every other. */
  readonly acknowledged: string[];
  readonly errors: string[];
  longestMs: number;
  stop(): Promise<void>;
}

/** Writes one file for each record, with fsync, until it is stopped. */
function startWriter(node: ClusterNode, folder: string): Writer {
  const directory = join(node.mount, folder);
  fs.mkdirSync(directory, { recursive: true });
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
      const content = `${node.id} wrote record ${number} into ${folder}`;
      const startMs = performance.now();
      try {
        const file = await fs.promises.open(join(directory, `r${number}`), 'w');
        try {
          await file.writeFile(content);
          await file.sync();
        } finally {
          await file.close();
        }
        writer.acknowledged.push(content);
      } catch (error) {
        writer.errors.push(`r${number}: ${String(error)}`);
      }
      writer.longestMs = Math.max(writer.longestMs, performance.now() - startMs);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  })();
  return writer;
}

async function grows(writer: Writer, by: number): Promise<void> {
  const goal = writer.acknowledged.length + by;
  await until(
    GROW_TIMEOUT_MS,
    () => `the writer stands still: ${writer.errors.join('; ')}`,
    () => Promise.resolve(writer.acknowledged.length >= goal),
  );
}

/** In sync, and what both sides did is one again. */
async function merged(cluster: Cluster): Promise<void> {
  await cluster.settled(SETTLE_TIMEOUT_MS);
  await until(
    SETTLE_TIMEOUT_MS,
    () => `a merge does not end:\n${cluster.nodes.map((node) => node.log()).join('\n---\n')}`,
    async () => {
      const lists = await Promise.all(cluster.nodes.map((node) => node.call('conflicts', {})));
      return lists.every(({ merging }) => merging === 0);
    },
  );
  await cluster.settled(SETTLE_TIMEOUT_MS);
}

/** Every content below the mount. */
function contents(node: ClusterNode): Set<string> {
  const found = new Set<string>();
  for (const entry of fs.readdirSync(node.mount, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) found.add(fs.readFileSync(join(entry.parentPath, entry.name), 'utf8'));
  }
  return found;
}

function assertSame(cluster: Cluster): void {
  const [first = '', ...others] = cluster.nodes.map((node) => treeOf(node.mount));
  for (const tree of others) assert.equal(tree, first);
}

function assertKept(cluster: Cluster, expected: readonly string[]): void {
  for (const node of cluster.nodes) {
    const found = contents(node);
    const lost = expected.filter((content) => !found.has(content));
    assert.deepEqual(lost, [], `${node.id} lacks ${lost.length} of ${expected.length}`);
  }
}

test('a follower that is cut off leaves the others waiting no longer than the heartbeats, and comes back', {
  timeout: TEST_TIMEOUT_MS,
}, async (context) => {
  using network = openNetwork(3);
  await using cluster = await startCluster({ nodes: 3, places: network.places });
  const leader = await cluster.leader();
  const follower = cluster.nodes.findLastIndex((node) => node !== leader);
  const writer = startWriter(leader, 'followed');
  await grows(writer, 20);
  writer.longestMs = 0;
  network.cut(follower);
  await grows(writer, 20);
  await until(
    GROW_TIMEOUT_MS,
    () => 'the node that was cut off is not noticed',
    async () => (await leader.call('status', {})).health.state === 'degraded',
  );
  await grows(writer, 20);
  context.diagnostic(`a follower cut off: longest ${writer.longestMs.toFixed(0)} ms`);
  assert.ok(writer.longestMs < PAUSE_MAX_MS, `a pause of ${writer.longestMs} ms`);
  network.heal(follower);
  await cluster.settled(SETTLE_TIMEOUT_MS);
  await writer.stop();
  await cluster.settled();
  assert.deepEqual(writer.errors, []);
  assertKept(cluster, writer.acknowledged);
  assertSame(cluster);
});

test('a leader that is cut off goes on, the others go on, and healed they have what both acknowledged', {
  timeout: TEST_TIMEOUT_MS,
}, async (context) => {
  using network = openNetwork(3);
  await using cluster = await startCluster({ nodes: 3, places: network.places });
  const leader = await cluster.leader();
  const survivor = cluster.nodes.find((node) => node !== leader);
  assert.ok(survivor !== undefined);
  const at = (node: ClusterNode, name: string) => join(node.mount, name);
  const large = (text: string) => Buffer.alloc(LARGE_BYTES, text);
  fs.writeFileSync(at(leader, 'both.txt'), 'before');
  fs.writeFileSync(at(leader, 'large'), large('before '));
  fs.mkdirSync(at(leader, 'folder'));
  const inode = fs.statSync(at(leader, 'large')).ino;
  const here = startWriter(survivor, 'here');
  const there = startWriter(leader, 'there');
  await grows(here, 20);
  await grows(there, 20);
  here.longestMs = 0;
  there.longestMs = 0;
  network.cut(cluster.nodes.indexOf(leader));
  await grows(here, 20);
  await grows(there, 20);
  context.diagnostic(`the others: longest ${here.longestMs.toFixed(0)} ms`);
  context.diagnostic(`the leader that is cut off: longest ${there.longestMs.toFixed(0)} ms`);
  assert.ok(here.longestMs < PAUSE_MAX_MS, `a pause of ${here.longestMs} ms`);
  await here.stop();
  await there.stop();
  // One of both sides loses, and each does what the merge must do.
  for (const node of [leader, survivor]) {
    fs.writeFileSync(at(node, 'both.txt'), `${node.id} changed it`);
    fs.writeFileSync(at(node, `large of ${node.id}`), large(`${node.id} `));
    fs.symlinkSync(`to ${node.id}`, at(node, `folder/link of ${node.id}`));
  }
  // Only one side: it is changed in place, whichever side loses.
  fs.writeFileSync(at(leader, 'large'), large('after '), { flag: 'r+' });
  network.heal(cluster.nodes.indexOf(leader));
  await merged(cluster);
  assert.deepEqual(here.errors, []);
  assert.deepEqual(there.errors, []);
  assertSame(cluster);
  assertKept(cluster, [
    ...here.acknowledged,
    ...there.acknowledged,
    `${leader.id} changed it`,
    `${survivor.id} changed it`,
    large(`${leader.id} `).toString(),
    large(`${survivor.id} `).toString(),
    large('after ').toString(),
  ]);
  assert.equal(fs.statSync(at(survivor, 'large')).ino, inode, 'a file that one side changed stays itself');
  assert.deepEqual(fs.readdirSync(at(survivor, 'folder')).length, 2);

  const { conflicts } = await survivor.call('conflicts', {});
  const [conflict] = conflicts;
  assert.deepEqual(
    conflicts.map(({ kind, mine }) => `${kind} ${mine.path}`),
    ['content /both.txt'],
  );
  assert.match(survivor.warren(['conflicts'], 3), /both sides changed it/);
  const theirs = fs.readFileSync(at(survivor, conflict?.theirs?.path ?? ''), 'utf8');
  survivor.warren(['conflicts', 'resolve', String(conflict?.id), '--keep', 'theirs']);
  for (const node of cluster.nodes) assert.equal(fs.readFileSync(at(node, 'both.txt'), 'utf8'), theirs);
  assert.match(leader.warren(['conflicts']), /No conflicts/);
  await cluster.settled();
  assertSame(cluster);
  for (const node of cluster.nodes) assert.equal((await node.call('fsck', { data: true })).clean, true);
});

test('a node that dies while it merges goes on with it after the next start', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  using network = openNetwork(3);
  await using cluster = await startCluster({ nodes: 3, places: network.places });
  const leader = await cluster.leader();
  const survivor = cluster.nodes.find((node) => node !== leader);
  assert.ok(survivor !== undefined);
  network.cut(cluster.nodes.indexOf(leader));
  const [here, there] = [startWriter(survivor, 'same'), startWriter(leader, 'same')];
  await Promise.all([grows(here, 50), grows(there, 50)]);
  await Promise.all([here.stop(), there.stop()]);
  network.heal(cluster.nodes.indexOf(leader));
  let merging: ClusterNode | undefined;
  await until(
    SETTLE_TIMEOUT_MS,
    () => 'no node keeps what its side did',
    () => {
      merging = cluster.nodes.find((node) => node.log().includes('is merged when it is in sync'));
      return Promise.resolve(merging !== undefined);
    },
  );
  assert.ok(merging !== undefined);
  await merging.kill();
  merging.detach();
  await merging.start();
  await merged(cluster);
  assertSame(cluster);
  assertKept(cluster, [...here.acknowledged, ...there.acknowledged]);
  for (const node of cluster.nodes) assert.equal((await node.call('fsck', { data: true })).clean, true);
});
