import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import test from 'node:test';
import type { ChunkHash, NodeId } from '../../daemon/protocol/ids.ts';
import { hashOf } from './harness.ts';
import { openCluster, readWhole, type TestCluster, until } from './cluster.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const [b, c, d] = ['b', 'c', 'd'] as NodeId[];

const sortedHomes = (cluster: TestCluster, chunk: { hash: ChunkHash; size: number }) =>
  cluster.homes(chunk).join();
const atHome = (cluster: TestCluster, chunks: readonly { hash: ChunkHash; size: number }[]) =>
  chunks.every((chunk) => cluster.homes(chunk).every((home) => cluster.node(home).has(chunk.hash)));
const onlyAtHome = (cluster: TestCluster, chunks: readonly { hash: ChunkHash; size: number }[]) =>
  chunks.every((chunk) => cluster.holders(chunk.hash).join() === sortedHomes(cluster, chunk));

async function writeMany(cluster: TestCluster, count: number, bytes = 70_000) {
  const chunks = [];
  for (let index = 0; index < count; index += 1) {
    const on = cluster.nodes[index % cluster.nodes.length]!;
    chunks.push(await cluster.write(on, bytes));
  }
  return chunks;
}

test('a damaged chunk is never served: it is set aside, fetched again, and reported as repaired', async (t) => {
  const k = await openCluster(t, { nodes: 3, factor: 3 });
  const node = k.node('b');
  const chunk = await k.write(k.node('a'), 300_000);
  await k.restart(node, { empty: false });
  node.flip(chunk.hash, 100_000);
  assert.ok((await readWhole(node, chunk)).equals(chunk.data));
  await until(() => node.repaired.includes(chunk.hash), 'the repair is reported');
  assert.equal(node.damage.size, 0);
  assert.ok(fs.readFileSync(node.path(chunk.hash)).equals(chunk.data));
  assert.equal(node.chunks.figures().lackingChunks, 0);
});

test('what a scrub finds damaged is repaired without anybody reading it', async (t) => {
  const k = await openCluster(t, { nodes: 3, factor: 3, scrubRoundMs: 1000 });
  const chunks = await writeMany(k, 5, 100_000);
  const node = k.node('c');
  await k.restart(node, { empty: false });
  for (const { hash } of chunks) node.flip(hash, 50_000);
  await until(
    () => node.repaired.length === chunks.length,
    'all are repaired',
    () => k.clock.advance(HOUR),
  );
  for (const { hash, data } of chunks) assert.ok(fs.readFileSync(node.path(hash)).equals(data));
  assert.equal(node.damage.size, 0);
});

test('damage on every copy is reported, and stays reported', async (t) => {
  const k = await openCluster(t, { nodes: 2, factor: 2 });
  const chunk = await k.write(k.node('a'), 100_000);
  for (const node of k.nodes) fs.rmSync(node.path(chunk.hash));
  k.node('a').chunks.rescan();
  await until(() => k.node('a').damage.has(chunk.hash), 'nobody has it');
  assert.match(k.node('a').damage.get(chunk.hash)!, /b does not have it/);
  const [lacking] = k.node('a').chunks.lacking(0, 10).chunks;
  assert.deepEqual([lacking?.hash, lacking?.bytes], [chunk.hash, 100_000]);
  assert.match(lacking!.reason, /b does not have it/);
  await assert.rejects(readWhole(k.node('a'), chunk), { code: 'EIO' });
});

test('a node with an emptied disk gets everything back, small chunks too', async (t) => {
  const k = await openCluster(t, { nodes: 3, factor: 2 });
  const large = await writeMany(k, 12);
  const small = await writeMany(k, 40, 2000);
  const node = k.node('b');
  await k.restart(node, { empty: true });
  await until(() => node.chunks.figures().complete && node.chunks.figures().lackingChunks === 0, 'repair');
  assert.ok(atHome(k, large));
  for (const { hash, data } of small) assert.ok(Buffer.from(node.chunks.readSmall(hash)!).equals(data));
  const check = await k.node('a').chunks.checkHomes(new AbortController().signal);
  assert.deepEqual([check.checked, check.missing], [52, 0]);
});

test('a larger factor brings copies, a smaller one takes them away after their homes verified theirs', async (t) => {
  const k = await openCluster(t, { nodes: 4, factor: 2, graceMs: 10 * MINUTE });
  const chunks = await writeMany(k, 10);
  k.settings = { mode: 'replicated', factor: 3 };
  k.changed();
  await until(() => atHome(k, chunks), 'three copies');
  k.settings = { mode: 'replicated', factor: 1 };
  k.changed();
  const before = k.network.count('chunk-have');
  k.clock.advance(9 * MINUTE);
  k.changed();
  assert.ok(
    chunks.every(({ hash }) => k.holders(hash).length >= 3),
    'nothing goes within the grace time',
  );
  await until(
    () => onlyAtHome(k, chunks),
    'one copy each',
    () => k.clock.advance(HOUR),
  );
  assert.ok(k.network.count('chunk-have') > before);
  for (const chunk of chunks) {
    assert.equal(k.holders(chunk.hash).length, 1);
    assert.ok((await readWhole(k.node('a'), chunk)).equals(chunk.data));
  }
});

