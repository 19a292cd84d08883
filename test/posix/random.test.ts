/**
 * About 20,000 random operations from fixed seeds, compared with a plain directory. Longer runs: `random.ts`.
 * A seed that ever failed is added to SEEDS and stays.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runRandom } from '../support/model.ts';
import { openScenarios } from '../support/scenario.ts';

const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8];
const OPERATIONS_PER_SEED = 2500;

const scenario = await openScenarios();
for (const seed of SEEDS) {
  scenario(
    `${OPERATIONS_PER_SEED} random operations from seed ${seed} agree with a plain directory`,
    (at) => {
      const reference = mkdtempSync(join(tmpdir(), 'random-reference-'));
      try {
        runRandom({ seed, operations: OPERATIONS_PER_SEED, tested: at.root, reference });
      } finally {
        rmSync(reference, { recursive: true, force: true });
      }
    },
  );
}
