/** Figures for people and for programs: medians, ratios, and whether a goal holds. */

import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import process from 'node:process';

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

export function percentile(values: readonly number[], fraction: number): number {
  const sorted = values.toSorted((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))] ?? Number.NaN;
}

/** Three significant digits, with a decimal point only where it says something. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value >= 100) return Math.round(value).toLocaleString('en-US');
  return value.toPrecision(3);
}

/** The first `textColumns` columns are aligned to the left. */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  textColumns = 1,
): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) =>
        column < textColumns ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd();
  return [line(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}

/** One measured figure beside the figure that it must reach. */
export interface Check {
  readonly target: string;
  readonly what: string;
  readonly measured: number;
  readonly unit: string;
  readonly goal?: { readonly kind: 'at-least' | 'at-most'; readonly value: number };
}

export function holds(check: Check): boolean | undefined {
  if (check.goal === undefined) return undefined;
  return check.goal.kind === 'at-least'
    ? check.measured >= check.goal.value
    : check.measured <= check.goal.value;
}

export function checkTable(checks: readonly Check[]): string {
  return table(
    ['target', 'what', 'measured', 'unit', 'goal', 'verdict'],
    checks.map((check) => [
      check.target,
      check.what,
      figure(check.measured),
      check.unit,
      check.goal === undefined
        ? ''
        : `${check.goal.kind === 'at-least' ? '>=' : '<='} ${figure(check.goal.value)}`,
      verdict(holds(check)),
    ]),
    2,
  );
}

export function verdict(held: boolean | undefined): string {
  if (held === undefined) return '';
  return held ? 'holds' : 'MISSED';
}

/** Prints the checks, writes them as JSON when asked, and answers the exit code: 1 when Warren missed a goal. */
export function finishChecks(name: string, checks: readonly Check[], jsonFile: string | undefined): number {
  console.log(checkTable(checks));
  if (jsonFile !== undefined) {
    writeJson(jsonFile, {
      benchmark: name,
      checks: checks.map((check) => ({ ...check, holds: holds(check) })),
    });
  }
  return checks.some((check) => check.target === 'warren' && holds(check) === false) ? 1 : 0;
}

export function writeJson(file: string, result: Record<string, unknown>): void {
  writeFileSync(file, `${JSON.stringify({ ...machine(), ...result }, null, 2)}\n`);
}

function machine(): Record<string, unknown> {
  const processor = /^model name\s*:\s*(.+)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1];
  return {
    date: new Date().toISOString(),
    command: ['node', ...process.argv.slice(1).map((part) => part.replace(`${process.cwd()}/`, ''))].join(
      ' ',
    ),
    kernel: os.release(),
    node: process.version,
    processor,
    processors: os.availableParallelism(),
    memoryBytes: os.totalmem(),
  };
}
