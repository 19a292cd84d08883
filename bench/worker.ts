/** Starts `bench/work.ts` tasks in a process of their own. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import process from 'node:process';
import { text } from 'node:stream/consumers';
import { run } from './session.ts';
import type { Tasks } from './work.ts';

const program = path.join(import.meta.dirname, 'work.ts');

/** Runs one task to its end. */
export async function work<T extends keyof Tasks>(
  task: T,
  options: Tasks[T]['options'],
  signal: AbortSignal,
): Promise<Tasks[T]['answer']> {
  return JSON.parse(await run(process.execPath, [program, task, JSON.stringify(options)], { signal }));
}

/** Starts a task that runs until `finish`, which answers its result. */
export function startWork<T extends keyof Tasks>(
  task: T,
  options: Tasks[T]['options'],
  signal: AbortSignal,
): { finish(): Promise<Tasks[T]['answer']> } {
  const child = spawn(process.execPath, [program, task, JSON.stringify(options)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    signal,
    killSignal: 'SIGKILL',
  });
  const exit = once(child, 'close');
  const printed = text(child.stdout);
  // Failures are reported by `finish`; until then nobody listens.
  exit.catch(() => undefined);
  printed.catch(() => undefined);
  return {
    async finish() {
      child.stdin.end();
      const [code] = await exit;
      if (code !== 0) throw new Error(`${task}: ended with ${String(code)}`);
      return JSON.parse(await printed);
    },
  };
}