test('an extra copy stays while a home is away or has a damaged one', async (t) => {
  const k = await openCluster(t, { nodes: 3, factor: 1, graceMs: MINUTE });
  const chunks = (await writeMany(k, 12)).filter((chunk) => k.holders(chunk.hash).length === 2);
  assert.ok(chunks.length > 0);
  const chunk = chunks[0]!;
  const home = k.node(k.homes(chunk)[0]!);
  const extra = k.node(k.holders(chunk.hash).find((id) => id !== home.id)!);
  await k.restart(home, { empty: false });
  home.flip(chunk.hash, 10);
  // The question makes the home find its damage; it answers no, and repairs itself from the extra copy.
  await until(
    () => home.repaired.includes(chunk.hash),
    'the home repairs itself',
    () => k.clock.advance(HOUR),
  );
  assert.ok(fs.readFileSync(home.path(chunk.hash)).equals(chunk.data));
  await until(
    () => !extra.has(chunk.hash),
    'now it goes',
    () => k.clock.advance(HOUR),
  );
});

test('chunks of a node that is gone move after the grace time, and back when it returns', async (t) => {
  const k = await openCluster(t, { nodes: 4, factor: 2, graceMs: HOUR });
  const chunks = await writeMany(k, 16);
  const withD = chunks.filter((chunk) => k.homes(chunk).includes(d!));
  assert.ok(withD.length > 0);
  k.network.down(d!);
  k.changed();
  k.clock.advance(59 * MINUTE);
  k.changed();
  assert.deepEqual(k.node('a').chunks.figures().dead, []);
  k.clock.advance(2 * MINUTE);
  k.changed();
  assert.deepEqual(k.node('a').chunks.figures().dead, ['d']);
  await until(() => atHome(k, withD), 'others hold its chunks');
  assert.ok(withD.every((chunk) => !k.homes(chunk).includes(d!)));
  k.network.up(d!);
  k.changed();
  assert.ok(withD.every((chunk) => k.homes(chunk).includes(d!)));
  await until(
    () => onlyAtHome(k, chunks),
    'the copies that stood in are trimmed',
    () => k.clock.advance(HOUR),
  );
});

test('with more than a third of the nodes gone nothing moves', async (t) => {
  const k = await openCluster(t, { nodes: 4, factor: 2, graceMs: HOUR });
  const chunks = await writeMany(k, 8);
  const before = chunks.map((chunk) => sortedHomes(k, chunk));
  k.network.down(c!);
  k.network.down(d!);
  k.changed();
  k.clock.advance(3 * HOUR);
  k.changed();
  const { dead, braked } = k.node('a').chunks.figures();
  assert.deepEqual([dead, braked], [[], true]);
  assert.deepEqual(
    chunks.map((chunk) => sortedHomes(k, chunk)),
    before,
  );
  await until(() => k.node('a').chunks.figures().complete, 'the scan');
  const figures = k.node('a').chunks.figures();
  const away = chunks.filter((chunk) => k.homes(chunk).some((home) => home === c || home === d));
  await until(
    () => k.node('a').chunks.figures().awayChunks === away.length,
    'chunks with a home that is away are counted',
    () => k.clock.advance(MINUTE),
  );
  assert.equal(figures.lackingChunks, 0);
});

test('a draining node loses its homes at once, and nothing is trimmed meanwhile', async (t) => {
  const k = await openCluster(t, { nodes: 4, factor: 2, graceMs: MINUTE });
  const chunks = await writeMany(k, 12);
  const held = chunks.filter(({ hash }) => k.node('d').has(hash));
  k.setState(d!, 'draining');
  await until(() => atHome(k, chunks), 'others take over');
  assert.ok(chunks.every((chunk) => !k.homes(chunk).includes(d!)));
  const check = await k.node('d').chunks.checkHomes(new AbortController().signal);
  assert.deepEqual([check.checked, check.missing], [12, 0]);
  for (let hour = 0; hour < 10; hour += 1) k.clock.advance(HOUR);
  assert.ok(held.every(({ hash }) => k.node('d').has(hash)));
  assert.equal(
    k.nodes.reduce((sum, { chunks }) => sum + chunks.figures().trimmed, 0),
    0,
  );
});

