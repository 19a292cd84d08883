/**
 * What is measured, and what it must reach.
 *
 * Rows that need the same files form a group; a group is run as a whole on one target, then on the next, and
 * leaves the target empty. Dirty pages of one target are written back before the next is measured.
 */

import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { dropCaches, run } from './session.ts';
import type { Target } from './targets.ts';
import { work } from './worker.ts';

/** What Warren must reach: a ratio to bindfs in the same run, or a figure in the row's unit. */
export type Goal =
  | { readonly kind: 'ratio-at-least'; readonly ratio: number }
  | { readonly kind: 'ratio-at-most'; readonly ratio: number }
  | { readonly kind: 'at-least'; readonly value: number };

export interface Row {
  readonly name: RowName;
  readonly label: string;
  readonly unit: 'MiB/s' | 'ops/s' | 's';
  readonly goal?: Goal;
}

const atLeast = (ratio: number): Goal => ({ kind: 'ratio-at-least', ratio });
const atMost = (ratio: number): Goal => ({ kind: 'ratio-at-most', ratio });

export type RowName =
  | 'write'
  | 'read-cold'
  | 'read-warm'
  | 'random-read'
  | 'random-write'
  | 'create'
  | 'stat'
  | 'stat-cold'
  | 'read-small'
  | 'unlink'
  | 'create-fsync'
  | 'tar'
  | 'rm';

export const ROWS: readonly Row[] = [
  { name: 'write', label: 'sequential write + fsync', unit: 'MiB/s', goal: atLeast(2) },
  { name: 'read-cold', label: 'sequential read, cold', unit: 'MiB/s', goal: atLeast(1) },
  // 3 GB/s
  {
    name: 'read-warm',
    label: 'sequential read, warm',
    unit: 'MiB/s',
    goal: { kind: 'at-least', value: 2861 },
  },
  { name: 'random-read', label: 'random read 4 KiB, cold', unit: 'ops/s', goal: atLeast(0.8) },
  { name: 'random-write', label: 'random write 4 KiB + fsync', unit: 'ops/s', goal: atLeast(0.5) },
  { name: 'create', label: 'create 4 KiB files', unit: 'ops/s', goal: atLeast(0.5) },
  { name: 'stat', label: 'stat, warm', unit: 'ops/s', goal: atLeast(1) },
  { name: 'stat-cold', label: 'stat, cold', unit: 'ops/s', goal: atLeast(1) },
  { name: 'read-small', label: 'read 4 KiB files, cold', unit: 'ops/s' },
  { name: 'unlink', label: 'unlink', unit: 'ops/s', goal: atLeast(0.5) },
  { name: 'create-fsync', label: 'create + fsync', unit: 'ops/s' },
  { name: 'tar', label: 'tar x, 5,000 files', unit: 's', goal: atMost(1.5) },
  { name: 'rm', label: 'rm -rf, 5,000 files', unit: 's', goal: atMost(1.5) },
];

export interface Sizes {
  /** Of the file for the sequential and random rows. */
  readonly fileBytes: number;
  /** Random operations of each kind. */
  readonly randomReads: number;
  readonly randomWrites: number;
  readonly smallFiles: number;
  readonly fsyncFiles: number;
}

export interface GroupContext {
  readonly target: Target;
  readonly sizes: Sizes;
  readonly signal: AbortSignal;
  /** The packed tree, on the disk under test. */
  readonly archive: string;
  readonly wanted: (name: RowName) => boolean;
  readonly report: (name: RowName, value: number) => void;
}

export interface Group {
  readonly rows: readonly RowName[];
  run(context: GroupContext): Promise<void>;
}

export const GROUPS: readonly Group[] = [
  { rows: ['write', 'read-cold', 'read-warm', 'random-read', 'random-write'], run: largeFile },
  { rows: ['create', 'stat', 'stat-cold', 'read-small', 'unlink'], run: smallFiles },
  { rows: ['create-fsync'], run: createFsync },
  { rows: ['tar', 'rm'], run: unpack },
];

const MIB = 1024 * 1024;

