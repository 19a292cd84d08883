/** Runs `load.ts` as a process of its own and waits for its journal. Always ended with its caller. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { journalLines } from './load.ts';

const LOAD = fileURLToPath(new URL('./load.ts', import.meta.url));
const PROGRESS_TIMEOUT_MS = 60_000;
const END_TIMEOUT_MS = 60_000;
const POLL_MS = 2;

export interface Load extends AsyncDisposable {
  /** Waits until the journal has `lines` lines. */
  reached(lines: number): Promise<void>;
  /** Waits until the load ended because its file system went away. */
  ended(): Promise<void>;
}

export function startLoad(options: {
  directory: string;
  journal: string;
  seed: number;
  careful?: boolean;
}): Load {
  const words = [LOAD, options.directory, options.journal, String(options.seed)];
  if (options.careful === true) words.push('careful');
  const child: ChildProcess = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'pipe'] });
  let complaint = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    complaint += chunk.toString();
  });
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  const ended = async (): Promise<void> => {
    if (!isOver()) await once(child, 'exit', { signal: AbortSignal.timeout(END_TIMEOUT_MS) });
  };
  return {
    async reached(lines) {
      const limit = performance.now() + PROGRESS_TIMEOUT_MS;
      while (journalLines(options.journal) < lines) {
        if (isOver()) throw new Error(`the load ended early: ${complaint}`);
        if (performance.now() > limit) throw new Error(`the load did not reach ${lines} lines: ${complaint}`);
        await delay(POLL_MS);
      }
    },
    ended,
    async [Symbol.asyncDispose]() {
      if (!isOver()) child.kill('SIGKILL');
      await ended();
    },
  };
}
