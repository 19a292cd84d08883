import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import test from 'node:test';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import { hashOf } from './harness.ts';
import { openCluster, readWhole, until } from './cluster.ts';

const MAX = 4 * 1024 * 1024;
const idsOf = (...names: string[]) => names as NodeId[];

test('a stored chunk is durable on its homes when store answers, and the writer keeps its own', async (t) => {
  const c = await openCluster(t, { nodes: 4, factor: 2 });
  for (let round = 0; round < 8; round += 1) {
    const chunk = await c.write(c.node('a'), 200_000 + round);
    const homes = c.homes(chunk);
    assert.equal(homes.length, 2);
    assert.deepEqual(c.holders(chunk.hash), [...new Set([...homes, ...idsOf('a')])].sort());
    for (const node of c.nodes) assert.ok((await readWhole(node, chunk)).equals(chunk.data), node.id);
  }
  assert.equal(c.node('a').chunks.figures().short, 0);
});

test('bytes that a home has already are not sent again', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 3 });
  const chunk = await c.write(c.node('a'), MAX);
  assert.equal(c.network.count('chunk-put'), 2);
  await c.node('a').chunks.store(chunk.data);
  c.node('a').chunks.unpin(chunk.hash);
  assert.equal(c.network.count('chunk-put'), 2);
  assert.equal(c.node('a').chunks.figures().skipped, 2);
});

test('a home that is away or whose connection breaks is replaced by the next in order', async (t) => {
  const c = await openCluster(t, { nodes: 5, factor: 3 });
  const writer = c.node('a');
  const [b, d] = idsOf('b', 'd');
  c.network.down(b!);
  let refusals = 0;
  c.network.fault = ({ to, method }) => {
    if (to !== d || method !== 'chunk-put') return undefined;
    refusals += 1;
    return 'break';
  };
  const chunks = await Promise.all(Array.from({ length: 6 }, () => c.write(writer, 100_000)));
  for (const { hash } of chunks) {
    const holders = c.holders(hash).filter((id) => id !== b && id !== d);
    // `a`, `c` and `e` are left, whatever the homes are.
    assert.deepEqual(holders, idsOf('a', 'c', 'e'));
  }
  assert.equal(writer.chunks.figures().short, 0);
  const tried = refusals;
  await c.write(writer, 100_000);
  assert.equal(refusals, tried, 'a node that failed a moment ago is passed over');
});

test('with too few nodes a store succeeds with fewer copies, and counts it', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 3 });
  c.network.down('b' as NodeId);
  c.network.down('c' as NodeId);
  const chunk = await c.write(c.node('a'), 100_000);
  assert.deepEqual(c.holders(chunk.hash), ['a']);
  const { short, shortBytes } = c.node('a').chunks.figures();
  assert.deepEqual([short, shortBytes], [1, 100_000]);
  c.network.up('b' as NodeId);
  c.network.up('c' as NodeId);
  await until(() => c.holders(chunk.hash).length === 3, 'the homes fetch what they missed');
});

test('a node that hangs costs one time-out, and the writer gets no error', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 3, callMs: 500 });
  c.network.fault = ({ to, method }) => (to === 'b' && method === 'chunk-put' ? 'lose' : undefined);
  await c.write(c.node('a'), 100_000);
  assert.equal(c.node('a').chunks.figures().short > 0, true);
  const pushes = () =>
    c.network.calls.filter(({ to, method }) => to === 'b' && method === 'chunk-put').length;
  assert.equal(pushes(), 1);
  await c.write(c.node('a'), 100_000);
  assert.equal(pushes(), 1);
  c.clock.advance(10_000);
  c.network.fault = () => undefined;
  const chunk = await c.write(c.node('a'), 100_000);
  assert.ok(pushes() >= 2);
  await until(() => c.holders(chunk.hash).includes('b' as NodeId), 'it is used again');
});

