/**
 * The driver for a daemon without root: libfuse 2.9 through the package fuse-native, mounted by fusermount.
 *
 * What the library cannot do, and what a program then sees:
 * - It does not say who calls. Every file belongs to the daemon's user, so only that user may use the mount
 *   (`allowOther` is not honoured: other users' files would get the wrong owner).
 * - Names and link targets that are not UTF-8 are refused (EINVAL; EIO for reading such a link), and so are
 *   those with U+FFFD. They show in listings, mangled.
 * - Times have milliseconds and start in 1970. Setting only one of the two times is dropped inside libfuse,
 *   which answers success: the one false success that cannot be seen from here (`touch -a`, `touch -m`, and
 *   the modification times of `tar x`).
 * - No invalidation: names and attributes are never cached and pages only while a file is open, so that what
 *   another mount changed is seen; the price is a request for every stat.
 * - No renameat2 flags (EINVAL), fallocate and O_TMPFILE (EOPNOTSUPP), POSIX ACLs (EOPNOTSUPP); SEEK_DATA sees no
 *   holes, copy_file_range copies bytes. Locks are the kernel's, within this mount only.
 * - An unlinked open file is a `.fuse_hidden…` name until its last close.
 * - Inode numbers show 32 bits; no READDIRPLUS; writes of 128 KiB; requests cannot be interrupted.
 */

import type Fuse from 'fuse-native';
import { setTimeout as sleep } from 'node:timers/promises';
import { WarrenError } from '../../protocol/errors.ts';
import type { Mount, MountOptions } from '../driver.ts';
import { MOUNT_SOURCE, openFuseDevice, prepareMountPoint } from '../mount-point.ts';
import { findMount } from '../mount-table.ts';
import { runCommand } from '../run-command.ts';
import { closeSync } from 'node:fs';
import { type Handles, openHandles } from './handles.ts';
import { libfuseOperations } from './operations.ts';
import { repairLibrary } from './repairs.ts';

const MOUNT_TIMEOUT_MS = 10_000;
const UNMOUNT_TIMEOUT_MS = 10_000;
/**
 * How long files may stay open after the mount is gone from the name space: their closes are on the way, or
 * were dropped by the kernel together with the connection.
 */
const DRAIN_TIMEOUT_MS = 1000;
const DRAIN_POLL_MS = 10;
/** How soon an unmount by somebody else is noticed: the library does not tell. */
const WATCH_INTERVAL_MS = 1000;
const WRITE_BYTES_MAX = 131_072;

/** Errors: WarrenError with what to do (no /dev/fuse, no fusermount, mount point in use, …). */
export async function mountLibfuse(options: MountOptions): Promise<Mount> {
  const { log, filesystem, mountId } = options;
  closeSync(openFuseDevice());
  await requireFusermount();
  await detachStale(options.path);
  const path = await prepareMountPoint(options.path, log);
  log.warn('libfuse drops a change of only one of the two times of a file (touch -m, tar x)', { path });
  if (options.allowOther) {
    log.warn('libfuse does not tell who calls: only the user of this daemon may use the mount', { path });
  }
  const handles = openHandles();
  const caller = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0, pid: 0, mount: mountId };
  const operations = libfuseOperations({ filesystem, handles, caller, defect: stopDaemon });
  // Loaded here: the package loads a native addon, which a daemon with the other driver must not need.
  const { default: library } = await import('fuse-native');
  const session = new library(path, operations, { timeout: false });
  session._fuseOptions = () => `-o${mountFlags(options).join(',')}`;
  repairLibrary(library, session, operations);
  await startSession(session, path);
  const device = (await findMount(path))?.device;

  const wake = new AbortController();
  const closed = watch({ path, device, handles, session, wake: wake.signal }).then(() =>
    filesystem.dropMount(mountId),
  );
  // Whoever waits for `closed` sees the failure; nobody has to.
  closed.catch(() => undefined);
  return {
    id: mountId,
    path,
    closed,
    // Nothing is cached without asking again, so no change is on its way to the kernel.
    drained: () => Promise.resolve(),
    async unmount({ force }) {
      await fusermount(path, force);
      wake.abort();
      await closed;
    },
  };
}

