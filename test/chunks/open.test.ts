import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import test, { type TestContext } from 'node:test';
import { openChunkStore } from '../../daemon/chunks/open.ts';
import { WarrenError } from '../../daemon/protocol/errors.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { silentLog, smallChunk } from './harness.ts';

function makeDirectory(t: TestContext): string {
  const directory = fs.mkdtempSync(join(tmpdir(), 'warren-chunks-'));
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function open(directory: string, more: { create?: boolean; rebuildSmallDb?: boolean } = {}) {
  return openChunkStore({ directory, log: silentLog, clock: systemClock(), ...more });
}

async function refused(directory: string, code: string): Promise<void> {
  await assert.rejects(open(directory), (error) => {
    assert.ok(error instanceof WarrenError, String(error));
    assert.equal(error.code, code);
    assert.ok(error.message.includes(directory));
    assert.ok(error.hint.length > 0);
    return true;
  });
}

test('a directory without a store is refused unless it shall be made', async (t) => {
  const directory = makeDirectory(t);
  await refused(directory, 'CHUNK_STORE_MISSING');
  await refused(join(directory, 'none'), 'CHUNK_STORE_MISSING');
  assert.deepEqual(fs.readdirSync(directory), []);
  await (await open(directory, { create: true })).close();
  await (await open(directory)).close();
});

test('a store that was only half made is finished', async (t) => {
  const directory = makeDirectory(t);
  await (await open(directory, { create: true })).close();
  fs.rmSync(join(directory, 'chunks'), { recursive: true });
  await (await open(directory, { create: true })).close();
  // A power cut in the making of small.db, as seen on a disk that lost what was not synced.
  const whole = fs.readFileSync(join(directory, 'small.db'));
  for (const left of [Buffer.alloc(0), whole.subarray(0, 4096), Buffer.alloc(4096)]) {
    fs.rmSync(join(directory, 'chunks'), { recursive: true });
    fs.writeFileSync(join(directory, 'small.db'), left);
    fs.writeFileSync(join(directory, 'small.db-journal'), Buffer.alloc(512));
    const store = await open(directory, { create: true });
    await store.settle([smallChunk(3000)]);
    await store.close();
    await (await open(directory)).close();
  }
});

test('a small.db that is missing, empty, damaged or newer is refused with its reason', async (t) => {
  const directory = makeDirectory(t);
  const path = join(directory, 'small.db');
  const store = await open(directory, { create: true });
  await store.settle(Array.from({ length: 50 }, () => smallChunk(3000)));
  await store.close();
  const good = fs.readFileSync(path);

  fs.rmSync(path);
  await refused(directory, 'SMALL_DB_MISSING');
  assert.equal(fs.existsSync(path), false);

  for (const damaged of [
    Buffer.alloc(0),
    Buffer.from('not a database'.repeat(500)),
    good.subarray(0, 9000),
  ]) {
    fs.writeFileSync(path, damaged);
    await refused(directory, 'SMALL_DB_DAMAGED');
  }

  fs.writeFileSync(path, good);
  const database = new DatabaseSync(path);
  database.exec('PRAGMA user_version = 3');
  database.close();
  await refused(directory, 'SMALL_DB_NEWER');
});

test('a lost or damaged small.db is rebuilt only when asked, and what was there is kept', async (t) => {
  const directory = makeDirectory(t);
  const path = join(directory, 'small.db');
  await (await open(directory, { create: true })).close();
  fs.writeFileSync(path, 'garbage'.repeat(5000));
  await (await open(directory, { rebuildSmallDb: true })).close();
  assert.match(fs.readFileSync(join(directory, 'quarantine', 'small.db.1'), 'utf8'), /^garbage/);
  fs.rmSync(path);
  const store = await open(directory, { rebuildSmallDb: true });
  const chunk = smallChunk(10);
  await store.settle([chunk]);
  await store.close();
  const again = await open(directory, { rebuildSmallDb: true });
  assert.ok(again.readSmall(chunk.hash));
  await again.close();
});
