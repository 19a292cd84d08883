/**
 * The file calls that are measured, run as a program of their own: `node bench/work.ts TASK JSON`.
 *
 * A process of its own, because a benchmark that also serves the mount could wait for itself, and because
 * its own start must not count. Synchronous calls in one thread: the time of a call is what a simple program
 * waits for. The answer is one JSON object on standard output.
 *
 * Content is never the same twice: every 4 KiB block starts with a random stamp, so that a file system that
 * shares equal content stores all of it.
 */

import { randomBytes, randomFillSync } from 'node:crypto';
import * as fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

const BLOCK_BYTES = 4096;
const TRANSFER_BYTES = 1024 * 1024;
const STAMP_BYTES = 16;

export interface Tasks {
  write: { options: { file: string; bytes: number }; answer: { seconds: number } };
  read: { options: { file: string }; answer: { seconds: number; bytes: number } };
  /** Files `first` to `first + count - 1`; `windowFiles` asks for the rate of each so many files. */
  create: {
    options: { directory: string; first: number; count: number; fsync: boolean; windowFiles?: number };
    answer: { seconds: number; windowSeconds: number[] };
  };
  stat: { options: { directory: string; count: number }; answer: { seconds: number } };
  readAll: { options: { directory: string; count: number }; answer: { seconds: number } };
  unlink: { options: { directory: string; first: number; count: number }; answer: { seconds: number } };
  copies: { options: { directory: string; source: string; count: number }; answer: { seconds: number } };
  /** Stats distinct files, then distinct missing names, every `pauseMs`, until standard input ends. */
  latencies: {
    options: { directory: string; count: number; pauseMs: number };
    answer: { microseconds: number[] };
  };
}

type TaskName = keyof Tasks;
type Implementation = {
  [T in TaskName]: (options: Tasks[T]['options']) => Tasks[T]['answer'] | Promise<Tasks[T]['answer']>;
};

const tasks: Implementation = {
  write({ file, bytes }) {
    const data = randomBytes(TRANSFER_BYTES);
    return timed(() => {
      const descriptor = fs.openSync(file, 'w');
      for (let offset = 0; offset < bytes; offset += data.length) {
        stamp(data);
        writeFully(descriptor, data.subarray(0, Math.min(data.length, bytes - offset)));
      }
      fs.fsyncSync(descriptor);
      fs.closeSync(descriptor);
    });
  },
  read({ file }) {
    let bytes = 0;
    const data = Buffer.alloc(TRANSFER_BYTES);
    const { seconds } = timed(() => {
      const descriptor = fs.openSync(file, 'r');
      for (;;) {
        const count = fs.readSync(descriptor, data);
        if (count === 0) break;
        bytes += count;
      }
      fs.closeSync(descriptor);
    });
    return { seconds, bytes };
  },
  create({ directory, first, count, fsync, windowFiles }) {
    const data = randomBytes(BLOCK_BYTES);
    const windowSeconds: number[] = [];
    let windowStartMs = performance.now();
    const { seconds } = timed(() => {
      for (let index = first; index < first + count; index += 1) {
        stamp(data);
        const descriptor = fs.openSync(fileName(directory, index), 'wx');
        writeFully(descriptor, data);
        if (fsync) fs.fsyncSync(descriptor);
        fs.closeSync(descriptor);
        if (windowFiles !== undefined && (index - first + 1) % windowFiles === 0) {
          const nowMs = performance.now();
          windowSeconds.push((nowMs - windowStartMs) / 1000);
          windowStartMs = nowMs;
        }
      }
    });
    return { seconds, windowSeconds };
  },
  stat({ directory, count }) {
    return timed(() => {
      for (let index = 0; index < count; index += 1) fs.statSync(fileName(directory, index));
    });
  },
  readAll({ directory, count }) {
    const data = Buffer.alloc(BLOCK_BYTES);
    return timed(() => {
      for (let index = 0; index < count; index += 1) {
        const descriptor = fs.openSync(fileName(directory, index), 'r');
        const bytes = fs.readSync(descriptor, data);
        fs.closeSync(descriptor);
        if (bytes !== BLOCK_BYTES)
          throw new Error(`file ${index} has ${bytes} bytes instead of ${BLOCK_BYTES}`);
      }
    });
  },
  unlink({ directory, first, count }) {
    return timed(() => {
      for (let index = first; index < first + count; index += 1) fs.unlinkSync(fileName(directory, index));
    });
  },
  copies({ directory, source, count }) {
    const data = fs.readFileSync(source);
    return timed(() => {
      for (let index = 0; index < count; index += 1) fs.writeFileSync(fileName(directory, index), data);
    });
  },
  async latencies({ directory, count, pauseMs }) {
    const microseconds: number[] = [];
    const finished = new AbortController();
    process.stdin.on('end', () => finished.abort()).resume();
    for (let index = 0; !finished.signal.aborted; index += 1) {
      const startMs = performance.now();
      fs.statSync(fileName(directory, index), { throwIfNoEntry: index < count });
      microseconds.push(Math.round((performance.now() - startMs) * 1000));
      await sleep(pauseMs);
    }
    return { microseconds };
  },
};

/** Files of one directory are named by their number. */
export function fileName(directory: string, index: number): string {
  return path.join(directory, `file-${String(index).padStart(7, '0')}`);
}

function stamp(data: Buffer): void {
  for (let offset = 0; offset < data.length; offset += BLOCK_BYTES) randomFillSync(data, offset, STAMP_BYTES);
}

function writeFully(descriptor: number, data: Buffer): void {
  for (let written = 0; written < data.length; ) {
    written += fs.writeSync(descriptor, data, written);
  }
}

function timed(body: () => void): { seconds: number } {
  const startMs = performance.now();
  body();
  return { seconds: (performance.now() - startMs) / 1000 };
}

if (import.meta.main) {
  const [name, options] = process.argv.slice(2);
  const task = tasks[name as TaskName] as (options: unknown) => unknown;
  process.stdout.write(JSON.stringify(await task(JSON.parse(options ?? '{}'))));
}
