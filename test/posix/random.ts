/**
 * Random operations by hand: `node test/posix/random.ts --seed N --operations M --dir DIR [--rounds R]` compares
 * DIR (in a Warren mount, say) with a directory on the machine's own disk, for seeds N to N+R-1.
 */

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runRandom } from '../support/model.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    operations: { type: 'string', default: '20000' },
    rounds: { type: 'string', default: '1' },
    dir: { type: 'string' },
  },
});
if (values.dir === undefined) {
  process.stderr.write('usage: random.ts --seed N --operations M --rounds R --dir DIR\n');
  process.exit(2);
}
process.umask(0o022);
for (let round = 0; round < Number(values.rounds); round += 1) {
  const seed = Number(values.seed) + round;
  mkdirSync(values.dir, { recursive: true });
  const tested = mkdtempSync(join(values.dir, 'random-'));
  const reference = mkdtempSync(join(tmpdir(), 'random-reference-'));
  const start = performance.now();
  try {
    runRandom({ seed, operations: Number(values.operations), tested, reference });
  } finally {
    rmSync(tested, { recursive: true, force: true });
    rmSync(reference, { recursive: true, force: true });
  }
  const perSecond = Math.round(Number(values.operations) / ((performance.now() - start) / 1000));
  process.stdout.write(`seed ${seed}: ${values.operations} operations agree, ${perSecond} a second\n`);
}
