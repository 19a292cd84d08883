/** A disk that is full, read-only or broken: a small ext4 image on a loop device. Needs root. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { FsError } from '../../daemon/protocol/errors.ts';
import { requirePackage, requireRoot } from '../support/requirements.ts';
import { hashOf, openFixture, readChunk, smallChunk } from './harness.ts';

const MiB = 1024 * 1024;

function mountDisk(): { mount: string; release(): void } {
  requireRoot();
  requirePackage('mkfs.ext4', 'e2fsprogs');
  const parent = fs.mkdtempSync(join(tmpdir(), 'warren-disk-'));
  const image = join(parent, 'image');
  const mount = join(parent, 'mount');
  fs.mkdirSync(mount);
  fs.writeFileSync(image, '');
  fs.truncateSync(image, 64 * MiB);
  execFileSync('mkfs.ext4', ['-q', '-m', '0', image]);
  execFileSync('mount', ['-o', 'loop', image, mount]);
  return {
    mount,
    release() {
      execFileSync('umount', [mount]);
      fs.rmSync(parent, { recursive: true });
    },
  };
}

test('a disk that fills up refuses chunks while the reserve is free, and takes them again', async (t) => {
  const disk = mountDisk();
  const f = await openFixture(t, disk);
  const stored: Buffer[] = [];
  await assert.rejects(
    async () => {
      for (let index = 0; index < 32; index += 1) {
        const body = randomBytes(4 * MiB);
        await f.store.store(body);
        stored.push(body);
      }
    },
    { name: 'FsError', code: 'ENOSPC' },
  );
  assert.ok(stored.length >= 5);
  assert.ok(f.store.usage().diskFreeBytes >= 8 * MiB);
  assert.throws(() => f.store.reserve(16 * MiB), { code: 'ENOSPC' });
  for (const body of stored) {
    assert.ok((await readChunk(f.store, hashOf(body), { size: body.length })).equals(body));
    f.store.unpin(hashOf(body));
  }
  assert.equal((await f.store.remove(stored.map(hashOf))).length, stored.length);
  execFileSync('sync');
  f.store.reserve(16 * MiB);
  await f.store.store(stored[0]!);
});

test('ENOSPC from the disk itself fails the store, leaves no temporary file, and the store goes on', async (t) => {
  const disk = mountDisk();
  const f = await openFixture(t, disk);
  // The guard's answer is a moment old when somebody else takes the space.
  f.store.usage();
  const filler = join(disk.mount, 'filler');
  assert.throws(() => fs.writeFileSync(filler, randomBytes(64 * MiB)), { code: 'ENOSPC' });
  const body = randomBytes(4 * MiB);
  await assert.rejects(f.store.store(body), { code: 'ENOSPC' });
  const settled = await f.store.settle(Array.from({ length: 100 }, () => smallChunk(60_000))).catch((e) => e);
  assert.ok(settled instanceof FsError && settled.code === 'ENOSPC', String(settled));
  assert.deepEqual(f.leftovers(), []);
  fs.rmSync(filler);
  execFileSync('sync');
  await f.store.store(body);
  await f.store.settle([smallChunk(60_000)]);
});

test('a disk that turned read-only gives EROFS and still reads', async (t) => {
  const disk = mountDisk();
  const f = await openFixture(t, disk);
  const body = randomBytes(100_000);
  const hash = await f.store.store(body);
  // What ext4 does by itself after an error of the disk.
  execFileSync('mount', ['-o', 'remount,abort', disk.mount]);
  await assert.rejects(f.store.store(randomBytes(100_000)), { code: 'EROFS' });
  f.store.unpin(hash);
  await assert.rejects(f.store.remove([hash]), { code: 'EROFS' });
  assert.ok((await readChunk(f.store, hash, { size: body.length })).equals(body));
});
