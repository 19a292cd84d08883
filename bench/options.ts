/** The command line that all benchmarks share. */

import { Command, InvalidArgumentError } from 'commander';
import type { Disk } from './session.ts';
import { TARGET_NAMES, type TargetName } from './targets.ts';

export interface CommonOptions {
  readonly targets: readonly TargetName[];
  readonly disk: 'here' | 'loop';
  readonly diskSize: number;
  readonly json?: string;
}

export function benchCommand(description: string, targets: readonly TargetName[]): Command {
  return new Command()
    .description(description)
    .option('--targets <names>', `comma-separated, of ${TARGET_NAMES.join(', ')}`, parseTargets, targets)
    .option(
      '--disk <kind>',
      'here: a folder below the current directory; loop: a written ext4 image',
      parseDisk,
      'here',
    )
    .option('--disk-size <bytes>', 'of the loop disk; K, M and G are understood', parseBytes, 16 * 1024 ** 3)
    .option('--json <file>', 'write the result as JSON');
}

export function diskOf(options: CommonOptions): Disk {
  return options.disk === 'loop' ? { kind: 'loop', bytes: options.diskSize } : { kind: 'here' };
}

export function parseCount(text: string): number {
  const count = Number(text);
  if (!Number.isSafeInteger(count) || count < 1) throw new InvalidArgumentError('a whole number from 1 up');
  return count;
}

/** `1073741824`, `1024M` and `1G` are the same. */
export function parseBytes(text: string): number {
  const match = /^(\d+)([KMG]?)$/i.exec(text);
  const power = ['', 'K', 'M', 'G'].indexOf(match?.[2]?.toUpperCase() ?? '');
  const bytes = Number(match?.[1]) * 1024 ** power;
  if (match === null || !Number.isSafeInteger(bytes) || bytes < 4096) {
    throw new InvalidArgumentError('bytes, at least 4096, such as 512M or 1G');
  }
  return bytes;
}

export function parseList<T extends string>(text: string, known: readonly T[]): readonly T[] {
  return text.split(',').map((name) => {
    const found = known.find((candidate) => candidate === name);
    if (found === undefined) throw new InvalidArgumentError(`"${name}" is none of ${known.join(', ')}`);
    return found;
  });
}

function parseTargets(text: string): readonly TargetName[] {
  return parseList(text, TARGET_NAMES);
}

function parseDisk(text: string): 'here' | 'loop' {
  if (text !== 'here' && text !== 'loop') throw new InvalidArgumentError('here or loop');
  return text;
}
