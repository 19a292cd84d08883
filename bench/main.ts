/**
 * Warren beside a plain directory and bindfs on the same disk, in one run: `npm run bench -- [options]`.
 *
 * Needs root, bindfs, fio and tar. Rounds go in turn over the targets (A B C A B C), so that a machine that
 * slows down in the middle slows all alike; the table shows medians over the rounds and ratios of medians.
 */

import { access, constants } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { benchCommand, type CommonOptions, diskOf, parseBytes, parseCount, parseList } from './options.ts';
import { figure, median, table, verdict, writeJson } from './report.ts';
import { GROUPS, type Goal, ROWS, type Row, type RowName, type Sizes } from './rows.ts';
import { type Session, withSession } from './session.ts';
import { openTargets, TARGET_NAMES, type Target, type TargetName } from './targets.ts';
import { packTree } from './tree.ts';

interface Options extends CommonOptions {
  readonly rounds: number;
  readonly only: readonly RowName[];
  readonly size: number;
  readonly files: number;
}

/** Values of the rounds, by row and target. */
type Measurements = Map<RowName, Map<TargetName, number[]>>;

const MIB = 1024 * 1024;
const names = ROWS.map((row) => row.name);

const command = benchCommand('Compares a Warren mount with the plain disk and with bindfs.', TARGET_NAMES)
  .option('--rounds <count>', 'rounds over all targets', parseCount, 3)
  .option('--only <rows>', `comma-separated, of ${names.join(', ')}`, (text) => parseList(text, names), names)
  .option('--size <bytes>', 'of the large file; K, M and G are understood', parseBytes, 1024 * MIB)
  .option('--files <count>', 'small files', parseCount, 10_000);
const options = command.parse().opts<Options>();
if (process.getuid?.() !== 0) {
  command.error('the benchmark drops the caches of the kernel and mounts: run it as root');
}
process.exitCode = await withSession(diskOf(options), (session) => bench(session, options));

async function bench(session: Session, options: Options): Promise<number> {
  await requirePrograms(options.targets.includes('bindfs') ? ['bindfs', 'fio', 'tar'] : ['fio', 'tar']);
  const archive = await packTree(session.directory, session.signal);
  const targets = await openTargets(options.targets, session);
  const measurements: Measurements = new Map();
  for (let round = 1; round <= options.rounds; round += 1) {
    await runRound({ session, options, targets, archive, measurements, round });
  }
  const usage = targets.map((target) => ({
    target: target.name,
    memoryPeakBytes: target.memoryBytes().peak,
    memoryBytes: target.memoryBytes().current,
    cpuSeconds: target.cpuSeconds(),
  }));
  const rows = ROWS.filter((row) => options.only.includes(row.name));
  console.log(`\n${resultTable(rows, options.targets, measurements)}\n`);
  console.log(
    table(
      ['process', 'memory peak MiB', 'memory now MiB', 'CPU s'],
      usage
        .filter((use) => use.target !== 'plain')
        .map((use) => [
          use.target,
          figure(use.memoryPeakBytes / MIB),
          figure(use.memoryBytes / MIB),
          figure(use.cpuSeconds),
        ]),
    ),
  );
  if (options.json !== undefined) {
    writeJson(options.json, {
      benchmark: 'main',
      options,
      rows: rows.map((row) => jsonRow(row, options.targets, measurements)),
      usage,
    });
  }
  return rows.some((row) => goalHolds(row, measurements) === false) ? 1 : 0;
}

async function runRound(context: {
  session: Session;
  options: Options;
  targets: readonly Target[];
  archive: string;
  measurements: Measurements;
  round: number;
}): Promise<void> {
  const { session, options, targets, archive, measurements, round } = context;
  const wanted = (name: RowName) => options.only.includes(name);
  const sizes: Sizes = {
    fileBytes: options.size,
    randomReads: 16_384,
    randomWrites: 3000,
    smallFiles: options.files,
    fsyncFiles: Math.min(options.files, 1000),
  };
  for (const group of GROUPS.filter((group) => group.rows.some(wanted))) {
    for (const target of targets) {
      session.signal.throwIfAborted();
      const report = (name: RowName, value: number) => {
        if (!wanted(name)) return;
        const byTarget = measurements.get(name) ?? new Map<TargetName, number[]>();
        measurements.set(name, byTarget);
        byTarget.set(target.name, [...(byTarget.get(target.name) ?? []), value]);
        const unit = ROWS.find((row) => row.name === name)?.unit ?? '';
        console.error(
          `round ${round}/${options.rounds}  ${target.name.padEnd(6)}  ${name.padEnd(12)}  ${figure(value)} ${unit}`,
        );
      };
      await group.run({ target, sizes, signal: session.signal, archive, wanted, report });
    }
  }
}

function resultTable(
  rows: readonly Row[],
  targets: readonly TargetName[],
  measurements: Measurements,
): string {
  const compared = targets.includes('warren') ? targets.filter((name) => name !== 'warren') : [];
  const header = ['row', 'unit', ...targets, ...compared.map((name) => `warren/${name}`), 'goal', 'verdict'];
  const lines = rows.map((row) => {
    const value = (name: TargetName) => medianOf(measurements, row.name, name);
    return [
      row.label,
      row.unit,
      ...targets.map((name) => figure(value(name))),
      ...compared.map((name) => figure(value('warren') / value(name))),
      goalText(row.goal),
      verdict(goalHolds(row, measurements)),
    ];
  });
  return table(header, lines);
}

function jsonRow(
  row: Row,
  targets: readonly TargetName[],
  measurements: Measurements,
): Record<string, unknown> {
  const medians = Object.fromEntries(targets.map((name) => [name, medianOf(measurements, row.name, name)]));
  const ratios = Object.fromEntries(
    targets
      .filter((name) => name !== 'warren' && targets.includes('warren'))
      .map((name) => [
        name,
        medianOf(measurements, row.name, 'warren') / medianOf(measurements, row.name, name),
      ]),
  );
  return {
    name: row.name,
    unit: row.unit,
    medians,
    ratios,
    rounds: Object.fromEntries(measurements.get(row.name) ?? []),
    goal: row.goal,
    holds: goalHolds(row, measurements),
  };
}

function medianOf(measurements: Measurements, row: RowName, target: TargetName): number {
  return median(measurements.get(row)?.get(target) ?? []);
}

function goalHolds(row: Row, measurements: Measurements): boolean | undefined {
  const warren = medianOf(measurements, row.name, 'warren');
  const ratio = warren / medianOf(measurements, row.name, 'bindfs');
  if (row.goal === undefined || Number.isNaN(warren)) return undefined;
  if (row.goal.kind === 'at-least') return warren >= row.goal.value;
  if (Number.isNaN(ratio)) return undefined;
  return row.goal.kind === 'ratio-at-least' ? ratio >= row.goal.ratio : ratio <= row.goal.ratio;
}

function goalText(goal: Goal | undefined): string {
  if (goal === undefined) return '';
  if (goal.kind === 'at-least') return `>= ${figure(goal.value)}`;
  return `${goal.kind === 'ratio-at-least' ? '>=' : '<='} ${goal.ratio}x bindfs`;
}

async function requirePrograms(programs: readonly string[]): Promise<void> {
  const folders = (process.env.PATH ?? '').split(':');
  for (const program of programs) {
    const found = await Promise.any(
      folders.map((folder) => access(path.join(folder, program), constants.X_OK)),
    ).then(
      () => true,
      () => false,
    );
    if (!found) throw new Error(`${program} is missing; on Debian: apt-get install bindfs fio tar`);
  }
}
