/**
 * Serves the control channel on a Unix socket.
 *
 * What can go wrong: a socket file left by a killed daemon (replaced), one that a living daemon answers on (an
 * error), clients that send garbage, send without end, never read, or vanish in the middle of a request. None of
 * it may cost the daemon more than the connection: every limit below ends one client only, and a handler that
 * throws becomes an error answer.
 *
 * Who may connect is decided by the socket's file mode: 0660, owner the daemon's user, group `warren` where
 * there is one. The mode is set by the umask while binding, so that there is no moment with a wider one.
 */

import { chmodSync, chownSync, lstatSync, readFileSync, rmSync, type Stats } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import {
  type CancellationToken,
  createMessageConnection,
  ErrorCodes,
  type MessageConnection,
  ResponseError,
} from 'vscode-jsonrpc/node';
import { SOCKET_PATH_BYTES_MAX } from '../protocol/config-keys.ts';
import {
  CONTROL_METHODS,
  type ControlContext,
  type ControlHandlers,
  type ControlMethod,
  type Progress,
  WARREN_ERROR_CODE,
} from '../protocol/control-api.ts';
import { LineReader, LineWriter, progressType } from '../protocol/control-stream.ts';
import { makeDirectories } from '../protocol/durable-files.ts';
import { FsError, systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';

export const CONNECTIONS_MAX = 64;
export const REQUESTS_PER_CONNECTION_MAX = 16;
/** Progress of one request is sent at most this often. */
export const PROGRESS_INTERVAL_MS = 100;
const SOCKET_MODE = 0o660;
const SOCKET_GROUP = 'warren';
const PROBE_TIMEOUT_MS = 1000;

export interface ControlServer {
  readonly socketPath: string;
  /** Stops listening, cancels what is running, drops every connection and removes the socket file. */
  close(): Promise<void>;
}

export interface ControlServerOptions {
  readonly socketPath: string;
  readonly handlers: ControlHandlers;
  readonly log: Log;
}

/** Listens. Errors: CONTROL_SOCKET_IN_USE, CONTROL_SOCKET_FAILED. */
export async function startControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const { socketPath, log } = options;
  const clients = new Set<Socket>();
  await clearStaleSocket(socketPath);
  const server = createServer((socket) => {
    clients.add(socket);
    socket.once('close', () => clients.delete(socket));
    serveClient(socket, options);
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.on('drop', () =>
    log.warn('control channel is full, a client was refused', { connections: CONNECTIONS_MAX }),
  );
  await listen(server, socketPath);
  // A failed accept (out of descriptors) is one client's loss.
  server.on('error', (error) =>
    log.warn('control channel could not accept a client', { reason: error.message }),
  );
  openToGroup(socketPath, log);
  log.debug('control channel listens', { socket: socketPath });
  return {
    socketPath,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        // What was answered (to `shutdown` above all) still goes out; who does not read it is dropped.
        for (const client of clients) {
          client.end();
          setTimeout(() => client.destroy(), PROBE_TIMEOUT_MS).unref();
        }
      }),
  };
}

function serveClient(socket: Socket, options: ControlServerOptions): void {
  const { handlers, log } = options;
  const gone = new AbortController();
  let running = 0;
  const connection = createMessageConnection(new LineReader(socket), new LineWriter(socket), {
    error: (message) => log.debug('control client', { message }),
    warn: (message) => log.debug('control client', { message }),
    info: () => {},
    log: () => {},
  });
  socket.on('error', (error) => log.debug('control client lost', { reason: error.message }));
  socket.once('close', () => {
    gone.abort();
    connection.dispose();
  });
  connection.onError(([error]) => log.warn('control client dropped', { reason: error.message }));
  connection.onUnhandledNotification(() => {});
  connection.onRequest(async (method, params, token) => {
    if (running >= REQUESTS_PER_CONNECTION_MAX) {
      return new ResponseError(
        ErrorCodes.InvalidRequest,
        `more than ${REQUESTS_PER_CONNECTION_MAX} requests at once`,
      );
    }
    running += 1;
    try {
      return await answer({ method, params, token, connection, handlers, gone: gone.signal });
    } catch (error) {
      return errorAnswer(method, error, log);
    } finally {
      running -= 1;
    }
  });
  connection.listen();
}

