/** Three real daemons with mounts: one file system, roles, hand-over, locks and open files across nodes. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Cluster, startCluster, treeOf, until } from '../support/cluster.ts';

const TEST_TIMEOUT_MS = 120_000;
const WAIT_MS = 30_000;
const ROUNDS = Number(process.env['WARREN_COHERENCE_ROUNDS'] ?? '200');
let cluster: Cluster;

before(
  async () => {
    cluster = await startCluster({ nodes: 3 });
  },
  { timeout: TEST_TIMEOUT_MS },
);
after(() => cluster?.[Symbol.asyncDispose]());

const at = (node: number, name: string) => join(cluster.node(node).mount, name);
const scenario = (name: string, body: () => Promise<void> | void): void => {
  void test(name, { timeout: TEST_TIMEOUT_MS }, body);
};

scenario(
  'every node shows the same tree with the same inodes, modes, owners, times, links and xattrs',
  async () => {
    fs.mkdirSync(at(0, 'tree/deep'), { recursive: true });
    fs.writeFileSync(at(1, 'tree/small'), 'small');
    fs.writeFileSync(at(2, 'tree/large'), Buffer.alloc(9 * 1024 * 1024, 'large'));
    fs.symlinkSync('large', at(0, 'tree/link'));
    fs.linkSync(at(1, 'tree/small'), at(1, 'tree/deep/second'));
    fs.chmodSync(at(2, 'tree/small'), 0o640);
    fs.chownSync(at(0, 'tree/large'), 1234, 4321);
    fs.utimesSync(at(1, 'tree/large'), 1000, 2000);
    fs.renameSync(at(2, 'tree/large'), at(2, 'tree/deep/large'));
    await cluster.settled();
    const trees = cluster.nodes.map((node) => treeOf(join(node.mount, 'tree')));
    assert.equal(trees[1], trees[0]);
    assert.equal(trees[2], trees[0]);
    assert.match(trees[0] ?? '', /deep\/large f 644 1 1234 4321/);
  },
);

scenario(`what one node wrote and closed, every other reads at once, ${ROUNDS} rounds`, () => {
  for (let round = 0; round < ROUNDS; round++) {
    const writer = round % 3;
    const text = `${round} of node ${writer}, `.repeat(1 + (round % 50));
    fs.writeFileSync(at(writer, 'shared'), text);
    for (const reader of [0, 1, 2]) {
      assert.equal(fs.readFileSync(at(reader, 'shared'), 'utf8'), text, `round ${round}, node ${reader}`);
      assert.equal(fs.statSync(at(reader, 'shared')).size, text.length, `round ${round}, node ${reader}`);
    }
    if (round % 10 === 9) fs.rmSync(at((writer + 1) % 3, 'shared'));
    if (round % 10 === 9) assert.equal(fs.existsSync(at((writer + 2) % 3, 'shared')), false);
  }
});

scenario('a name is made once, whoever tries at the same time', async () => {
  for (let round = 0; round < 30; round++) {
    const made = await Promise.allSettled(
      [0, 1, 2].map((node) => fs.promises.open(at(node, `once-${round}`), 'wx')),
    );
    const winners = made.filter(({ status }) => status === 'fulfilled');
    for (const result of made) if (result.status === 'fulfilled') await result.value.close();
    assert.equal(winners.length, 1, `round ${round}`);
  }
});

scenario(
  'a lock of one node is in the way of programs on the others, and goes with its program',
  async () => {
    fs.writeFileSync(at(0, 'locked'), '');
    const holder = spawn('flock', ['-o', at(1, 'locked'), 'sh', '-c', 'echo held; read -r line'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    try {
      await new Promise((resolve) => holder.stdout.once('data', resolve));
      for (const node of [0, 1, 2])
        assert.equal(await exitOf('flock', ['-n', at(node, 'locked'), 'true']), 1);
      const waits = exitOf('flock', ['-w', '20', at(2, 'locked'), 'true']);
      holder.kill('SIGKILL');
      assert.equal(await waits, 0);
    } finally {
      holder.kill('SIGKILL');
    }
  },
);

scenario(
  'a file that was removed on one node stays readable where it is open, until its last close',
  async () => {
    fs.writeFileSync(at(0, 'gone'), Buffer.alloc(200_000, 'x'));
    const descriptor = fs.openSync(at(1, 'gone'), 'r');
    try {
      fs.rmSync(at(2, 'gone'));
      assert.equal(fs.existsSync(at(1, 'gone')), false);
      const inode = fs.fstatSync(descriptor).ino;
      // Longer than the leader needs to free what nobody has open.
      fs.writeFileSync(at(0, 'other'), 'other');
      await new Promise((resolve) => setTimeout(resolve, 1500));
      const buffer = Buffer.alloc(200_000);
      assert.equal(fs.readSync(descriptor, buffer, 0, buffer.length, 0), buffer.length);
      assert.ok(buffer.every((byte) => byte === 'x'.charCodeAt(0)));
      assert.equal(fs.fstatSync(descriptor).ino, inode);
    } finally {
      fs.closeSync(descriptor);
    }
    const files = async () => (await cluster.node(0).call('status', {})).usage.files;
    const expected = countOf(cluster.node(0).mount);
    await until(
      WAIT_MS,
      () => 'the removed file was never freed',
      async () => (await files()) <= expected,
    );
  },
);

scenario('servers, status and df speak of the whole cluster', async () => {
  const servers = await cluster.settled();
  assert.deepEqual(servers.servers.map(({ id }) => id).sort(), ['alpha', 'beta', 'gamma']);
  assert.equal(servers.leader, 'alpha');
  assert.match(cluster.node(1).warren(['status']), /^✓ Your data is safe\. Healthy\./);
  assert.match(cluster.node(2).warren(['list', 'servers']), /alpha leads/);
  const json: unknown = JSON.parse(cluster.node(1).warren(['servers', '--json']));
  assert.ok(typeof json === 'object' && json !== null && 'servers' in json);
});

scenario(
  'leadership goes to the promoted node without a failed operation, and back by a second promote',
  async () => {
    let errors = 0;
    let written = 0;
    let going = true;
    const writers = [0, 1, 2].map(async (node) => {
      for (let index = 0; going; index++) {
        await fs.promises.writeFile(at(node, `during-${node}-${index % 20}`), `${index}`).then(
          () => written++,
          () => errors++,
        );
      }
    });
    try {
      for (const target of ['gamma', 'beta', 'alpha']) {
        cluster.node(1).warren(['promote', target]);
        assert.equal((await cluster.leader()).id, target);
      }
    } finally {
      going = false;
      await Promise.all(writers);
    }
    assert.equal(errors, 0);
    assert.ok(written > 0);
  },
);

scenario('a node with role follower never leads', async () => {
  cluster.node(0).warren(['role', 'gamma', 'follower']);
  cluster.node(0).warren(['promote', 'gamma'], 1);
  cluster.node(2).warren(['role', 'gamma', 'auto']);
  const { servers } = await cluster.settled();
  assert.equal(servers.find(({ id }) => id === 'gamma')?.role, 'auto');
});

function exitOf(program: string, args: readonly string[]): Promise<number | null> {
  const child = spawn(program, args, { stdio: 'inherit' });
  return new Promise((resolve) => child.once('exit', (code) => resolve(code)));
}

/** Everything below a directory and itself. */
function countOf(directory: string): number {
  return fs.readdirSync(directory, { recursive: true }).length + 1;
}
