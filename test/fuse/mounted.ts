/** Starts test/fuse/serve.ts and talks to it: mounts whose daemon is another process, gone when the test ends. */

import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

const SERVE = join(import.meta.dirname, 'serve.ts');
const ANSWER_TIMEOUT_MS = 20_000;

export interface Answer {
  readonly ready?: boolean;
  readonly unmounted?: boolean;
  readonly closed?: string;
  readonly failed?: { code: string; message: string; hint: string };
  readonly calls?: Record<string, number>;
  readonly forgotten?: number;
}

export interface Daemon extends AsyncDisposable {
  readonly process: ChildProcess;
  /** The next line it says. */
  next(): Promise<Answer>;
  ask(command: string): Promise<Answer>;
  kill(signal: NodeJS.Signals): Promise<void>;
}

export function startDaemon(paths: string[]): Daemon {
  const child = spawn(process.execPath, [SERVE, ...paths], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const next = async (): Promise<Answer> => {
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
    const late = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new Error('the daemon does not answer')));
    });
    const line = await Promise.race([lines.next(), late]);
    if (line.done) throw new Error('the daemon ended');
    return JSON.parse(line.value) as Answer;
  };
  return {
    process: child,
    next,
    ask(command) {
      child.stdin.write(`${command}\n`);
      return next();
    },
    async kill(signal) {
      child.kill(signal);
      await exited;
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL');
        await exited;
      }
      for (const path of paths) detach(path);
    },
  };
}

function detach(path: string): void {
  try {
    execFileSync('umount', ['-i', '-l', path], { stdio: 'ignore' });
  } catch {
    // Not mounted any more: what the test was about.
  }
}

/** A temporary directory with the mount points asked for. */
export function mountPoints(count: number): { paths: string[] } & Disposable {
  const root = mkdtempSync(join(tmpdir(), 'warren-fuse-'));
  const paths = Array.from({ length: count }, (_, index) => join(root, `mnt${index + 1}`));
  for (const path of paths) mkdirSync(path);
  return { paths, [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }) };
}

const run = promisify(execFile);

/** A syscall of test/fuse/syscalls.py. */
export async function syscall(name: string, ...args: (string | number)[]): Promise<unknown> {
  const script = join(import.meta.dirname, 'syscalls.py');
  const { stdout } = await run('python3', [script, name, ...args.map(String)], {
    timeout: ANSWER_TIMEOUT_MS,
  });
  return JSON.parse(stdout) as unknown;
}
