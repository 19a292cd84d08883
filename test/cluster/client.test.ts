/**
 * A client of three real storing nodes: it reads and writes through one of them, sees the others' changes at once, and
 * loses no acknowledged byte when the node that serves it is killed.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Cluster, type ClusterNode, startCluster, treeOf, until } from '../support/cluster.ts';

const TEST_TIMEOUT_MS = 180_000;
const WAIT_MS = 30_000;
const ROUNDS = Number(process.env['WARREN_COHERENCE_ROUNDS'] ?? '200');
const KILLS = Number(process.env['WARREN_CLIENT_KILLS'] ?? '4');
const CLIENT = 3;
let cluster: Cluster;

before(
  async () => {
    cluster = await startCluster({ nodes: 4, roles: ['auto', 'auto', 'auto', 'client'] });
  },
  { timeout: TEST_TIMEOUT_MS },
);
after(() => cluster?.[Symbol.asyncDispose]());

const at = (node: number, name: string) => join(cluster.node(node).mount, name);
const scenario = (name: string, body: () => Promise<void> | void) =>
  void test(name, { timeout: TEST_TIMEOUT_MS }, body);

/** The node that serves the client, as its log says. */
function server(): ClusterNode {
  const said = [
    ...cluster
      .node(CLIENT)
      .log()
      .matchAll(/is served.*?server["=: ]+(\w+)/g),
  ].at(-1)?.[1];
  const found = cluster.nodes.find(({ id }) => id === said);
  assert.ok(found, `the client says who serves it:\n${cluster.node(CLIENT).log()}`);
  return found;
}

scenario('a client shows the same tree as the storing nodes, and they show what it makes', async () => {
  fs.mkdirSync(at(CLIENT, 'tree/deep'), { recursive: true });
  fs.writeFileSync(at(0, 'tree/small'), 'small');
  fs.writeFileSync(at(CLIENT, 'tree/large'), Buffer.alloc(9 * 1024 * 1024, 'large'));
  fs.symlinkSync('large', at(CLIENT, 'tree/link'));
  fs.linkSync(at(CLIENT, 'tree/small'), at(CLIENT, 'tree/deep/second'));
  fs.chmodSync(at(CLIENT, 'tree/small'), 0o640);
  fs.chownSync(at(CLIENT, 'tree/large'), 1234, 4321);
  fs.utimesSync(at(CLIENT, 'tree/large'), 1000, 2000);
  fs.renameSync(at(CLIENT, 'tree/large'), at(CLIENT, 'tree/deep/large'));
  await cluster.settled();
  const trees = cluster.nodes.map((node) => treeOf(join(node.mount, 'tree')));
  for (const tree of trees) assert.equal(tree, trees[0]);
  assert.match(trees[0] ?? '', /deep\/large f 644 1 1234 4321/);
});

scenario(
  `what was written and closed anywhere is read everywhere at once, ${ROUNDS} rounds under load`,
  async () => {
    const load = spawn(
      'sh',
      [
        '-c',
        'mkdir -p "$1" "$2"; while :; do for i in 1 2 3 4 5 6 7 8; do echo $i >"$1/$i"; cat "$2/$i" 2>/dev/null; echo $i >"$2/$i"; mv "$2/$i" "$2/b$i"; rm -f "$1/$i"; done; done',
        'sh',
        at(CLIENT, 'load-a'),
        at(1, 'load-b'),
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    try {
      for (let round = 0; round < ROUNDS; round++) {
        const writer = round % 4;
        const text = `${round} of node ${writer}, `.repeat(1 + (round % 50));
        fs.writeFileSync(at(writer, 'shared'), text);
        for (const reader of [0, 1, 2, CLIENT]) {
          await inTime(`round ${round}, node ${reader}`, () => {
            assert.equal(fs.statSync(at(reader, 'shared')).size, text.length);
            assert.equal(fs.readFileSync(at(reader, 'shared'), 'utf8'), text);
          });
        }
        if (round % 10 === 9) {
          fs.rmSync(at((writer + 1) % 4, 'shared'));
          await inTime(`round ${round}`, () =>
            assert.equal(fs.existsSync(at((writer + 2) % 4, 'shared')), false),
          );
        }
        // The load has its turn.
        await new Promise(setImmediate);
      }
    } finally {
      load.kill('SIGKILL');
      await new Promise((resolve) => load.once('exit', resolve));
    }
  },
);

scenario('stat and ls -l of what is known cost no call, until something changes', async () => {
  fs.mkdirSync(at(CLIENT, 'list'));
  for (let index = 0; index < 50; index++) fs.writeFileSync(at(0, `list/${index}`), `${index}`);
  const list = () => {
    for (const name of fs.readdirSync(at(CLIENT, 'list'))) fs.lstatSync(at(CLIENT, `list/${name}`));
  };
  list();
  list();
  const before = await calls();
  for (let round = 0; round < 20; round++) list();
  // The status itself asks for the space that is left.
  assert.equal(await calls(), before + 1);
  fs.writeFileSync(at(1, 'list/new'), 'new');
  assert.ok(fs.readdirSync(at(CLIENT, 'list')).includes('new'));
});

scenario(
  'a lock of a program on the client is in the way on the nodes, and the other way round',
  async () => {
    fs.writeFileSync(at(0, 'locked'), '');
    for (const [holderNode, others] of [
      [CLIENT, [0, 1, 2]],
      [1, [CLIENT]],
    ] as const) {
      const holder = spawn('flock', ['-o', at(holderNode, 'locked'), 'sh', '-c', 'echo held; read -r line'], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      try {
        await new Promise((resolve) => holder.stdout.once('data', resolve));
        for (const node of others) assert.equal(await exitOf('flock', ['-n', at(node, 'locked'), 'true']), 1);
        const waits = exitOf('flock', ['-w', '20', at(others[0], 'locked'), 'true']);
        holder.kill('SIGKILL');
        assert.equal(await waits, 0);
      } finally {
        holder.kill('SIGKILL');
      }
    }
  },
);

scenario(
  'a file that is open on the client and removed elsewhere stays readable until its last close',
  async () => {
    fs.writeFileSync(at(0, 'gone'), Buffer.alloc(200_000, 'x'));
    const descriptor = fs.openSync(at(CLIENT, 'gone'), 'r');
    try {
      fs.rmSync(at(2, 'gone'));
      assert.equal(fs.existsSync(at(CLIENT, 'gone')), false);
      fs.writeFileSync(at(0, 'other'), 'other');
      await new Promise((resolve) => setTimeout(resolve, 1500));
      const buffer = Buffer.alloc(200_000);
      assert.equal(fs.readSync(descriptor, buffer, 0, buffer.length, 0), buffer.length);
      assert.ok(buffer.every((byte) => byte === 'x'.charCodeAt(0)));
    } finally {
      fs.closeSync(descriptor);
    }
  },
);

scenario('what a client cannot do says so', () => {
  assert.throws(() => cluster.node(CLIENT).warren(['token']), /is a client and stores nothing/);
});

scenario(`no acknowledged byte is lost or wrong while its server is killed, ${KILLS} times`, async () => {
  const written = new Map<string, string>();
  let going = true;
  let appended = '';
  const failures: string[] = [];
  const log = await fs.promises.open(at(CLIENT, 'log'), 'a');
  const writing = (async () => {
    for (let index = 0; going; index++) {
      const name = `file-${index % 40}`;
      const bytes = randomBytes(1 + ((index * 7919) % 300_000));
      await fs.promises.writeFile(at(CLIENT, name), bytes);
      written.set(name, sum(bytes));
      const back = await fs.promises.readFile(at(CLIENT, name));
      if (sum(back) !== sum(bytes))
        failures.push(`${name} of round ${index}: ${back.length} of ${bytes.length}`);
      const line = `line ${index}\n`;
      await log.write(line);
      await log.datasync();
      appended += line;
      if (index % 5 === 0) await fs.promises.rename(at(CLIENT, name), at(CLIENT, `${name}-moved`));
      if (index % 5 === 0) {
        written.set(`${name}-moved`, sum(bytes));
        written.delete(name);
      }
    }
  })();
  try {
    for (let kill = 0; kill < KILLS; kill++) {
      const size = appended.length;
      const killed = server();
      await killed.kill();
      killed.detach();
      await until(
        WAIT_MS,
        () => 'the client does not go on',
        () => Promise.resolve(appended.length > size + 20),
      );
      await killed.start();
      await cluster.settled();
    }
  } finally {
    going = false;
    await writing;
    await log.close();
  }
  assert.deepEqual(failures, []);
  for (const node of [0, 1, 2, CLIENT]) {
    for (const [name, expected] of written) {
      assert.equal(sum(fs.readFileSync(at(node, name))), expected, `${name} on node ${node}`);
    }
    assert.equal(fs.readFileSync(at(node, 'log'), 'utf8'), appended, `the log on node ${node}`);
  }
});

/** Holds at once; soon where a node has said that the machine was too slow for the limit of telling others. */
async function inTime(what: string, check: () => void): Promise<void> {
  const late = /did not hear of a change in time/g;
  try {
    check();
  } catch (error) {
    const isLate = cluster.nodes.some((node) => late.test(node.log()));
    if (!isLate) throw new Error(`${what}: ${String(error)}`, { cause: error });
    await until(
      WAIT_MS,
      () => `${what}: ${String(error)}`,
      () => {
        check();
        return Promise.resolve(true);
      },
    );
  }
}

async function calls(): Promise<number> {
  return (await cluster.node(CLIENT).call('status', {})).clientCalls ?? -1;
}

function sum(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function exitOf(program: string, args: readonly string[]): Promise<number | null> {
  const child = spawn(program, args, { stdio: 'inherit' });
  return new Promise((resolve) => child.once('exit', (code) => resolve(code)));
}
