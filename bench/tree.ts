/**
 * A source tree to unpack: 5,000 files of 79 MiB in nested directories, with sizes spread as in real trees
 * (log-normal: most files are a few KiB, a few are large). The same on every machine and in every run.
 */

import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from './session.ts';

export const TREE_FILES = 5000;
export const TREE_BYTES = 79 * 1024 * 1024;
const FILES_PER_DIRECTORY = 40;
/** Spread of the logarithm of the size: with 1.5 the mean is three times the median. */
const SIZE_SPREAD = 1.5;

/** Makes the tree below `directory` and packs it; answers the path of the tar file. */
export async function packTree(directory: string, signal: AbortSignal): Promise<string> {
  const random = mulberry32(20_261_120);
  const root = path.join(directory, 'tree');
  const sizes = fileSizes(random);
  for (const [index, size] of sizes.entries()) {
    signal.throwIfAborted();
    const group = Math.floor(index / FILES_PER_DIRECTORY);
    const folder = path.join(root, `part-${group % 12}`, `module-${group}`);
    if (index % FILES_PER_DIRECTORY === 0) await mkdir(folder, { recursive: true });
    await writeFile(path.join(folder, `source-${index}.txt`), content(size, random));
  }
  const archive = path.join(directory, 'tree.tar');
  await run('tar', ['cf', archive, '-C', directory, 'tree'], { signal });
  await run('rm', ['-rf', root], { signal });
  return archive;
}

function fileSizes(random: () => number): number[] {
  const weights = Array.from({ length: TREE_FILES }, () => Math.exp(SIZE_SPREAD * normal(random)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => Math.max(1, Math.round((weight / total) * TREE_BYTES)));
}

/** Box-Muller. */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

function content(size: number, random: () => number): Buffer {
  const data = Buffer.alloc(Math.ceil(size / 4) * 4);
  for (let offset = 0; offset < data.length; offset += 4)
    data.writeUInt32LE(random() * 0x1_0000_0000, offset);
  return data.subarray(0, size);
}

/** A small seeded generator (mulberry32): numbers from 0 to below 1. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}
