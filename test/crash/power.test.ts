/**
 * Power cuts. The disk under the data directory loses everything that was not synced; after a restart without help
 * all that fsync acknowledged is right and the rest is old or new, never mixed.
 *
 * The first test checks the means: a plain program on the same disk, with the same load and the same check.
 */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyLoad } from '../support/load.ts';
import { startLoad } from '../support/load-process.ts';
import { openLoopDisk } from '../support/loop-disk.ts';
import { startDaemon } from '../support/target.ts';

const rounds = Number(process.env['WARREN_POWER_ROUNDS'] ?? '3');
const seed = Number(process.env['WARREN_SEED'] ?? Date.now() % 100_000);
const DISK_MEGABYTES = 700;
const TIMEOUT_MS = 180_000;

for (const type of ['ext4', 'xfs'] as const) {
  test(`a power cut on ${type} drops what was not synced and keeps what was`, {
    timeout: TIMEOUT_MS,
  }, async () => {
    using disk = openLoopDisk(type, DISK_MEGABYTES);
    const journals = mkdtempSync(join(tmpdir(), 'warren-journal-'));
    try {
      const directory = join(disk.directory, 'load');
      const journal = join(journals, 'plain.jsonl');
      mkdirSync(directory);
      await using load = startLoad({ directory, journal, seed, careful: true });
      await load.reached(300);
      writeFileSync(join(disk.directory, 'unsynced'), 'gone with the power');
      disk.cutPower();
      await load.ended();
      disk.remount();
      const unsynced = join(disk.directory, 'unsynced');
      assert.ok(
        !existsSync(unsynced) || readFileSync(unsynced, 'utf8') === '',
        'the cut must drop unsynced bytes',
      );
      assert.ok(verifyLoad(directory, journal, 'fsync', { looseTails: true }) > 5);
    } finally {
      rmSync(journals, { recursive: true, force: true });
    }
  });

  test(`Warren on ${type} keeps all that fsync acknowledged through ${rounds} power cuts (seed ${seed})`, {
    timeout: rounds * TIMEOUT_MS,
  }, async () => {
    using disk = openLoopDisk(type, DISK_MEGABYTES);
    const journals = mkdtempSync(join(tmpdir(), 'warren-journal-'));
    try {
      await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
      for (let round = 0; round < rounds; round += 1) {
        const directory = join(daemon.mount, `round-${round}`);
        const journal = join(journals, `${round}.jsonl`);
        mkdirSync(directory);
        await using load = startLoad({ directory, journal, seed: seed + round });
        await load.reached(50 + ((seed * 31 + round * 7919) % 500));
        disk.cutPower();
        await daemon.kill();
        await load.ended();
        daemon.detach();
        disk.remount();
        await daemon.restart();
        verifyLoad(directory, journal, 'fsync');
        await daemon.stop();
        daemon.fsck();
        await daemon.restart();
        rmSync(directory, { recursive: true });
      }
    } finally {
      rmSync(journals, { recursive: true, force: true });
    }
  });
}
