/**
 * A million files in one directory: `npm run bench:million -- [options]`.
 *
 * Does creating slow down as the directory grows, how long does `ls -l` of 100,000 files take, how long does
 * a start with a million files take, and how much memory does the daemon use while doing so and while 10 GiB
 * are written? The rate "at" a count is that of a window of files around or before it.
 */

import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { runChecks } from './checks.ts';
import { benchCommand, type CommonOptions, parseBytes, parseCount } from './options.ts';
import { type Check } from './report.ts';
import { run, type Session } from './session.ts';
import { type Target } from './targets.ts';
import { work } from './worker.ts';

interface Options extends CommonOptions {
  readonly files: number;
  readonly listing: number;
  readonly bytes: number;
}

const MIB = 1024 * 1024;
const EARLY_FILES = 10_000;
const RATE_GOAL = 0.7;
const LISTING_GOAL_SECONDS = 2;
const START_GOAL_SECONDS = 2;
const MEMORY_GOAL_MIB = 400;

const options = benchCommand('Creates a million files in one directory, lists, restarts, writes 10 GiB.', [
  'warren',
])
  .option('--files <count>', 'files in the directory, at least 40,000', parseCount, 1_000_000)
  .option('--listing <count>', 'files in the directory that ls -l lists', parseCount, 100_000)
  .option(
    '--bytes <bytes>',
    'of the file written at the end; K, M and G are understood',
    parseBytes,
    10 * 1024 * MIB,
  )
  .parse()
  .opts<Options>();
process.exitCode = await runChecks('million', options, measure);

async function measure(target: Target, session: Session, options: Options): Promise<Check[]> {
  const { signal } = session;
  const checks: Check[] = [];
  const check = (what: string, measured: number, unit: string, goal?: Check['goal']) => {
    checks.push({ target: target.name, what, measured, unit, ...(goal ? { goal } : {}) });
    console.error(`${target.name}: ${what}: ${measured.toFixed(2)} ${unit}`);
  };
  const memory = (phase: string) => {
    if (target.name === 'plain') return;
    const { current, peak } = target.memoryBytes();
    check(`memory peak while ${phase}`, peak / MIB, 'MiB', { kind: 'at-most', value: MEMORY_GOAL_MIB });
    check(`memory after ${phase}`, current / MIB, 'MiB');
    target.resetPeak();
  };

  const listed = path.join(target.directory, 'listed');
  await mkdir(listed);
  await work('create', { directory: listed, first: 0, count: options.listing, fsync: false }, signal);
  memory(`creating ${options.listing} files`);
  const listing: Check['goal'] = { kind: 'at-most', value: LISTING_GOAL_SECONDS };
  await target.dropCaches();
  check(`ls -l of ${options.listing} files, caches dropped`, await listSeconds(listed, signal), 's', listing);
  check(`ls -l of ${options.listing} files, again`, await listSeconds(listed, signal), 's', listing);
  memory('listing');

  const many = path.join(target.directory, 'many');
  await mkdir(many);
  const windowFiles = EARLY_FILES / 2;
  const created = await work(
    'create',
    { directory: many, first: 0, count: options.files, fsync: false, windowFiles },
    signal,
  );
  const rate = (windows: readonly number[]) =>
    (windows.length * windowFiles) / windows.reduce((sum, seconds) => sum + seconds, 0);
  // Files 5,000 to 15,000, and the last 20,000: long enough that one pause of the disk is not the answer.
  const early = rate(created.windowSeconds.slice(1, 3));
  const late = rate(created.windowSeconds.slice(-4));
  check(`creates per second at file ${EARLY_FILES}`, early, 'ops/s');
  check(`creates per second at file ${options.files}`, late, 'ops/s');
  check('late rate / early rate', late / early, 'x', { kind: 'at-least', value: RATE_GOAL });
  check(`creating ${options.files} files`, created.seconds, 's');
  memory(`creating ${options.files} files`);

  await run('sync', [], { signal });
  if (target.name !== 'plain') {
    const start: Check['goal'] = { kind: 'at-most', value: START_GOAL_SECONDS };
    check(`start with ${options.files} files`, (await target.remount()) / 1000, 's', start);
    const coldMs = await target.remount(() => target.dropCaches());
    check(`start with ${options.files} files, caches dropped`, coldMs / 1000, 's', start);
    memory('starting');
  }

  const file = path.join(target.directory, 'large');
  const written = await work('write', { file, bytes: options.bytes }, signal);
  check(`writing ${options.bytes / MIB} MiB`, options.bytes / MIB / written.seconds, 'MiB/s');
  memory(`writing ${options.bytes / MIB} MiB`);
  await rm(file);
  return checks;
}

async function listSeconds(directory: string, signal: AbortSignal): Promise<number> {
  const startMs = performance.now();
  await run('ls', ['-l', directory], { signal, outputFile: '/dev/null' });
  return (performance.now() - startMs) / 1000;
}
