/**
 * Where the outside tests run: a plain directory (WARREN_TEST_DIR, to check the tests themselves on ext4) or the
 * mount of a Warren daemon started for the test file.
 *
 * A daemon, its mount and its folder must go away also when a test fails, and also when the daemon hangs: every
 * wait has a limit, SIGKILL follows SIGTERM, and a mount that is left is taken away lazily.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { after } from 'node:test';
import { requireFuse, requireRoot } from './requirements.ts';

export const REPOSITORY = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** The pinned Node runs the tests, so it runs the daemon too. */
export const NODE = process.execPath;
export const DAEMON_MAIN = join(REPOSITORY, 'dist/daemon/main.js');

const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 30_000;
const ANSWER_TIMEOUT_MS = 2000;
const POLL_MS = 10;

export interface DaemonOptions {
  /** The daemon's folder (made when missing); default: a new temporary one that is removed at the end. */
  readonly directory?: string;
  /** More words for the command line. */
  readonly words?: readonly string[];
}

export interface Daemon extends AsyncDisposable {
  readonly directory: string;
  /** Below `directory`: format.json, meta.db, small.db, chunks. */
  readonly dataDirectory: string;
  readonly mount: string;
  readonly socket: string;
  readonly pid: number;
  /** Everything the daemon wrote so far, both streams. */
  log(): string;
  /** SIGTERM, drain, unmount. Throws when it does not end well. */
  stop(): Promise<void>;
  /** SIGKILL: the mount stays behind, stale. */
  kill(): Promise<void>;
  /** Takes a stale mount away, so that the disk below can be unmounted. */
  detach(): void;
  /** Starts it again over the same folder (after `stop` or `kill`). */
  restart(): Promise<void>;
  /** `warrend fsck -d DIR --data --json`: throws unless it is clean. The daemon must not run. */
  fsck(): string;
}

/** Starts a daemon and answers once its mount answers. Errors: the daemon's log when it ends or takes too long. */
export async function startDaemon(options: DaemonOptions = {}): Promise<Daemon> {
  requireRoot();
  requireFuse();
  const temporary = options.directory === undefined ? mkdtempSync(join(tmpdir(), 'warren-test-')) : undefined;
  const directory = options.directory ?? temporary ?? '';
  // Other users must reach the mount: tests act as several.
  if (temporary !== undefined) chmodSync(temporary, 0o755);
  const mount = join(directory, 'mnt');
  const dataDirectory = join(directory, 'data');
  let child: ChildProcess | undefined;
  let log = '';

  async function start(): Promise<void> {
    const started = spawn(NODE, [DAEMON_MAIN, '--here', directory, ...(options.words ?? [])], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child = started;
    const collect = (chunk: Buffer): void => {
      log += chunk.toString();
    };
    let announced = false;
    started.stdout.on('data', (chunk: Buffer) => {
      announced = true;
      collect(chunk);
    });
    started.stderr.on('data', collect);
    const limit = performance.now() + START_TIMEOUT_MS;
    // The old mount of a killed daemon may still be there: only what this daemon says counts.
    while (!(announced && isMounted(mount) && (await answers(mount)))) {
      if (ended(started)) throw new Error(`The daemon ended before its mount answered. Its log:\n${log}`);
      if (performance.now() > limit) {
        await terminate(started);
        throw new Error(`No mount at ${mount} after ${START_TIMEOUT_MS} ms. The daemon's log:\n${log}`);
      }
      await delay(POLL_MS);
    }
  }

  const daemon: Daemon = {
    directory,
    dataDirectory,
    mount,
    socket: join(directory, 'control.sock'),
    get pid() {
      return child?.pid ?? -1;
    },
    log: () => log,
    async stop() {
      if (child === undefined || ended(child)) return;
      child.kill('SIGTERM');
      await endOf(child, STOP_TIMEOUT_MS);
      if (child.exitCode !== 0) {
        throw new Error(`The daemon ended with ${child.exitCode ?? child.signalCode}. Its log:\n${log}`);
      }
      if (isMounted(mount))
        throw new Error(`The daemon ended and left its mount at ${mount}. Its log:\n${log}`);
    },
    async kill() {
      if (child === undefined || ended(child))
        throw new Error(`The daemon is already gone. Its log:\n${log}`);
      child.kill('SIGKILL');
      await endOf(child, STOP_TIMEOUT_MS);
    },
    detach: () => void spawnSync('umount', ['-l', mount]),
    restart: start,
    fsck() {
      const result = spawnSync(NODE, [DAEMON_MAIN, 'fsck', '-d', dataDirectory, '--data', '--json'], {
        encoding: 'utf8',
        timeout: 120_000,
      });
      if (result.status !== 0) {
        throw new Error(
          `fsck of ${dataDirectory} ended with ${result.status}:\n${result.stdout}\n${result.stderr}`,
        );
      }
      return result.stdout;
    },
    async [Symbol.asyncDispose]() {
      if (child !== undefined) await terminate(child);
      spawnSync('umount', ['-l', mount]);
      if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true });
    },
  };
  try {
    await start();
  } catch (error) {
    await daemon[Symbol.asyncDispose]();
    throw error;
  }
  return daemon;
}

function ended(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function endOf(child: ChildProcess, timeoutMs: number): Promise<void> {
  if (ended(child)) return;
  await once(child, 'exit', { signal: AbortSignal.timeout(timeoutMs) });
}

async function terminate(child: ChildProcess): Promise<void> {
  if (ended(child)) return;
  child.kill('SIGTERM');
  try {
    await endOf(child, STOP_TIMEOUT_MS);
  } catch {
    child.kill('SIGKILL');
    await endOf(child, STOP_TIMEOUT_MS);
  }
}

/** By the mount table alone: a stat of a mount that hangs would hang the test. True for a stale mount too. */
export function isMounted(path: string): boolean {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .some((line) => line.split(' ')[1] === path);
}

/** Whether the mount answers, within ANSWER_TIMEOUT_MS. statfs, because a dead mount's stat still comes from a cache. */
async function answers(path: string): Promise<boolean> {
  const late = delay(ANSWER_TIMEOUT_MS, false, { ref: false });
  const answer = statfs(path).then(
    () => true,
    () => false,
  );
  return Promise.race([answer, late]);
}

export interface Target {
  readonly kind: 'directory' | 'warren';
  /** An empty directory in the file system under test. */
  readonly directory: string;
  readonly daemon?: Daemon;
}

/** The file system under test for this file; it is taken away after the file's last test. */
export async function openTarget(): Promise<Target> {
  const plain = process.env['WARREN_TEST_DIR'];
  if (plain !== undefined) {
    mkdirSync(plain, { recursive: true });
    const directory = mkdtempSync(join(plain, 'target-'));
    chmodSync(directory, 0o755);
    after(() => rmSync(directory, { recursive: true, force: true }));
    return { kind: 'directory', directory };
  }
  const daemon = await startDaemon();
  after(() => daemon[Symbol.asyncDispose]());
  return { kind: 'warren', directory: daemon.mount, daemon };
}