test('the check before a removal counts what a home lacks or cannot say', async (t) => {
  const k = await openCluster(t, { nodes: 3, factor: 3 });
  const chunks = await writeMany(k, 4);
  k.node('b').chunks.pauseRepair();
  fs.rmSync(k.node('b').path(chunks[0]!.hash));
  const { signal } = new AbortController();
  const check = await k.node('a').chunks.checkHomes(signal);
  assert.deepEqual([check.missing, check.missingBytes, check.example?.node], [1, 70_000, 'b']);
  k.network.down(b!);
  assert.equal((await k.node('a').chunks.checkHomes(signal)).missing, 4);
});

test('dropped chunks go when the operation is durable, and stay when they have a row again', async (t) => {
  const k = await openCluster(t, { nodes: 3, factor: 3 });
  const [gone, back] = await writeMany(k, 2);
  for (const chunk of [gone!, back!]) k.dropRow(chunk.hash);
  k.addRow(back!.hash, back!.size);
  for (const { chunks } of k.nodes) chunks.dropped([gone!.hash, back!.hash]);
  await until(() => k.holders(gone!.hash).length === 0, 'its files go');
  assert.equal(k.holders(back!.hash).length, 3);
});

test('a chunk that a writer was just promised outlives the operation that drops it', async (t) => {
  const k = await openCluster(t, { nodes: 2, factor: 2 });
  const [chunk] = await writeMany(k, 1);
  k.dropRow(chunk!.hash);
  // The same content is being written again: the receiver says that it has it.
  await k.node('a').chunks.store(chunk!.data);
  for (const { chunks } of k.nodes) chunks.dropped([chunk!.hash]);
  const other = await k.write(k.node('a'), 80_000);
  k.dropRow(other.hash);
  for (const { chunks } of k.nodes) chunks.dropped([other.hash]);
  await until(() => k.holders(other.hash).length === 0, 'a later deletion is done');
  assert.deepEqual(k.holders(chunk!.hash), ['a', 'b']);
  k.addRow(chunk!.hash, chunk!.size);
  k.node('a').chunks.unpin(chunk!.hash);
  await until(
    () =>
      k
        .node('b')
        .chunks.workers()
        .find(({ name }) => name === 'chunk deletion')!.items === 0,
    'the deletion is forgotten',
    () => k.clock.advance(MINUTE),
  );
  assert.deepEqual(k.holders(chunk!.hash), ['a', 'b']);
});

test('repair is paused, resumed and throttled by an operator', async (t) => {
  const k = await openCluster(t, { nodes: 2, factor: 2 });
  const node = k.node('b');
  node.chunks.pauseRepair();
  const chunks = await writeMany(k, 6, 100_000);
  for (const { hash } of chunks) fs.rmSync(node.path(hash));
  // Pausing takes effect after the unit under way; files of writes above may still be looked at in it.
  node.chunks.rescan();
  await until(() => node.chunks.workers()[0]!.state === 'paused', 'paused');
  assert.equal(k.holders(chunks[0]!.hash).length, 1);
  node.chunks.setRepairLimit(1000);
  node.chunks.resumeRepair();
  await until(
    () => node.chunks.workers()[0]!.doneBytes > 0 || node.chunks.figures().lackingChunks === 0,
    'a unit',
  );
  const status = node.chunks.workers()[0]!;
  assert.equal(status.bytesPerSecondMax, 1000);
  await until(
    () => k.holders(chunks[5]!.hash).length === 2 && node.chunks.figures().lackingChunks === 0,
    'all are back',
    () => k.clock.advance(MINUTE),
  );
});

test('ten thousand chunks are scanned page by page, with a bounded list of what is lacking', async (t) => {
  const k = await openCluster(t, { nodes: 2, factor: 2, lackingMax: 500 });
  const [a, node] = [k.node('a'), k.node('b')];
  const chunks = Array.from({ length: 10_000 }, () => {
    const data = randomBytes(64);
    return { hash: hashOf(data), data };
  });
  await a.chunks.settle(chunks);
  node.chunks.pauseRepair();
  for (const { hash } of chunks) k.addRow(hash, 64);
  node.chunks.rescan();
  node.chunks.resumeRepair();
  let most = 0;
  let listed = 0;
  await until(() => {
    const { lackingChunks, complete } = node.chunks.figures();
    listed = Math.max(listed, node.chunks.lacking(0, 100_000).chunks.length);
    most = Math.max(most, lackingChunks);
    return complete && lackingChunks === 0;
  }, 'all are here');
  assert.ok(listed <= 500, `${listed} in memory`);
  assert.ok(most > 5000, `${most} were counted`);
  for (const { hash, data } of chunks) assert.ok(Buffer.from(node.chunks.readSmall(hash)!).equals(data));
});
