import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { BLOCK_BYTES, OLD_BLOCK_BYTES } from '../../daemon/chunks/layout.ts';
import { type Fixture, openFixture, readChunk } from './harness.ts';

const MAX = 4 * 1024 * 1024;

function change<Result>(f: Fixture, work: (database: DatabaseSync) => Result): Result {
  const database = new DatabaseSync(join(f.directory, 'small.db'));
  try {
    return work(database);
  } finally {
    database.close();
  }
}

/** Hash, size and bytes of the table of each chunk file. */
function tables(f: Fixture) {
  return change(f, (database) => database.prepare('SELECT hash, size, sums FROM block_sums').all());
}

test('after a restart a read verifies its own blocks and leaves the rest of the chunk alone', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(MAX);
  const hash = await f.store.store(body);
  f.store.unpin(hash);
  await f.reopen();
  f.flip(hash, MAX - 1);
  const good = await readChunk(f.store, hash, { size: MAX, offset: 5000, length: 40_000 });
  assert.ok(good.equals(body.subarray(5000, 45_000)));
  assert.equal(f.damage.length, 0);
  await assert.rejects(readChunk(f.store, hash, { size: MAX, offset: MAX - 4096 }), { code: 'EIO' });
  assert.equal(f.damage[0]!.hash, hash);
  assert.deepEqual(f.quarantined(), [`${hash}.1`]);
});

for (const hurt of ['lost', 'wrong', 'too short'] as const) {
  test(`a checksum table that is ${hurt} never condemns a good chunk and is made anew`, async (t) => {
    const f = await openFixture(t);
    const body = randomBytes(10 * BLOCK_BYTES + 7);
    const size = body.length;
    const hash = await f.store.store(body);
    await f.store.close();
    const before = tables(f);
    change(f, (database) => {
      if (hurt === 'lost') database.exec('DELETE FROM block_sums');
      else if (hurt === 'wrong') database.exec('UPDATE block_sums SET sums = randomblob(length(sums))');
      else database.exec("UPDATE block_sums SET sums = x'01020304'");
    });
    // The fixture closes what it opened; this one is closed already.
    f.store = { ...f.store, close: () => Promise.resolve() };
    await f.reopen();
    for (let offset = 0; offset < size; offset += 9000) {
      const length = Math.min(9000, size - offset);
      const part = await readChunk(f.store, hash, { size, offset, length });
      assert.ok(part.equals(body.subarray(offset, offset + length)));
    }
    assert.deepEqual(f.damage, []);
    assert.ok(fs.existsSync(f.path(hash)));
    await f.reopen();
    assert.deepEqual(tables(f), before);
  });
}

test('a table with the larger blocks of an earlier version still verifies reads', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(MAX - 5000);
  const hash = await f.store.store(body);
  await f.store.close();
  const old = Uint32Array.from({ length: Math.ceil(body.length / OLD_BLOCK_BYTES) }, (_, block) =>
    crc32(body.subarray(block * OLD_BLOCK_BYTES, (block + 1) * OLD_BLOCK_BYTES)),
  );
  change(f, (database) => database.prepare('UPDATE block_sums SET sums = ?').run(new Uint8Array(old.buffer)));
  f.store = { ...f.store, close: () => Promise.resolve() };
  await f.reopen();
  f.flip(hash, body.length - 1);
  const good = await readChunk(f.store, hash, { size: body.length, offset: 20_000, length: 100_000 });
  assert.ok(good.equals(body.subarray(20_000, 120_000)));
  assert.equal(f.damage.length, 0);
  assert.equal(new Uint8Array(old.buffer).length, (tables(f)[0]!['sums'] as Uint8Array).length);
  const damaged = { size: body.length, offset: body.length - 4096 };
  await assert.rejects(readChunk(f.store, hash, damaged), { code: 'EIO' });
});

test('a short read at once needs the open file and the table, and never answers damaged bytes', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(MAX);
  const hash = await f.store.store(body);
  f.store.unpin(hash);
  await f.reopen();
  const chunk = { hash, size: MAX };
  const target = Buffer.alloc(5000);
  assert.equal(f.store.readAtOnce(chunk, 7000, target), false);
  await f.store.read(chunk, 0, Buffer.alloc(1));
  // A machine so busy that a read from the page cache takes milliseconds sends it to a thread instead.
  while (!f.store.readAtOnce(chunk, 7000, target)) await setImmediate();
  assert.ok(target.equals(body.subarray(7000, 12_000)));
  assert.equal(f.store.readAtOnce(chunk, 0, Buffer.alloc(64 * 1024)), false);
  assert.equal(f.store.readAtOnce({ hash, size: MAX - 1 }, 0, target), false);
  f.flip(hash, 8000);
  assert.equal(f.store.readAtOnce(chunk, 7000, target), false);
  assert.equal(f.damage.length, 0);
  await assert.rejects(f.store.read(chunk, 7000, target), { code: 'EIO' });
  assert.equal(f.damage[0]!.hash, hash);
});

test('a removed chunk takes its checksum table along', async (t) => {
  const f = await openFixture(t);
  const kept = await f.store.store(randomBytes(100_000));
  const gone = await f.store.store(randomBytes(100_000));
  await f.reopen();
  assert.equal(tables(f).length, 2);
  await f.store.remove([gone]);
  await f.reopen();
  assert.deepEqual(
    tables(f).map((row) => Buffer.from(row['hash'] as Uint8Array).toString('hex')),
    [kept],
  );
});

test('a small.db of version 1 is brought to version 2, and its chunks are read and get their tables', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(100_000);
  const hash = await f.store.store(body);
  await f.store.close();
  const before = tables(f);
  change(f, (database) => database.exec('DROP TABLE block_sums; PRAGMA user_version = 1'));
  f.store = { ...f.store, close: () => Promise.resolve() };
  await f.reopen();
  assert.ok((await readChunk(f.store, hash, { size: 100_000 })).equals(body));
  await f.reopen();
  assert.deepEqual(tables(f), before);
});

test('equal content stored again and again is compared again as soon as its file was touched', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(300_000);
  let hash = await f.store.store(body);
  for (let round = 0; round < 5; round += 1) hash = await f.store.store(body);
  const inode = fs.statSync(f.path(hash)).ino;
  assert.deepEqual(f.quarantined(), []);
  f.flip(hash, 123_456);
  await f.store.store(body);
  assert.notEqual(fs.statSync(f.path(hash)).ino, inode);
  assert.ok(fs.readFileSync(f.path(hash)).equals(body));
  assert.deepEqual(f.quarantined(), [`${hash}.1`]);
});
