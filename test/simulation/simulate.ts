/**
 * Runs simulations: `npm run simulate -- --seed N [--seeds M]`. With one seed it tells the whole story; with more it
 * tells only of failures. `--requests` tells each request too, `--metadata` runs on the real metadata (SQLite).
 */

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { memoryStorage } from './memory-storage.ts';
import { metadataStorage } from './metadata-storage.ts';
import { simulate } from './run.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    metadata: { type: 'boolean', default: false },
    requests: { type: 'boolean', default: false },
    'faults-ms': { type: 'string', default: '30000' },
  },
});
const first = Number(values.seed);
const count = Number(values.seeds);
const root = mkdtempSync(path.join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'warren-simulation-'));
let failed = 0;
const sums = { answered: 0, simulatedMs: 0, crashes: 0, leaders: 0, forks: 0, copies: 0 };
try {
  for (let seed = first; seed < first + count; seed++) {
    const result = await simulate({
      seed,
      faultsMs: Number(values['faults-ms']),
      requests: values.requests,
      storage: (world, id, members) =>
        values.metadata
          ? metadataStorage(path.join(root, String(seed)), world, id, members)
          : memoryStorage(path.join(root, String(seed)), id, members),
      ...(count === 1 ? { say: (line: string) => console.log(line) } : {}),
    });
    rmSync(path.join(root, String(seed)), { recursive: true, force: true });
    sums.answered += result.answered;
    sums.simulatedMs += result.simulatedMs;
    for (const key of ['crashes', 'leaders', 'forks', 'copies'] as const) sums[key] += result.events[key];
    if (result.failures.length === 0) continue;
    failed++;
    console.log(`seed ${seed} (${result.kind}) failed:\n  ${result.failures.join('\n  ')}`);
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
console.log(`${count} seeds, ${failed} failed; ${JSON.stringify(sums)}`);
process.exitCode = failed === 0 ? 0 : 1;
