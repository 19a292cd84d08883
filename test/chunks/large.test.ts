import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { hashOf, openFixture, pushOutOfMemory, readChunk } from './harness.ts';

const BLOCK = 64 * 1024;
const MAX = 4 * 1024 * 1024;
const EIO = { code: 'EIO' };

test('bodies of every size around the block borders come back whole and in any range', async (t) => {
  const f = await openFixture(t);
  const sizes = [0, 1, 4095, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 5 * BLOCK + 77, MAX - 1, MAX];
  const bodies = sizes.map((size) => randomBytes(size));
  const hashes = await Promise.all(bodies.map((body) => f.store.store(body)));
  for (const pass of ['stored here', 'first touch', 'from memory or by blocks']) {
    if (pass === 'first touch') await f.reopen();
    for (const [index, body] of bodies.entries()) {
      const hash = hashes[index]!;
      const size = body.length;
      assert.equal(hash, hashOf(body));
      assert.ok((await readChunk(f.store, hash, { size })).equals(body), `${size} bytes, ${pass}`);
      await pushOutOfMemory(f.store);
      for (let round = 0; round < 20; round += 1) {
        const near = Math.floor((Math.random() * size) / BLOCK) * BLOCK + Math.floor(Math.random() * 3) - 1;
        const offset = Math.max(0, Math.min(round % 2 === 0 ? near : Math.floor(Math.random() * size), size));
        const length = Math.min(size - offset, [1, 4096, BLOCK, BLOCK + 1, 1 << 20][round % 5]!);
        const part = await readChunk(f.store, hash, { size, offset, length });
        assert.ok(
          part.equals(body.subarray(offset, offset + length)),
          `${size}: ${length} at ${offset}, ${pass}`,
        );
      }
    }
  }
  assert.deepEqual(f.damage, []);
  assert.deepEqual(f.leftovers(), []);
});

test('equal content is stored once, from shared memory too', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(300_000);
  const shared = Buffer.from(new SharedArrayBuffer(400_000)).subarray(50_000, 350_000);
  body.copy(shared);
  const hashes = await Promise.all([f.store.store(body), f.store.store(shared), f.store.store(body)]);
  assert.deepEqual(new Set(hashes), new Set([hashOf(body)]));
  const inode = fs.statSync(f.path(hashOf(body))).ino;
  await f.store.store(shared);
  await f.reopen();
  await f.store.store(shared);
  assert.equal(fs.statSync(f.path(hashOf(body))).ino, inode);
  assert.ok(fs.readFileSync(f.path(hashOf(body))).equals(body));
  assert.deepEqual(await Array.fromAsync(f.store.listLarge()), [{ hash: hashOf(body), size: 300_000 }]);
  assert.deepEqual(f.leftovers(), []);
});

for (const when of ['before', 'after'] as const) {
  test(`a flipped, truncated or missing chunk is EIO ${when} its first touch, set aside and reported`, async (t) => {
    const f = await openFixture(t);
    for (const hurt of ['flip', 'truncate', 'grow', 'delete'] as const) {
      f.damage.length = 0;
      const body = randomBytes(MAX);
      const hash = await f.store.store(body);
      const whole = { hash, size: MAX };
      if (when === 'before') await f.reopen();
      else await pushOutOfMemory(f.store);
      if (hurt === 'flip') f.flip(hash, 70_000);
      else if (hurt === 'truncate') fs.truncateSync(f.path(hash), 69_000);
      else if (hurt === 'grow') fs.appendFileSync(f.path(hash), 'x');
      else fs.rmSync(f.path(hash));
      // After the first touch only the blocks that are read are looked at again.
      if (when === 'after' && hurt === 'grow') continue;
      assert.notEqual((await f.store.verify(whole)).kind, 'ok');
      await assert.rejects(readChunk(f.store, hash, { size: MAX, offset: BLOCK, length: 8192 }), EIO);
      await assert.rejects(readChunk(f.store, hash, { size: MAX }), EIO);
      assert.equal(f.damage[0]!.hash, hash);
      assert.equal(fs.existsSync(f.path(hash)), false, hurt);
      assert.equal(f.quarantined().includes(`${hash}.1`), hurt !== 'delete');
      assert.equal(await f.store.store(body), hash);
      assert.ok((await readChunk(f.store, hash, { size: MAX })).equals(body));
    }
  });
}

