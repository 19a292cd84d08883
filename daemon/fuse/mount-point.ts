/**
 * What is checked before a mount, so that a person reads what is wrong and what to do instead of mount(8)'s
 * "bad option; for several filesystems …".
 *
 * A mount point may carry the mount of a daemon that was killed: everything on it fails with ENOTCONN. Such a
 * mount is detached. The probe of a mount runs in a child process with a time limit, because a mount whose
 * daemon hangs blocks whoever touches it.
 */

import { closeSync, constants, existsSync, fstatSync, openSync } from 'node:fs';
import { opendir, realpath, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';
import { findMount } from './mount-table.ts';
import { runCommand } from './run-command.ts';

/** `source` and subtype of every mount of Warren. */
export const MOUNT_SOURCE = 'warren';
const PROBE_TIMEOUT_MS = 2000;
const UMOUNT_TIMEOUT_MS = 5000;
/** Dead mounts that may lie on top of each other. */
const STALE_MOUNTS_MAX = 8;

/** Answers the mount point with symbolic links resolved, free of dead mounts, empty. */
export async function prepareMountPoint(path: string, log: Log): Promise<string> {
  const resolved = await resolveMountPoint(path);
  for (let count = 0; count < STALE_MOUNTS_MAX; count++) {
    const mount = await findMount(resolved);
    if (mount === undefined || !mount.type.startsWith('fuse')) break;
    if (mount.source !== MOUNT_SOURCE && !mount.type.endsWith(`.${MOUNT_SOURCE}`)) break;
    if ((await probe(resolved)) === 'alive') {
      throw new WarrenError({
        code: 'ALREADY_MOUNTED',
        message: `${resolved} is already mounted by a running Warren daemon.`,
        hint: `Unmount it first (warren unmount -m ${resolved}) or choose another mount point.`,
      });
    }
    log.warn('detaching the mount that a killed daemon left', { path: resolved });
    await detach(resolved);
  }
  await requireEmptyDirectory(resolved);
  return resolved;
}

async function resolveMountPoint(path: string): Promise<string> {
  // realpath looks at a mount's root, which a dead mount refuses and a hanging one never answers.
  if ((await findMount(resolve(path))) !== undefined) return resolve(path);
  try {
    return await realpath(path);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new WarrenError({
        code: 'MOUNT_POINT_MISSING',
        message: `The mount point ${path} does not exist.`,
        hint: `Make it: mkdir -p ${path}`,
        cause: error,
      });
    }
    throw unusable(path, error);
  }
}

async function probe(path: string): Promise<'alive' | 'dead'> {
  const result = await runCommand('stat', ['-f', path], { timeoutMs: PROBE_TIMEOUT_MS });
  const dead = /Transport endpoint is not connected|Software caused connection abort/.test(result.message);
  return dead ? 'dead' : 'alive';
}

async function detach(path: string): Promise<void> {
  const result = await runCommand('umount', ['-i', '-l', path], { timeoutMs: UMOUNT_TIMEOUT_MS });
  if (result.code === 0) return;
  throw new WarrenError({
    code: 'STALE_MOUNT',
    message: `${path} carries the mount of a killed daemon, and it could not be detached: ${result.message}`,
    hint: `As root: umount -l ${path}`,
  });
}

async function requireEmptyDirectory(path: string): Promise<void> {
  try {
    if (!(await stat(path)).isDirectory()) {
      throw new WarrenError({
        code: 'MOUNT_POINT_NOT_DIRECTORY',
        message: `The mount point ${path} is not a directory.`,
        hint: 'Choose an empty directory.',
      });
    }
    await using directory = await opendir(path);
    const first = await directory.read();
    if (first !== null) {
      throw new WarrenError({
        code: 'MOUNT_POINT_NOT_EMPTY',
        message: `The mount point ${path} is not empty (it has "${first.name}", perhaps more).`,
        hint: 'Mounting would hide what is in it: choose an empty directory, or move the files away.',
      });
    }
  } catch (error) {
    throw error instanceof WarrenError ? error : unusable(path, error);
  }
}

function unusable(path: string, error: unknown): WarrenError {
  return new WarrenError({
    code: 'MOUNT_POINT_UNUSABLE',
    message: `The mount point ${path} cannot be used: ${error instanceof Error ? error.message : String(error)}`,
    hint: `Look at it with: ls -ld ${path}; mount | grep ${path}`,
    cause: error,
  });
}

/** Refuses a daemon without root: only root may call mount(2). */
export function requireRoot(): void {
  if (process.geteuid?.() === 0) return;
  throw new WarrenError({
    code: 'NOT_ROOT',
    message: 'The kernel FUSE driver needs root to mount.',
    hint: 'Run the daemon as root (as its service does), or set driver = "libfuse" in [mount].',
  });
}

/** Opens the kernel's FUSE device and answers the descriptor. `device` is a parameter for the tests. */
export function openFuseDevice(device = '/dev/fuse'): number {
  const descriptor = openDevice(device);
  if (fstatSync(descriptor).isCharacterDevice()) return descriptor;
  closeSync(descriptor);
  throw new WarrenError({
    code: 'NO_FUSE_DEVICE',
    message: `${device} is not a device, so nothing can be mounted.`,
    hint: deviceHint(containerKind()),
  });
}

function openDevice(device: string): number {
  try {
    return openSync(device, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENODEV' || code === 'ENXIO') {
      throw new WarrenError({
        code: 'FUSE_NOT_LOADED',
        message: `${device} is there, but the kernel has no FUSE (${code}).`,
        hint: 'Load it: modprobe fuse. In a container, do so on its host.',
        cause: error,
      });
    }
    if (code === 'EACCES' && process.geteuid?.() !== 0) {
      throw new WarrenError({
        code: 'NO_FUSE_DEVICE',
        message: `This user may not open ${device}, so nothing can be mounted.`,
        hint: `Run it as root (sudo npm start). Or, to run without root, let every user open it: sudo chmod 666 ${device}`,
        cause: error,
      });
    }
    const what = code === 'ENOENT' ? 'does not exist' : `may not be opened (${code ?? String(error)})`;
    throw new WarrenError({
      code: 'NO_FUSE_DEVICE',
      message: `${device} ${what}, so nothing can be mounted.`,
      hint: deviceHint(containerKind()),
      cause: error,
    });
  }
}

/** Whether `/dev/fuse` can be opened: to choose a driver. */
export function hasFuseDevice(): boolean {
  try {
    closeSync(openSync('/dev/fuse', 'r+'));
    return true;
  } catch {
    return false;
  }
}

type ContainerKind = 'docker' | 'lxc' | 'other';

function containerKind(): ContainerKind {
  if (existsSync('/.dockerenv') || existsSync('/run/.containerenv')) return 'docker';
  if (existsSync('/dev/lxd') || existsSync('/dev/.lxc') || process.env['container'] === 'lxc') return 'lxc';
  return 'other';
}

export function deviceHint(kind: ContainerKind): string {
  const lxc = [
    'Proxmox, on the host: pct set <id> -features fuse=1 (or "features: fuse=1" in /etc/pve/lxc/<id>.conf), then restart the container.',
    'Plain LXC, in the container\'s configuration: "lxc.cgroup2.devices.allow = c 10:229 rwm" and "lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file 0 0".',
  ];
  const docker = ['Docker: start the container with --device /dev/fuse --cap-add SYS_ADMIN.'];
  const plain = ['Not in a container: modprobe fuse.'];
  const ordered = { lxc: [...lxc, ...docker], docker, other: [...plain, ...lxc, ...docker] }[kind];
  return ordered.join('\n  ');
}
