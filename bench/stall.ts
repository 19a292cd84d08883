/**
 * Does a big writer make everybody else wait? `npm run bench:stall -- [options]`.
 *
 * One process writes 2 GiB and calls fsync; another stats names that no cache knows (files after the caches
 * were dropped, then names that do not exist), one each millisecond, until the writer is done.
 */

import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { runChecks } from './checks.ts';
import { benchCommand, type CommonOptions, parseBytes, parseCount } from './options.ts';
import { type Check, percentile } from './report.ts';
import { type Session } from './session.ts';
import { type Target } from './targets.ts';
import { startWork, work } from './worker.ts';

interface Options extends CommonOptions {
  readonly bytes: number;
  readonly files: number;
}

const MIB = 1024 * 1024;
const P99_GOAL_MS = 10;
const PAUSE_MS = 1;
/** Fewer answers than this say nothing about the hundredth. */
const SAMPLES_MIN = 200;

const options = benchCommand('Latency of stat while another process writes with fsync.', ['warren'])
  .option('--bytes <bytes>', 'that the writer writes; K, M and G are understood', parseBytes, 2048 * MIB)
  .option('--files <count>', 'files to stat', parseCount, 5000)
  .parse()
  .opts<Options>();
process.exitCode = await runChecks('stall', options, measure);

async function measure(target: Target, session: Session, options: Options): Promise<Check[]> {
  const { signal } = session;
  const directory = path.join(target.directory, 'many');
  const file = path.join(target.directory, 'large');
  await mkdir(directory);
  await work('create', { directory, first: 0, count: options.files, fsync: false }, signal);
  await target.dropCaches();

  const reader = startWork('latencies', { directory, count: options.files, pauseMs: PAUSE_MS }, signal);
  const written = await work('write', { file, bytes: options.bytes }, signal);
  const { microseconds } = await reader.finish();
  await rm(file);

  if (microseconds.length < SAMPLES_MIN) {
    throw new Error(`only ${microseconds.length} stats while writing: use a larger --bytes`);
  }
  const at = (fraction: number) => percentile(microseconds, fraction) / 1000;
  const goal: Check['goal'] = { kind: 'at-most', value: P99_GOAL_MS };
  return [
    { target: target.name, what: 'writer', measured: options.bytes / MIB / written.seconds, unit: 'MiB/s' },
    { target: target.name, what: 'stats', measured: microseconds.length, unit: 'calls' },
    { target: target.name, what: 'stat p50', measured: at(0.5), unit: 'ms' },
    { target: target.name, what: 'stat p99', measured: at(0.99), unit: 'ms', goal },
    { target: target.name, what: 'stat longest', measured: at(1), unit: 'ms' },
  ];
}