test('bytes in flight to a slow node are bounded, and every store ends', async (t) => {
  const c = await openCluster(t, { nodes: 2, factor: 2 });
  let inFlight = 0;
  let most = 0;
  const bytes = Array.from({ length: 24 }, () => randomBytes(2 * 1024 * 1024));
  const peers = c.network.peers('a' as NodeId);
  const real = peers.call.bind(peers);
  Object.assign(peers, {
    async call(...call: Parameters<typeof real>) {
      const size = (call[3].bytes ?? []).reduce((sum, part) => sum + part.length, 0);
      inFlight += size;
      most = Math.max(most, inFlight);
      try {
        return await real(...call);
      } finally {
        inFlight -= size;
      }
    },
  });
  await Promise.all(bytes.map((data) => c.node('a').chunks.store(data)));
  assert.ok(most > 0 && most <= 16 * 1024 * 1024, `${most} bytes in flight`);
  for (const data of bytes) assert.equal(c.holders(hashOf(data)).length, 2);
});

test('a chunk that lives elsewhere is fetched once for many readers and for a sequential read', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 1 });
  const chunk = await c.write(c.node('a'), MAX);
  const reader = c.nodes.find((node) => !node.has(chunk.hash))!;
  const parts = await Promise.all(
    Array.from({ length: 32 }, async (_, index) => {
      const target = Buffer.alloc(MAX / 32);
      await reader.chunks.read(chunk, index * target.length, target);
      return target;
    }),
  );
  assert.ok(Buffer.concat(parts).equals(chunk.data));
  for (let offset = 0; offset < MAX; offset += 128 * 1024) {
    const target = Buffer.alloc(128 * 1024);
    await reader.chunks.read(chunk, offset, target);
    assert.ok(target.equals(chunk.data.subarray(offset, offset + target.length)));
  }
  assert.equal(reader.chunks.figures().fetched, 1);
  assert.equal(reader.has(chunk.hash), false, 'no home: not kept');
  assert.deepEqual([...reader.damage], []);
});

test('prefetch brings the next chunk before it is read', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 1 });
  const chunk = await c.write(c.node('a'), MAX);
  const reader = c.nodes.find((node) => !node.has(chunk.hash))!;
  for (let repeat = 0; repeat < 5; repeat += 1) reader.chunks.prefetch(chunk);
  await until(() => reader.chunks.figures().fetched === 1, 'the prefetch');
  assert.ok((await readWhole(reader, chunk)).equals(chunk.data));
  assert.equal(reader.chunks.figures().fetched, 1);
});

test('a peer that sends other bytes is not believed, and the next one is asked', async (t) => {
  const c = await openCluster(t, { nodes: 4, factor: 2 });
  const chunk = await c.write(c.node('a'), 300_000);
  const homes = c.homes(chunk);
  const reader = c.nodes.find((node) => !node.has(chunk.hash))!;
  const liar = c.network.peers(reader.id) && reader.chunks.homes(chunk)[0];
  c.network.tamper = ({ from, to, method }, bytes) => {
    if (method !== 'chunk-get' || to !== liar || from !== reader.id) return bytes;
    const wrong = Buffer.from(bytes);
    wrong[5] = wrong[5]! ^ 1;
    return wrong;
  };
  assert.ok((await readWhole(reader, chunk)).equals(chunk.data));
  assert.deepEqual(c.network.calls.filter(({ method }) => method === 'chunk-get').length, 2);
  for (const home of homes) assert.ok(c.node(home).has(chunk.hash));
});

test('a read that nobody can serve is EIO and names the nodes', async (t) => {
  const c = await openCluster(t, { nodes: 4, factor: 1 });
  const chunk = await c.write(c.node('a'), 300_000);
  const holders = c.holders(chunk.hash);
  const reader = c.nodes.find((node) => !node.has(chunk.hash))!;
  for (const id of holders) c.network.down(id);
  await assert.rejects(readWhole(reader, chunk), (error: Error & { code: string }) => {
    assert.equal(error.code, 'EIO');
    for (const id of holders) assert.match(error.message, new RegExp(`\\b${id} is away`));
    const other = c.nodes.find((node) => !holders.includes(node.id) && node !== reader);
    if (other !== undefined) assert.match(error.message, new RegExp(`\\b${other.id} does not have it`));
    return true;
  });
  assert.deepEqual([...reader.damage], [], 'somebody away may have it: no damage');
  for (const id of holders) c.network.up(id);
  assert.ok((await readWhole(reader, chunk)).equals(chunk.data));
});

