/**
 * Runs the tests: `node test/run.ts --fast` (under three minutes) or `--all`; more words are names of groups.
 *
 * One `node --test` for the whole list, so that its summary ("# pass N") closes the output; durations of the
 * files stand before it. Groups run in order, cheap ones first. Two files run at a time: each starts a daemon of
 * its own. Crash and fault tests use loop devices and may run beside others.
 */

import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';

const ROOT = dirname(import.meta.dirname);
const CONCURRENT_FILES = 2;
const FAST_KILL_ROUNDS = '3';

/** Folders below test/, in the order they run; `fast` ones belong to --fast. */
const GROUPS: { name: string; pattern: string; fast: boolean }[] = [
  { name: 'tidy', pattern: 'test/tidy.test.ts', fast: true },
  // Every test file that no other group names.
  { name: 'unit', pattern: 'test/**/*.test.ts', fast: true },
  { name: 'fuse', pattern: 'test/fuse/**/*.test.ts', fast: true },
  { name: 'posix', pattern: 'test/posix/**/*.test.ts', fast: true },
  { name: 'faults', pattern: 'test/faults/**/*.test.ts', fast: false },
  { name: 'kill', pattern: 'test/crash/{load,kill}.test.ts', fast: true },
  { name: 'power', pattern: 'test/crash/{power,torn}.test.ts', fast: false },
  { name: 'programs', pattern: 'test/programs/**/*.test.ts', fast: false },
  { name: 'simulation', pattern: 'test/simulation/**/*.test.ts', fast: false },
  { name: 'cluster', pattern: 'test/cluster/{basics,failover}.test.ts', fast: false },
];

const { values, positionals } = parseArgs({
  options: { fast: { type: 'boolean' }, all: { type: 'boolean' }, help: { type: 'boolean' } },
  allowPositionals: true,
});
const unknown = positionals.filter((name) => !GROUPS.some((group) => group.name === name));
if (values.help === true || unknown.length > 0 || (!values.fast && !values.all && positionals.length === 0)) {
  if (unknown.length > 0) process.stderr.write(`no group named ${unknown.join(', ')}\n`);
  process.stderr.write(
    `usage: run.ts --fast | --all | GROUP...  (${GROUPS.map((group) => group.name).join(', ')})\n`,
  );
  process.exit(2);
}

const chosen = GROUPS.filter((group) =>
  positionals.length > 0 ? positionals.includes(group.name) : values.all === true || group.fast,
);
const named = new Set(
  GROUPS.filter((group) => group.name !== 'unit').flatMap((group) => globSync(group.pattern, { cwd: ROOT })),
);
const files = chosen.flatMap((group) =>
  globSync(group.pattern, { cwd: ROOT })
    .filter((file) => group.name !== 'unit' || !named.has(file))
    .sort(),
);
if (files.length === 0) {
  process.stderr.write(`nothing to run in ${chosen.map((group) => group.name).join(', ')}\n`);
  process.exit(1);
}

const result = spawnSync(
  process.execPath,
  [
    '--test',
    `--test-concurrency=${CONCURRENT_FILES}`,
    `--test-reporter=${new URL('./support/reporter.ts', import.meta.url).href}`,
    '--test-reporter-destination=stdout',
    ...files,
  ],
  {
    cwd: ROOT,
    stdio: 'inherit',
    env: { ...process.env, ...(values.fast === true ? { WARREN_KILL_ROUNDS: FAST_KILL_ROUNDS } : {}) },
  },
);
process.exit(result.status ?? 1);
