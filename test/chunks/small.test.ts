import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import test, { type TestContext } from 'node:test';
import { hashOf, openFixture, smallChunk } from './harness.ts';

function database(t: TestContext, directory: string): DatabaseSync {
  const db = new DatabaseSync(join(directory, 'small.db'));
  t.after(() => db.close());
  return db;
}

test('settled chunks are read back at once and after a restart, and settling again changes nothing', async (t) => {
  const f = await openFixture(t);
  const chunks = [1, 100, 4096, 65_535, 65_536].map(smallChunk);
  await Promise.all(chunks.map((chunk) => f.store.settle([chunk])));
  await f.store.settle(chunks);
  for (const { hash, data } of chunks) assert.deepEqual(Buffer.from(f.store.readSmall(hash)!), data);
  await f.reopen();
  for (const { hash, data } of chunks) {
    assert.deepEqual(Buffer.from(f.store.readSmall(hash)!), data);
    assert.deepEqual(await f.store.stat(hash), { home: 'small', size: data.length });
    assert.deepEqual(await f.store.verify({ hash, size: data.length }), { kind: 'ok' });
  }
  const listed = [...f.store.listSmall()].map(({ hash }) => hash);
  assert.deepEqual(listed, chunks.map(({ hash }) => hash).sort());
  assert.equal(f.store.readSmall(hashOf(randomBytes(9))), undefined);
});

test('a listing of more rows than one page has each row once', async (t) => {
  const f = await openFixture(t);
  const chunks = Array.from({ length: 2345 }, () => smallChunk(20));
  await f.store.settle(chunks);
  const listed = [...f.store.listSmall()];
  assert.equal(listed.length, 2345);
  assert.equal(new Set(listed.map(({ hash }) => hash)).size, 2345);
});

test('a flipped small chunk is EIO and reported; settling it again repairs it', async (t) => {
  const f = await openFixture(t);
  const chunk = smallChunk(5000);
  await f.store.settle([chunk]);
  const bad = Buffer.from(chunk.data);
  bad[17]! ^= 1;
  const hash = Buffer.from(chunk.hash, 'hex');
  database(t, f.directory).prepare('UPDATE small_chunk SET data = ? WHERE hash = ?').run(bad, hash);
  assert.throws(() => f.store.readSmall(chunk.hash), { code: 'EIO' });
  assert.equal((await f.store.verify({ hash: chunk.hash, size: 5000 })).kind, 'bad');
  assert.equal(f.damage[0]!.hash, chunk.hash);
  await f.store.settle([chunk]);
  assert.deepEqual(Buffer.from(f.store.readSmall(chunk.hash)!), chunk.data);
});

test('bytes that do not have their hash are refused and do not hold up the others', async (t) => {
  const f = await openFixture(t);
  const good = smallChunk(100);
  const wrong = { hash: hashOf(randomBytes(3)), data: randomBytes(100) };
  await assert.rejects(f.store.settle([wrong, good]), { code: 'EIO' });
  assert.ok(f.store.readSmall(good.hash));
  assert.equal(f.store.readSmall(wrong.hash), undefined);
});

test('removing takes small chunks too', async (t) => {
  const f = await openFixture(t);
  const chunks = [smallChunk(10), smallChunk(20)];
  await f.store.settle(chunks);
  assert.deepEqual(await f.store.remove([chunks[0]!.hash]), [chunks[0]!.hash]);
  assert.equal(f.store.readSmall(chunks[0]!.hash), undefined);
  assert.ok(f.store.readSmall(chunks[1]!.hash));
});