async function largeFile({ target, sizes, signal, wanted, report }: GroupContext): Promise<void> {
  const file = path.join(target.directory, 'large');
  const bytes = sizes.fileBytes;
  await dropCaches(signal);
  report('write', bytes / MIB / (await work('write', { file, bytes }, signal)).seconds);
  if (wanted('read-cold') || wanted('read-warm')) {
    await cold(target, signal);
    report('read-cold', bytes / MIB / (await readWhole(file, bytes, signal)));
    report('read-warm', bytes / MIB / (await readWhole(file, bytes, signal)));
  }
  if (wanted('random-read')) {
    await cold(target, signal);
    report(
      'random-read',
      await fio({ file, kind: 'randread', operations: sizes.randomReads, bytes }, signal),
    );
  }
  if (wanted('random-write')) {
    await run('sync', [], { signal });
    report(
      'random-write',
      await fio({ file, kind: 'randwrite', operations: sizes.randomWrites, bytes }, signal),
    );
  }
  await rm(file);
}

async function readWhole(file: string, bytes: number, signal: AbortSignal): Promise<number> {
  const answer = await work('read', { file }, signal);
  if (answer.bytes !== bytes) throw new Error(`read ${answer.bytes} of ${bytes} bytes of ${file}`);
  return answer.seconds;
}

async function smallFiles({ target, sizes, signal, wanted, report }: GroupContext): Promise<void> {
  const directory = path.join(target.directory, 'small');
  const count = sizes.smallFiles;
  await mkdir(directory);
  await run('sync', [], { signal });
  const created = await work('create', { directory, first: 0, count, fsync: false }, signal);
  report('create', count / created.seconds);
  await run('sync', [], { signal });
  if (wanted('stat')) report('stat', count / (await work('stat', { directory, count }, signal)).seconds);
  if (wanted('stat-cold')) {
    await cold(target, signal);
    report('stat-cold', count / (await work('stat', { directory, count }, signal)).seconds);
  }
  if (wanted('read-small')) {
    await cold(target, signal);
    report('read-small', count / (await work('readAll', { directory, count }, signal)).seconds);
  }
  report('unlink', count / (await work('unlink', { directory, first: 0, count }, signal)).seconds);
  await rm(directory, { recursive: true });
}

async function createFsync({ target, sizes, signal, report }: GroupContext): Promise<void> {
  const directory = path.join(target.directory, 'fsync');
  const count = sizes.fsyncFiles;
  await mkdir(directory);
  await run('sync', [], { signal });
  const created = await work('create', { directory, first: 0, count, fsync: true }, signal);
  report('create-fsync', count / created.seconds);
  await rm(directory, { recursive: true });
}

async function unpack({ target, signal, archive, report }: GroupContext): Promise<void> {
  await run('sync', [], { signal });
  // The archive itself is read from the page cache, for every target alike.
  await run('cat', [archive], { signal, outputFile: '/dev/null' });
  report('tar', await seconds(() => run('tar', ['xf', archive, '-C', target.directory], { signal })));
  await run('sync', [], { signal });
  report('rm', await seconds(() => run('rm', ['-rf', path.join(target.directory, 'tree')], { signal })));
}

async function cold(target: Target, signal: AbortSignal): Promise<void> {
  await run('sync', [], { signal });
  await target.remount();
  await target.dropCaches();
}

async function seconds(body: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await body();
  return (performance.now() - startMs) / 1000;
}

interface FioOptions {
  readonly file: string;
  readonly kind: 'randread' | 'randwrite';
  readonly operations: number;
  readonly bytes: number;
}

/** Operations a second, as fio counts them; a write counts with its fsync. */
async function fio({ file, kind, operations, bytes }: FioOptions, signal: AbortSignal): Promise<number> {
  const args = [
    '--name=random',
    `--filename=${file}`,
    `--rw=${kind}`,
    '--ioengine=psync',
    '--bs=4k',
    `--size=${bytes}`,
    `--io_size=${operations * 4096}`,
    '--allow_file_create=0',
    '--fallocate=none',
    '--output-format=json',
    ...(kind === 'randwrite' ? ['--fsync=1', '--refill_buffers'] : []),
  ];
  const printed = await run('fio', args, { signal });
  // fio may put a note before the object.
  const job = JSON.parse(printed.slice(printed.indexOf('{'))).jobs[0];
  return Number(kind === 'randread' ? job.read.iops : job.write.iops);
}
