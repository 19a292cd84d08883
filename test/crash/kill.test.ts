/**
 * SIGKILL of the daemon at random moments under a mixed load. After each restart fsck is clean and everything that
 * close or fsync acknowledged is right, in this round's files and in those of the round before.
 *
 * `npm run test:kill -- --rounds 200`, or WARREN_KILL_ROUNDS, for more than the default rounds.
 */

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyLoad } from '../support/load.ts';
import { startLoad } from '../support/load-process.ts';
import { startDaemon } from '../support/target.ts';

const rounds = Number(argument('--rounds') ?? process.env['WARREN_KILL_ROUNDS'] ?? '10');
const seed = Number(argument('--seed') ?? process.env['WARREN_SEED'] ?? Date.now() % 100_000);
const ROUND_TIMEOUT_MS = 120_000;
const LINES_MAX = 600;

function argument(name: string): string | undefined {
  const index = process.argv.indexOf(name);
  return index < 0 ? undefined : process.argv[index + 1];
}

test(`${rounds} times kill -9 loses nothing that close acknowledged (seed ${seed})`, {
  timeout: rounds * ROUND_TIMEOUT_MS,
}, async (context) => {
  const journals = mkdtempSync(join(tmpdir(), 'warren-journal-'));
  try {
    await using daemon = await startDaemon();
    for (let round = 0; round < rounds; round += 1) {
      const place = (number: number): { directory: string; journal: string } => ({
        directory: join(daemon.mount, `round-${number}`),
        journal: join(journals, `${number}.jsonl`),
      });
      const now = place(round);
      mkdirSync(now.directory);
      await using load = startLoad({ ...now, seed: seed + round });
      await load.reached(20 + ((seed * 31 + round * 7919) % LINES_MAX));
      await daemon.kill();
      await load.ended();
      daemon.fsck();
      await daemon.restart();
      let files = verifyLoad(now.directory, now.journal, 'close');
      if (round > 0) {
        const before = place(round - 1);
        files += verifyLoad(before.directory, before.journal, 'close');
        rmSync(before.directory, { recursive: true });
      }
      context.diagnostic(`round ${round + 1}: ${files} files right`);
    }
    await daemon.stop();
    daemon.fsck();
  } finally {
    rmSync(journals, { recursive: true, force: true });
  }
});