test('a small chunk that is missing or damaged here comes from another node, settled or not', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 2 });
  const [a, b] = [c.node('a'), c.node('b')];
  const settled = randomBytes(5000);
  const unsettled = randomBytes(6000);
  await a.chunks.settle([{ hash: hashOf(settled), data: settled }]);
  a.unsettled.set(hashOf(unsettled), unsettled);
  for (const data of [settled, unsettled]) {
    assert.equal(b.chunks.readSmall(hashOf(data)), undefined);
    assert.ok(Buffer.from(await b.chunks.fetchSmall(hashOf(data))).equals(data));
    await until(() => b.chunks.readSmall(hashOf(data)) !== undefined, 'it is settled here');
  }
  await assert.rejects(
    b.chunks.fetchSmall(hashOf(randomBytes(10))),
    /(a does not have it, c does not have it)|(c does not have it, a does not have it)/,
  );
});

test('garbage in place of hashes, bytes and counts is refused', async (t) => {
  const c = await openCluster(t, { nodes: 2, factor: 2 });
  const peers = c.network.peers('a' as NodeId);
  const b = 'b' as NodeId;
  const data = randomBytes(100_000);
  const call = { timeoutMs: 5000 };
  const evil = '../../../../etc/passwd' as never;
  const wrong = { ...call, bytes: [data] };
  await assert.rejects(
    peers.call(b, 'chunk-put', { hash: hashOf(randomBytes(1)) }, wrong),
    /do not have its hash/,
  );
  await assert.rejects(peers.call(b, 'chunk-put', { hash: evil }, wrong), /64 hexadecimal/);
  await assert.rejects(peers.call(b, 'chunk-put', { hash: hashOf(data) }, call), /1 to 4194304 bytes/);
  await assert.rejects(peers.call(b, 'chunk-get', { hash: evil }, call), /64 hexadecimal/);
  const many = Array.from({ length: 1001 }, () => hashOf(data));
  await assert.rejects(peers.call(b, 'chunk-have', { hashes: many, verify: false }, call), /at most 1000/);
  await assert.rejects(
    peers.call(b, 'chunk-have', { hashes: many.slice(0, 17), verify: true }, call),
    /at most 16/,
  );
  assert.deepEqual(c.node('b').has(hashOf(data)), false);
});

test('mode shared keeps chunks on the leader alone, also those that others write', async (t) => {
  const c = await openCluster(t, { nodes: 3, factor: 3, mode: 'shared', graceMs: 1000 });
  const chunk = await c.write(c.node('b'), 100_000);
  assert.deepEqual(c.holders(chunk.hash), ['a', 'b']);
  assert.ok((await readWhole(c.node('c'), chunk)).equals(chunk.data));
  await until(
    () => c.holders(chunk.hash).join() === 'a',
    'the writer deletes its copy after the leader verified its own',
    () => c.clock.advance(6 * 60 * 60_000),
  );
});

test('a node alone stores and reads, asks nobody, and lacks nothing', async (t) => {
  const c = await openCluster(t, { nodes: 1, factor: 3 });
  c.members = [];
  c.changed();
  const chunk = await c.write(c.node('a'), MAX);
  assert.ok((await readWhole(c.node('a'), chunk)).equals(chunk.data));
  assert.equal(c.network.calls.length, 0);
  c.node('a').flip(chunk.hash, 1000);
  await c.restart(c.node('a'), { empty: false });
  c.node('a').flip(chunk.hash, 1_000_000);
  await assert.rejects(readWhole(c.node('a'), chunk), { code: 'EIO' });
  assert.ok(c.node('a').damage.has(chunk.hash));
});