async function answer(request: {
  method: string;
  params: unknown;
  token: CancellationToken;
  connection: MessageConnection;
  handlers: ControlHandlers;
  gone: AbortSignal;
}): Promise<unknown> {
  const { method, params, connection, handlers } = request;
  if (!isControlMethod(method)) {
    return new ResponseError(ErrorCodes.MethodNotFound, `there is no method "${method.slice(0, 64)}"`);
  }
  const parsed = CONTROL_METHODS[method].params.safeParse(params ?? {});
  if (!parsed.success) {
    const reason = parsed.error.issues
      .map((issue) => `${issue.path.join('.')} ${issue.message}`.trim())
      .join('; ');
    return new ResponseError(ErrorCodes.InvalidParams, `${method}: ${reason}`);
  }
  const cancelled = new AbortController();
  const subscription = request.token.onCancellationRequested(() => cancelled.abort());
  const context: ControlContext = {
    signal: AbortSignal.any([cancelled.signal, request.gone]),
    progress: progressSender(connection, params),
  };
  try {
    // The schema above checked the pairing of method and parameters, which the type system cannot follow.
    const handler = handlers[method] as (params: unknown, context: ControlContext) => unknown;
    return await handler(parsed.data, context);
  } finally {
    subscription.dispose();
  }
}

function progressSender(connection: MessageConnection, params: unknown): (progress: Progress) => void {
  const token =
    typeof params === 'object' && params !== null && 'progressToken' in params && params.progressToken;
  if (typeof token !== 'string' && typeof token !== 'number') return () => {};
  let nextMs = 0;
  return (progress) => {
    const nowMs = performance.now();
    if (nowMs < nextMs) return;
    nextMs = nowMs + PROGRESS_INTERVAL_MS;
    // A caller that is gone needs no progress; its request is being cancelled.
    connection.sendProgress(progressType, token, progress).catch(() => {});
  };
}

function errorAnswer(method: string, error: unknown, log: Log): ResponseError<unknown> {
  if (error instanceof WarrenError) {
    return new ResponseError(WARREN_ERROR_CODE, error.message, { code: error.code, hint: error.hint });
  }
  if (error instanceof FsError) {
    return new ResponseError(WARREN_ERROR_CODE, `${method} failed: ${error.message}`, {
      code: error.code,
      hint: '',
    });
  }
  const reason = error instanceof Error ? error.message : String(error);
  if (error instanceof Error && error.name === 'AbortError') {
    return new ResponseError(-32_800, `${method} was cancelled`);
  }
  log.error('a control request failed', {
    method,
    reason,
    stack: error instanceof Error ? error.stack : undefined,
  });
  return new ResponseError(WARREN_ERROR_CODE, `${method} failed: ${reason}`, {
    code: 'INTERNAL',
    hint: 'this is a defect of Warren; the daemon log has the details',
  });
}

function isControlMethod(method: string): method is ControlMethod {
  return Object.hasOwn(CONTROL_METHODS, method);
}

/** Removes a socket file that nobody answers on. */
async function clearStaleSocket(path: string): Promise<void> {
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

function listen(server: Server, path: string): Promise<void> {
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

function openToGroup(path: string, log: Log): void {
  chmodSync(path, SOCKET_MODE);
  const gid = groupNumber(SOCKET_GROUP);
  if (gid === undefined) return;
  try {
    chownSync(path, -1, gid);
  } catch (error) {
    if (systemErrorCode(error) !== 'EPERM') throw error;
    log.warn(`the control socket stays with this user: not a member of group ${SOCKET_GROUP}`, {
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
