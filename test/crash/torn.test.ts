/**
 * Power cuts on a disk that drops and tears what was not synced: Warren works under load on a real file system on a
 * recorded disk, and images of cuts at random moments are started without help. All that fsync acknowledged by
 * then is right, the rest is old or new, never mixed, and fsck is clean.
 *
 * The second round starts from a cut of the first one, so that the start after a cut is cut too.
 * `WARREN_TORN_CUTS` cuts a round and file system (default 3) after `WARREN_TORN_LINES` lines of the load's journal
 * (default 300; from some thousand on, there are checkpoints under load); `WARREN_SEED` runs the same again.
 */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyLoad } from '../support/load.ts';
import { startLoad } from '../support/load-process.ts';
import { openRecordedDisk, withMounted } from '../support/recorded-disk.ts';
import { startDaemon } from '../support/target.ts';

const cuts = Number(process.env['WARREN_TORN_CUTS'] ?? '3');
const seed = Number(process.env['WARREN_SEED'] ?? Date.now() % 100_000);
const loadLines = Number(process.env['WARREN_TORN_LINES'] ?? '300');
const ROUNDS = 2;
const DISK_MEGABYTES = 400;
const TIMEOUT_MS = 120_000;
const CUT_TIMEOUT_MS = 30_000;

function randomFrom(start: number): () => number {
  let state = start * 2 + 1;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    // The low bits of such a generator are not random.
    return Math.floor(state / 256) / 2 ** 24;
  };
}

for (const type of ['ext4', 'xfs'] as const) {
  test(`Warren on ${type} starts without help from ${ROUNDS * cuts} torn disks, with all that fsync acknowledged (seed ${seed})`, {
    timeout: TIMEOUT_MS + ROUNDS * cuts * CUT_TIMEOUT_MS,
  }, async (context) => {
    await using disk = openRecordedDisk(type, DISK_MEGABYTES);
    const journals = mkdtempSync(join(tmpdir(), 'warren-journal-'));
    try {
      const random = randomFrom(seed);
      /** What the load was promised in the rounds before, as of the cut that this one began with. */
      let known: { name: string; journal: string }[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        const name = `round-${round}`;
        const journal = join(journals, `${name}.jsonl`);
        const directory = join(disk.directory, 'warren');
        const record = await disk.recordUntil(journal, async () => {
          await using daemon = await startDaemon({ directory });
          mkdirSync(join(daemon.mount, name));
          {
            await using load = startLoad({
              directory: join(daemon.mount, name),
              journal,
              seed: seed + round,
            });
            await load.reached(loadLines);
          }
          // An orderly end, so that checkpoints and what they leave behind are cut too.
          await daemon.stop();
        });
        const lines = readFileSync(journal);
        for (let cut = 0; cut < cuts; cut++) {
          const image = disk.copy();
          const made = record.cut(image, Math.floor(random() * record.events), random);
          context.diagnostic(`round ${round}: ${made.what}`);
          const journalThen = join(journals, `${name}-${cut}.jsonl`);
          writeFileSync(journalThen, lines.subarray(0, made.journalBytes));
          const promised = [...known, { name, journal: journalThen }];
          const isLast = cut === cuts - 1;
          if (isLast) disk.replace(image);
          try {
            await withMounted(image, disk.directory, async () => {
              await using daemon = await startDaemon({ directory });
              for (const each of promised) verifyLoad(join(daemon.mount, each.name), each.journal, 'fsync');
              await daemon.stop();
              daemon.fsck();
            });
          } catch (error) {
            throw new Error(`round ${round}, cut ${cut}: ${made.what}: ${String(error)}`, { cause: error });
          }
          rmSync(image);
          if (isLast) known = promised;
        }
      }
    } finally {
      rmSync(journals, { recursive: true, force: true });
    }
  });
}
