/**
 * The file of a Unix socket: a stale one is replaced, a live one is an error, and its mode is right from the
 * first moment.
 */

import { chmodSync, chownSync, lstatSync, readFileSync, rmSync, type Stats } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { SOCKET_PATH_BYTES_MAX } from '../protocol/config-keys.ts';
import { makeDirectories } from '../protocol/durable-files.ts';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';

const SOCKET_MODE = 0o660;
const PROBE_TIMEOUT_MS = 1000;

/** Removes a socket file that nobody answers on. */
export async function clearStaleSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
    throw socketError(path, `its path is longer than ${SOCKET_PATH_BYTES_MAX} bytes`);
  }
  const status = lstatIfPossible(path);
  if (status === undefined) return;
  if (!status.isSocket()) throw socketError(path, 'there is a file of another kind');
  const answers = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    const done = (result: boolean): void => {
      clearTimeout(timer);
      probe.destroy();
      resolve(result);
    };
    // A full queue of waiting connections (EAGAIN) and a hung daemon are still a living owner.
    const timer = setTimeout(() => done(true), PROBE_TIMEOUT_MS);
    probe.once('connect', () => done(true));
    probe.once('error', (error) => done(!['ECONNREFUSED', 'ENOENT'].includes(systemErrorCode(error) ?? '')));
  });
  if (answers) {
    throw new WarrenError({
      code: 'CONTROL_SOCKET_IN_USE',
      message: `Another warrend answers on ${path}.`,
      hint: 'stop it, or give this daemon a socket of its own in section [control]',
    });
  }
  rmSync(path, { force: true });
}

/** A path that cannot be looked at cannot be bound either: `listen` reports it. */
function lstatIfPossible(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch {
    return undefined;
  }
}

export function listenOnSocket(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void =>
      reject(socketError(path, systemErrorCode(error) ?? String(error), error));
    server.once('error', fail);
    try {
      makeDirectories(dirname(path), 0o755);
    } catch (error) {
      return fail(error);
    }
    // Node.js binds a Unix socket within the call, so the umask is narrow for nobody else.
    const umask = process.umask(0o777 & ~SOCKET_MODE);
    try {
      server.listen(path, () => {
        server.off('error', fail);
        resolve();
      });
    } finally {
      process.umask(umask);
    }
  });
}

export function openToGroup(path: string, group: string, log: Log): void {
  chmodSync(path, SOCKET_MODE);
  const gid = groupNumber(group);
  if (gid === undefined) return;
  try {
    chownSync(path, -1, gid);
  } catch (error) {
    if (systemErrorCode(error) !== 'EPERM') throw error;
    log.warn(`the control socket stays with this user: not a member of group ${group}`, {
      socket: path,
    });
  }
}

function groupNumber(name: string): number | undefined {
  try {
    const line = readFileSync('/etc/group', 'utf8')
      .split('\n')
      .find((line) => line.startsWith(`${name}:`));
    const gid = Number.parseInt(line?.split(':')[2] ?? '', 10);
    return Number.isNaN(gid) ? undefined : gid;
  } catch {
    return undefined;
  }
}

function socketError(path: string, reason: string, cause?: unknown): WarrenError {
  return new WarrenError({
    code: 'CONTROL_SOCKET_FAILED',
    message: `The control socket ${path} cannot be made: ${reason}.`,
    hint: 'name another one in section [control], key socket, in a directory that this user may write',
    cause,
  });
}
