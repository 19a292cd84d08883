/**
 * One benchmark session: where it works, what it must take away again, and how its children run.
 *
 * Purpose: mounts, loop devices, daemons and gigabytes of test files must be gone at the end, also after a
 * failure or Ctrl+C. Idea: everything that must be released is pushed on one stack and released in reverse
 * order; Ctrl+C and SIGTERM abort a signal that every child listens to, so that the stack unwinds as after
 * any other failure. A SIGKILL of the benchmark itself is the one case that leaves things behind.
 *
 * What can go wrong: a busy mount at release (the children are gone by then; a lazy unmount is the last
 * resort), and a disk without room (checked before the first byte).
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, realpathSync } from 'node:fs';
import { mkdir, mkdtemp, open, rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';

const CHILD_TIMEOUT_MS = 60 * 60_000;
const FILL_BLOCK_BYTES = 4 * 1024 * 1024;

export interface Session {
  /** An empty directory on the disk under test. */
  readonly directory: string;
  /** Aborted by Ctrl+C. */
  readonly signal: AbortSignal;
  /** Registers what must be done at the end; last in, first out. */
  defer(release: () => Promise<void>): void;
}

export type Disk = { readonly kind: 'here' } | { readonly kind: 'loop'; readonly bytes: number };

/** Runs `body` in a fresh session and releases everything after it. Answers the exit code for the process. */
export async function withSession(disk: Disk, body: (session: Session) => Promise<number>): Promise<number> {
  const abort = new AbortController();
  const interrupt = () => abort.abort(new Error('interrupted'));
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  const stack: Array<() => Promise<void>> = [];
  try {
    const defer = (release: () => Promise<void>) => void stack.push(release);
    const directory = await openDirectory(disk, abort.signal, defer);
    return await body({ directory, signal: abort.signal, defer });
  } catch (error) {
    console.error(abort.signal.aborted ? 'interrupted: cleaning up' : error);
    return abort.signal.aborted ? 130 : 1;
  } finally {
    for (const release of stack.toReversed()) {
      await release().catch((error: unknown) => console.error(`could not clean up: ${String(error)}`));
    }
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

async function openDirectory(
  disk: Disk,
  signal: AbortSignal,
  defer: (release: () => Promise<void>) => void,
): Promise<string> {
  // realpath: the mount table knows no symbolic links, and mounts are looked up in it.
  const base = realpathSync(await mkdtemp(path.join(process.cwd(), '.bench-')));
  defer(() => rm(base, { recursive: true, force: true, maxRetries: 3, retryDelay: 200 }));
  if (disk.kind === 'here') return base;
  const image = path.join(base, 'disk.img');
  const { bavail, bsize } = await statfs(base);
  if (bavail * bsize < disk.bytes * 1.1) {
    throw new Error(
      `no room for a disk image of ${disk.bytes} bytes; use --disk here or a smaller --disk-size`,
    );
  }
  // Every byte is written before the run: a first write to a sparse image is several times slower than a
  // rewrite, so whoever came first would lose.
  await fill(image, disk.bytes, signal);
  await run('mkfs.ext4', ['-q', '-F', '-E', 'nodiscard,lazy_itable_init=0', image], { signal });
  const mountPoint = path.join(base, 'disk');
  await mkdir(mountPoint);
  await run('mount', ['-o', 'loop', image, mountPoint], { signal });
  defer(async () => {
    await run('umount', [mountPoint], {}).catch(() => run('umount', ['-l', mountPoint], {}));
  });
  return mountPoint;
}

async function fill(image: string, bytes: number, signal: AbortSignal): Promise<void> {
  await using file = await open(image, 'wx');
  const block = Buffer.alloc(FILL_BLOCK_BYTES, 0xa5);
  for (let offset = 0; offset < bytes; offset += block.length) {
    signal.throwIfAborted();
    await file.write(block, 0, Math.min(block.length, bytes - offset), offset);
  }
  await file.sync();
}

export interface RunOptions {
  readonly signal?: AbortSignal;
  readonly directory?: string;
  /** A file for standard output instead of the answer. */
  readonly outputFile?: string;
}

/** Runs a program to its end; answers what it printed. Throws with its error output when it fails. */
export async function run(program: string, args: readonly string[], options: RunOptions): Promise<string> {
  const output = options.outputFile === undefined ? 'pipe' : openSync(options.outputFile, 'w');
  try {
    const child = spawn(program, args, {
      stdio: ['ignore', output, 'pipe'],
      timeout: CHILD_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      ...(options.signal ? { signal: options.signal } : {}),
      ...(options.directory === undefined ? {} : { cwd: options.directory }),
    });
    return await collect(child, [program, ...args].join(' '));
  } finally {
    if (typeof output === 'number') closeSync(output);
  }
}

async function collect(child: ChildProcess, command: string): Promise<string> {
  let printed = '';
  let complaints = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (printed += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaints += text));
  const ended = Promise.withResolvers<void>();
  child.on('error', ended.reject);
  child.on('close', (code, killed) => {
    if (code === 0) ended.resolve();
    else ended.reject(new Error(`${command}: ended with ${code ?? killed}\n${complaints}${printed}`));
  });
  await ended.promise;
  return printed;
}

/** Writes back what is dirty and drops the kernel's page, dentry and inode caches. Needs root. */
export async function dropCaches(signal: AbortSignal): Promise<void> {
  await run('sync', [], { signal });
  await using file = await open('/proc/sys/vm/drop_caches', 'w');
  await file.write('3');
}
