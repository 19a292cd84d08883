import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { memoryStorage } from './memory-storage.ts';
import { metadataStorage } from './metadata-storage.ts';
import { type RunResult, simulate } from './run.ts';

const SEEDS = 200;
const METADATA_SEEDS = 5;
/** Seeds that once failed, with the length of their faults. */
const FAILED_ONCE: readonly { readonly seed: number; readonly faultsMs: number }[] = [
  { seed: 43, faultsMs: 20_000 },
  { seed: 63, faultsMs: 20_000 },
  { seed: 183, faultsMs: 20_000 },
  { seed: 3028, faultsMs: 20_000 },
  { seed: 3128, faultsMs: 20_000 },
];

async function run(seed: number, faultsMs: number, real = false, lines?: string[]): Promise<RunResult> {
  const parent = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
  const root = mkdtempSync(join(parent, 'warren-simulation-'));
  try {
    return await simulate({
      seed,
      faultsMs,
      storage: (world, id, members) =>
        real ? metadataStorage(root, world, id, members) : memoryStorage(root, id, members),
      ...(lines === undefined ? {} : { say: (line: string) => void lines.push(line), requests: true }),
    });
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

function holds(seed: number, faultsMs: number, { kind, failures }: RunResult): void {
  const again = `npm run simulate -- --seed ${seed} --faults-ms ${faultsMs}`;
  assert.deepEqual(failures, [], `seed ${seed} (${kind}); ${again}`);
}

test(`${SEEDS} seeds of faults: nothing acknowledged is lost or done twice, and the nodes come together`, async () => {
  let answered = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const result = await run(seed, 5000);
    holds(seed, 5000, result);
    answered += result.answered;
  }
  assert.ok(answered > SEEDS * 20, `the clients did something (${answered} changes)`);
});

test('seeds that once failed', async () => {
  for (const { seed, faultsMs } of FAILED_ONCE) holds(seed, faultsMs, await run(seed, faultsMs));
});

test('the real metadata joins, follows, dies and comes together', async () => {
  for (let seed = 1; seed <= METADATA_SEEDS; seed++) holds(seed, 10_000, await run(seed, 10_000, true));
});

test('a seed is replayed exactly', async () => {
  const stories: string[][] = [];
  for (let round = 0; round < 2; round++) {
    const lines: string[] = [];
    await run(4, 8000, false, lines);
    stories.push(lines);
  }
  assert.ok(stories[0]!.length > 100);
  assert.deepEqual(stories[0], stories[1]);
});
