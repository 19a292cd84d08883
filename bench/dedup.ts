/**
 * 10,000 copies of one 1 MiB file use the space of one, and deleting all but one leaves it intact:
 * `npm run bench:dedup -- [options]`.
 *
 * Disk use is what the data directory allocates (du), read after everything was written back. Metadata of
 * the files counts too: an allowance for each file is part of the goal and is printed with it.
 */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { pipeline } from 'node:stream/promises';
import { runChecks } from './checks.ts';
import { benchCommand, type CommonOptions, parseCount } from './options.ts';
import { type Check } from './report.ts';
import { run, type Session } from './session.ts';
import { type Target } from './targets.ts';
import { fileName } from './work.ts';
import { work } from './worker.ts';

interface Options extends CommonOptions {
  readonly copies: number;
}

const MIB = 1024 * 1024;
const FILE_BYTES = MIB;
/** Inode, name, extent and their indexes, with SQLite's write-ahead log and the log's entries. */
const METADATA_BYTES_A_FILE = 4096;
/** Two segments of the log, which are made in full in advance. */
const METADATA_BYTES_FIXED = 32 * MIB;
/** The chunk itself, and the 256 folders that are made in advance. */
const CHUNK_BYTES_ALLOWED = FILE_BYTES + 260 * 4096;

const options = benchCommand('Disk use of many copies of one file.', ['warren'])
  .option('--copies <count>', 'copies of the 1 MiB file', parseCount, 10_000)
  .parse()
  .opts<Options>();
process.exitCode = await runChecks('dedup', options, measure);

async function measure(target: Target, session: Session, options: Options): Promise<Check[]> {
  const { signal } = session;
  const source = path.join(session.directory, 'original');
  const directory = path.join(target.directory, 'copies');
  await mkdir(directory);
  await work('write', { file: source, bytes: FILE_BYTES }, signal);
  const expected = await digest(source);
  const before = await diskBytes(target, signal);

  const copied = await work('copies', { directory, source, count: options.copies }, signal);
  const full = (await diskBytes(target, signal)) - before;
  const chunks = await allocatedBytes(path.join(target.dataDirectory, 'chunks'), signal);
  const removed = await work('unlink', { directory, first: 1, count: options.copies - 1 }, signal);
  // Again from the disk, not from a cache.
  await target.remount();
  await target.dropCaches();
  const intact = (await digest(fileName(directory, 0))) === expected;
  const rest = (await diskBytes(target, signal)) - before;

  const allowed = (FILE_BYTES + METADATA_BYTES_FIXED + options.copies * METADATA_BYTES_A_FILE) / MIB;
  const limit: Check['goal'] = { kind: 'at-most', value: allowed };
  const check = (what: string, measured: number, unit: string, goal?: Check['goal']): Check => ({
    target: target.name,
    what,
    measured,
    unit,
    ...(goal ? { goal } : {}),
  });
  return [
    check(`writing ${options.copies} copies`, options.copies / copied.seconds, 'MiB/s'),
    check(`disk use of the chunks of ${options.copies} copies`, chunks / MIB, 'MiB', {
      kind: 'at-most',
      value: CHUNK_BYTES_ALLOWED / MIB,
    }),
    check(`disk use of ${options.copies} copies and their metadata`, full / MIB, 'MiB', limit),
    check('unlink of all but one', (options.copies - 1) / removed.seconds, 'ops/s'),
    check('disk use of the last one and freed metadata', rest / MIB, 'MiB', limit),
    check('the last one is intact (1 = yes)', intact ? 1 : 0, '', { kind: 'at-least', value: 1 }),
  ];
}

async function diskBytes(target: Target, signal: AbortSignal): Promise<number> {
  await run('sync', [], { signal });
  return allocatedBytes(target.dataDirectory, signal);
}

async function allocatedBytes(directory: string, signal: AbortSignal): Promise<number> {
  // -x: the mount itself may lie inside the data directory.
  const printed = await run('du', ['-sx', '--block-size=1', directory], { signal });
  return Number(printed.split('\t')[0]);
}

async function digest(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
