/**
 * What is compared: a directory that a program can work in, and the process behind it.
 *
 * `plain` is the disk itself, `bindfs` the same disk through libfuse (the ceiling of an ordinary FUSE file
 * system), `warren` a daemon built from this repository with its data on the same disk. All three share one
 * disk, so a ratio between them says what the software costs.
 *
 * Invariants: a target's process is started, stopped and found by its id only. After `stop` no mount and no
 * process is left, whatever the state before.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { dropCaches, run, type Session } from './session.ts';

const MOUNT_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 120_000;
const POLL_MS = 5;
const COMPLAINT_CHARACTERS_MAX = 4000;
/** Linux's USER_HZ, the unit of the times in /proc/PID/stat: 100 on every architecture Node runs on. */
const TICKS_PER_SECOND = 100;

export const TARGET_NAMES = ['plain', 'bindfs', 'warren'] as const;
export type TargetName = (typeof TARGET_NAMES)[number];

export interface MemoryBytes {
  readonly current: number;
  /** Since the start of the process or the last `resetPeak`. */
  readonly peak: number;
}

export interface Target {
  readonly name: TargetName;
  /** Where programs work. */
  readonly directory: string;
  /** What lies on the disk: for disk use. */
  readonly dataDirectory: string;
  dropCaches(): Promise<void>;
  /**
   * Stops and starts the process behind the mount, with `whileStopped` between; answers the milliseconds
   * from start to mounted.
   */
  remount(whileStopped?: () => Promise<void>): Promise<number>;
  /** Of the process behind the mount; zeros where there is none. */
  memoryBytes(): MemoryBytes;
  resetPeak(): void;
  /** User and system time of all processes behind the mount so far. */
  cpuSeconds(): number;
  stop(): Promise<void>;
}

/** Starts the named targets below the session's directory; the session stops them. */
export async function openTargets(names: readonly TargetName[], session: Session): Promise<Target[]> {
  const targets: Target[] = [];
  for (const name of names) {
    const target = await openTarget(name, session);
    targets.push(target);
  }
  return targets;
}

async function openTarget(name: TargetName, session: Session): Promise<Target> {
  const base = path.join(session.directory, name);
  await mkdir(base);
  if (name === 'plain') return plainDirectory(base, session);
  if (name === 'bindfs') {
    const dataDirectory = path.join(base, 'data');
    const directory = path.join(base, 'mnt');
    await mkdir(dataDirectory);
    await mkdir(directory);
    return mounted(session, {
      name,
      directory,
      dataDirectory,
      command: ['bindfs', '-f', dataDirectory, directory],
    });
  }
  const root = path.resolve(import.meta.dirname, '..');
  const command = [path.join(root, 'daemon/warrend'), '--here', base];
  return mounted(session, {
    name,
    directory: path.join(base, 'mnt'),
    dataDirectory: path.join(base, 'data'),
    command,
  });
}

function plainDirectory(base: string, session: Session): Target {
  return {
    name: 'plain',
    directory: base,
    dataDirectory: base,
    dropCaches: () => dropCaches(session.signal),
    remount: () => Promise.resolve(0),
    memoryBytes: () => ({ current: 0, peak: 0 }),
    resetPeak: () => undefined,
    cpuSeconds: () => 0,
    stop: () => Promise.resolve(),
  };
}

interface MountedOptions {
  readonly name: TargetName;
  readonly directory: string;
  readonly dataDirectory: string;
  /** A program that stays in the foreground, mounts, and unmounts at SIGINT. */
  readonly command: readonly string[];
}

async function mounted(session: Session, options: MountedOptions): Promise<Target> {
  let child: ChildProcess | undefined;
  let cpuSecondsBefore = 0;
  let mountedOnce = false;

  async function start(): Promise<number> {
    const startedMs = performance.now();
    const { child: started, complaints } = launch(options.command);
    child = started;
    // Programs then see ENOTCONN, which says nothing about the reason.
    started.on('exit', (code, killed) => {
      if (child === started && mountedOnce) {
        console.error(`${options.name} ended by itself (${code ?? killed})\n${complaints()}`);
      }
    });
    await untilMounted(started, { ...options, complaints }, session.signal);
    mountedOnce = true;
    return performance.now() - startedMs;
  }

  async function stop(): Promise<void> {
    if (child === undefined) return;
    const ending = child;
    child = undefined;
    if (isRunning(ending)) {
      cpuSecondsBefore += readCpuSeconds(ending.pid);
      const gone = once(ending, 'exit');
      ending.kill('SIGINT');
      const timeout = new AbortController();
      const late = sleep(STOP_TIMEOUT_MS, 'late', { signal: timeout.signal }).catch(() => 'gone');
      const result = await Promise.race([gone, late]);
      timeout.abort();
      if (result === 'late') {
        ending.kill('SIGKILL');
        await gone;
        console.error(`${options.name} did not stop at SIGINT within ${STOP_TIMEOUT_MS} ms and was killed`);
      }
    }
    if (isMountPoint(options.directory)) await run('umount', ['-l', options.directory], {});
  }

  session.defer(stop);
  await start();
  return {
    name: options.name,
    directory: options.directory,
    dataDirectory: options.dataDirectory,
    dropCaches: () => dropCaches(session.signal),
    async remount(whileStopped) {
      await stop();
      await whileStopped?.();
      return start();
    },
    memoryBytes: () => readMemoryBytes(child?.pid),
    resetPeak() {
      if (child?.pid !== undefined) writeFileSync(`/proc/${child.pid}/clear_refs`, '5');
    },
    cpuSeconds: () => cpuSecondsBefore + readCpuSeconds(child?.pid),
    stop,
  };
}

interface Launched {
  readonly child: ChildProcess;
  /** The end of what it wrote to standard error. */
  readonly complaints: () => string;
}

function launch(command: readonly string[]): Launched {
  const [program, ...args] = command;
  if (program === undefined) throw new Error('an empty command');
  // A session of its own, so that Ctrl+C in the terminal reaches only the benchmark, which then stops the
  // targets in the right order.
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (more: string) => {
    text = (text + more).slice(-COMPLAINT_CHARACTERS_MAX);
  });
  child.on('error', (error) => {
    text += error.message;
  });
  return { child, complaints: () => text };
}

async function untilMounted(
  child: ChildProcess,
  options: MountedOptions & { complaints: () => string },
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = performance.now() + MOUNT_TIMEOUT_MS;
  while (!isMountPoint(options.directory)) {
    signal.throwIfAborted();
    if (!isRunning(child)) {
      const command = options.command.join(' ');
      throw new Error(`${options.name} ended before it was mounted\n  ${command}\n${options.complaints()}`);
    }
    if (performance.now() > deadlineMs) {
      throw new Error(
        `${options.name} was not mounted after ${MOUNT_TIMEOUT_MS} ms\n${options.complaints()}`,
      );
    }
    await sleep(POLL_MS);
  }
}

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

function isMountPoint(directory: string): boolean {
  // The kernel writes a blank as \040 in this table.
  const escaped = directory.replaceAll(' ', String.raw`\040`);
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some((line) => line.split(' ')[4] === escaped);
}

function readMemoryBytes(pid: number | undefined): MemoryBytes {
  if (pid === undefined) return { current: 0, peak: 0 };
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kibibytes = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
  return { current: kibibytes('VmRSS') * 1024, peak: kibibytes('VmHWM') * 1024 };
}

function readCpuSeconds(pid: number | undefined): number {
  if (pid === undefined) return 0;
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The second field is the command name in brackets and may hold blanks; utime and stime are 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
