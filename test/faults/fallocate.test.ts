/** fallocate is a promise: room that was set aside is there when the rest of the disk is full, also after a restart. */

import assert from 'node:assert/strict';
import { closeSync, fsyncSync, openSync, statfsSync, statSync, unlinkSync, writeSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { test } from 'node:test';
import { fallocate, outcome, pread } from '../support/libc.ts';
import { openLoopDisk } from '../support/loop-disk.ts';
import { startDaemon } from '../support/target.ts';

const MIB = 1024 * 1024;
const DISK_MIB = 400;
const PROMISED_BYTES = 60 * MIB;
const PIECES_BYTES = 4 * MIB;
const TIMEOUT_MS = 300_000;

/** Writes files of 1 MiB until one fails; answers the errno and the last path. */
function fill(directory: string, prefix: string): { code: string; written: number } {
  for (let index = 0; index < DISK_MIB; index += 1) {
    const fd = openSync(join(directory, `${prefix}-${index}`), 'w');
    const code = outcome(() => {
      writeSync(fd, randomBytes(MIB));
      fsyncSync(fd);
    });
    closeSync(fd);
    if (code !== 'ok') return { code, written: index };
  }
  return { code: 'ok', written: DISK_MIB };
}

test('what fallocate set aside can be written on a full disk, also after a restart', {
  timeout: TIMEOUT_MS,
}, async () => {
  using disk = openLoopDisk('ext4', DISK_MIB);
  await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
  const free = (): number => statfsSync(daemon.mount).bavail * statfsSync(daemon.mount).bsize;
  const path = join(daemon.mount, 'promised');
  const before = free();
  let fd = openSync(path, 'w');
  fallocate(fd, 0, 0, PROMISED_BYTES);
  closeSync(fd);
  assert.equal(statSync(path).size, PROMISED_BYTES);
  assert.equal(statSync(path).blocks * 512, PROMISED_BYTES);
  assert.ok(before - free() >= PROMISED_BYTES, 'statfs counts it as used');

  const filled = fill(daemon.mount, 'other');
  assert.equal(filled.code, 'ENOSPC');
  fd = openSync(join(daemon.mount, 'more'), 'w');
  assert.equal(
    outcome(() => fallocate(fd, 0, 0, PROMISED_BYTES)),
    'ENOSPC',
    'it is not promised twice',
  );
  closeSync(fd);
  await daemon.stop();
  await daemon.restart();
  assert.equal(fill(daemon.mount, 'again').code, 'ENOSPC', 'the promise survived the restart');

  fd = openSync(path, 'r+');
  const data = randomBytes(MIB);
  // Small pieces first, with a sync each MiB: they cost rows and log entries beside their bytes.
  for (let offset = 0; offset < PIECES_BYTES; offset += 4096) {
    writeSync(fd, data, offset % MIB, 4096, offset);
    if (offset % MIB === 0) fsyncSync(fd);
  }
  for (let offset = PIECES_BYTES; offset < PROMISED_BYTES; offset += MIB) {
    data.writeUInt32LE(offset);
    writeSync(fd, data, 0, MIB, offset);
    fsyncSync(fd);
  }
  const read = Buffer.alloc(MIB);
  pread(fd, read, PROMISED_BYTES - MIB);
  assert.ok(read.equals(data));
  closeSync(fd);
  unlinkSync(path);
  await daemon.stop();
  daemon.fsck();
});