test('a wrong size in the question is EIO and leaves the good chunk where it is', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(100_000);
  const hash = await f.store.store(body);
  await assert.rejects(readChunk(f.store, hash, { size: 99_999 }), EIO);
  await assert.rejects(readChunk(f.store, hash, { size: 100_001 }), EIO);
  assert.ok((await readChunk(f.store, hash, { size: 100_000 })).equals(body));
  assert.deepEqual(f.quarantined(), []);
});

test('storing over a damaged file sets it aside and writes it anew', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(200_000);
  const hash = await f.store.store(body);
  f.flip(hash, 199_999);
  await f.store.store(body);
  fs.truncateSync(f.path(hash), 10);
  await f.store.store(body);
  assert.ok(fs.readFileSync(f.path(hash)).equals(body));
  assert.deepEqual(f.quarantined(), [`${hash}.1`, `${hash}.2`]);
  assert.equal(f.damage.length, 2);
});

test('many readers of one untouched chunk share one check, and all get its bytes', async (t) => {
  const f = await openFixture(t);
  const bodies = Array.from({ length: 12 }, () => randomBytes(500_000));
  const hashes = await Promise.all(bodies.map((body) => f.store.store(body)));
  await f.reopen();
  for (const hash of hashes) f.store.prefetch({ hash, size: 500_000 });
  const reads = bodies.flatMap((body, index) =>
    Array.from({ length: 20 }, async (_, part) => {
      const range = { size: 500_000, offset: part * 25_000, length: 25_000 };
      const data = await readChunk(f.store, hashes[index]!, range);
      assert.ok(data.equals(body.subarray(range.offset, range.offset + 25_000)));
    }),
  );
  await Promise.all(reads);
});

test('a pinned chunk stays, each pin counts, and an unpinned one goes', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(100_000);
  const hash = await f.store.store(body);
  await f.store.store(body);
  assert.deepEqual(await f.store.remove([hash]), []);
  f.store.unpin(hash);
  assert.deepEqual(await f.store.remove([hash]), []);
  f.store.unpin(hash);
  const stored = await f.store.stat(hash);
  assert.equal(stored?.home, 'large');
  assert.equal(stored.size, 100_000);
  assert.deepEqual(await f.store.remove([hash]), [hash]);
  assert.equal(await f.store.stat(hash), undefined);
  assert.deepEqual(await f.store.verify({ hash, size: 100_000 }), { kind: 'missing' });
  assert.deepEqual(await f.store.remove([hash]), [hash]);
  assert.throws(() => f.store.unpin(hash), /pinned/);
});

test('stores and removals of the same few chunks at once never lose a pinned one', async (t) => {
  const f = await openFixture(t);
  const bodies = Array.from({ length: 3 }, () => randomBytes(70_000));
  const hashes = bodies.map(hashOf);
  let removals = 0;
  const storer = async (index: number) => {
    for (let round = 0; round < 40; round += 1) {
      const which = (index + round) % bodies.length;
      const hash = await f.store.store(bodies[which]!);
      assert.ok(fs.readFileSync(f.path(hash)).equals(bodies[which]!));
      assert.ok((await readChunk(f.store, hash, { size: 70_000 })).equals(bodies[which]!));
      f.store.unpin(hash);
    }
  };
  const storing = { on: true };
  const remover = async () => {
    while (storing.on) {
      removals += (await f.store.remove(hashes)).length;
      // A removal that finds all pinned waits for nothing, and the stores need the event loop.
      await new Promise(setImmediate);
    }
  };
  const stores = Promise.all([storer(0), storer(1), storer(2), storer(0)]).finally(
    () => (storing.on = false),
  );
  await Promise.all([stores, remover()]);
  assert.ok(removals > 0);
  assert.deepEqual(f.damage, []);
});

test('what a killed daemon left in tmp is cleared at the next start', async (t) => {
  const f = await openFixture(t);
  fs.writeFileSync(join(f.directory, 'tmp', '17'), 'half a chunk');
  await f.reopen();
  assert.deepEqual(f.leftovers(), []);
  await f.store.store(randomBytes(100_000));
});
