/**
 * Ends a mount. A plain unmount is refused while programs use it; by force it is detached from its path and
 * the connection is aborted, so that those programs get errors instead of a hang.
 */

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { WarrenError } from '../../protocol/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { findMount } from '../mount-table.ts';
import { runCommand } from '../run-command.ts';

const UMOUNT_TIMEOUT_MS = 10_000;
/** Before an abort, what programs wrote through mappings gets this long to reach the daemon. */
const SYNC_TIMEOUT_MS = 5000;
const ABANDON_TIMEOUT_MS = 2000;
const CONNECTIONS = '/sys/fs/fuse/connections';

export async function unmount(mount: {
  path: string;
  /** `major:minor` of the mount. */
  device: string;
  force: boolean;
  closed: Promise<void>;
  log: Log;
}): Promise<void> {
  const { path, device, closed } = mount;
  const top = await findMount(path);
  if (top !== undefined && top.device !== device) {
    throw new WarrenError({
      code: 'MOUNT_COVERED',
      message: `Another file system (${top.type}) is mounted over ${path}.`,
      hint: `Unmount that one first: umount ${path}`,
    });
  }
  if (top !== undefined) {
    const result = await runCommand('umount', ['-i', path], { timeoutMs: UMOUNT_TIMEOUT_MS });
    if (result.code === 0) return closed;
    if ((await findMount(path))?.device === device) {
      if (!mount.force) throw busy(path, result.message);
      await runCommand('sync', ['-f', path], { timeoutMs: SYNC_TIMEOUT_MS });
      await runCommand('umount', ['-i', '-l', path], { timeoutMs: UMOUNT_TIMEOUT_MS });
    }
  } else if (!mount.force) {
    throw busy(path, 'it was detached, and programs still have files of it open');
  }
  await abort(device, mount.log);
  return closed;
}

function busy(path: string, reason: string): WarrenError {
  return new WarrenError({
    code: 'MOUNT_BUSY',
    message: `${path} is in use and stays mounted (${reason}).`,
    hint: `See who uses it: fuser -vm ${path} (a shell whose current directory is in it counts). End them, or unmount with --force, which gives them errors.`,
  });
}

/** Ends the connection: every request under way and to come fails. */
async function abort(device: string, log: Log): Promise<void> {
  const minor = device.split(':')[1] ?? device;
  const file = `${CONNECTIONS}/${minor}/abort`;
  try {
    await writeFile(file, '1');
    return;
  } catch {
    // The control file system is often not mounted in containers.
    await runCommand('mount', ['-i', '-t', 'fusectl', 'fusectl', CONNECTIONS], {
      timeoutMs: UMOUNT_TIMEOUT_MS,
    });
  }
  try {
    await writeFile(file, '1');
  } catch (error) {
    log.warn('the connection could not be aborted; it ends when the last program closes its files', {
      file,
      error: error instanceof Error ? error.message : String(error),
    });
  }
}

/**
 * For a process that leaves through `process.exit` with a live mount: aborts the connection and detaches the
 * mount, synchronously. Otherwise Node would wait for ever for the reader thread, which blocks in the kernel.
 */
export function abandon(path: string, device: string): void {
  try {
    writeFileSync(`${CONNECTIONS}/${device.split(':')[1] ?? device}/abort`, '1');
  } catch {
    // Without the control file, detaching alone ends it once no program has files open.
  }
  spawnSync('umount', ['-i', '-c', '-l', path], { stdio: 'ignore', timeout: ABANDON_TIMEOUT_MS });
}