function mountFlags(options: MountOptions): string[] {
  return [
    'default_permissions',
    `fsname=${MOUNT_SOURCE}`,
    `subtype=${MOUNT_SOURCE}`,
    'use_ino',
    'readdir_ino',
    'big_writes',
    `max_write=${WRITE_BYTES_MAX}`,
    'entry_timeout=0',
    'negative_timeout=0',
    'attr_timeout=0',
    'nosuid',
    'nodev',
    ...(options.readOnly === true ? ['ro'] : []),
  ];
}

async function startSession(session: Fuse, path: string): Promise<void> {
  const started = Promise.withResolvers<void>();
  const timer = setTimeout(() => started.reject(new Error('no answer from the kernel')), MOUNT_TIMEOUT_MS);
  session.mount((error) => (error === null ? started.resolve() : started.reject(error)));
  try {
    await started.promise;
  } catch (error) {
    throw new WarrenError({
      code: 'MOUNT_FAILED',
      message: `fusermount could not mount ${path}: ${error instanceof Error ? error.message : String(error)}.`,
      hint: 'Its reason is in the line before this one. Check that you own the mount point and may open /dev/fuse.',
      cause: error,
    });
  } finally {
    clearTimeout(timer);
  }
}

interface Watched {
  readonly path: string;
  readonly device: string | undefined;
  readonly handles: Handles;
  readonly session: Fuse;
  /** Aborted when the mount was just taken away: look now. */
  readonly wake: AbortSignal;
}

/** Answers when the mount is gone and its open files are closed, or given up. */
async function watch({ path, device, handles, session, wake }: Watched): Promise<void> {
  const isThere = async () => device !== undefined && (await findMount(path))?.device === device;
  while (await isThere()) {
    // An aborted sleep ends at once; after it only the kernel's own delay is left.
    await sleep(
      wake.aborted ? DRAIN_POLL_MS : WATCH_INTERVAL_MS,
      undefined,
      wake.aborted ? {} : { signal: wake },
    ).catch(() => undefined);
  }
  const deadlineMs = performance.now() + DRAIN_TIMEOUT_MS;
  while (handles.size > 0 && performance.now() < deadlineMs) await sleep(DRAIN_POLL_MS);
  handles.clear();
  await new Promise<void>((resolve) => session.unmount(() => resolve()));
}

async function fusermount(path: string, force: boolean): Promise<void> {
  const result = await runCommand('fusermount', [force ? '-uz' : '-u', path], {
    timeoutMs: UNMOUNT_TIMEOUT_MS,
  });
  if (result.code === 0 || (await findMount(path)) === undefined) return;
  const busy = /busy/i.test(result.message);
  throw new WarrenError({
    code: busy ? 'MOUNT_BUSY' : 'UNMOUNT_FAILED',
    message: `${path} was not unmounted: ${result.message || 'fusermount gave no answer'}`,
    hint: busy
      ? `See who uses it with: fuser -vm ${path}; or unmount with --force.`
      : `Try: fusermount -uz ${path}`,
  });
}

/** A mount that this user's killed daemon left: fusermount detaches it without root. */
async function detachStale(path: string): Promise<void> {
  const mount = await findMount(path);
  if (mount?.source !== MOUNT_SOURCE) return;
  const probe = await runCommand('stat', ['-f', path], { timeoutMs: UNMOUNT_TIMEOUT_MS });
  if (/not connected/.test(probe.message)) await fusermount(path, true);
}

async function requireFusermount(): Promise<void> {
  const result = await runCommand('fusermount', ['-V'], { timeoutMs: UNMOUNT_TIMEOUT_MS });
  if (result.code === 0) return;
  throw new WarrenError({
    code: 'NO_FUSERMOUNT',
    message: `The program fusermount is missing: ${result.message}.`,
    hint: 'Install it: apt-get install fuse3 (or fuse).',
  });
}

/** A defect must not be served on: it ends the process as any uncaught error does. */
function stopDaemon(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}
