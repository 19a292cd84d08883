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

import { createServer, type Socket } from 'node:net';
import {
  type CancellationToken,
  createMessageConnection,
  ErrorCodes,
  type MessageConnection,
  ResponseError,
} from 'vscode-jsonrpc/node';
import {
  CONTROL_METHODS,
  type ControlContext,
  type ControlHandlers,
  type ControlMethod,
  type Progress,
  WARREN_ERROR_CODE,
} from '../protocol/control-api.ts';
import { LineReader, LineWriter, progressType } from '../protocol/control-stream.ts';
import { FsError, WarrenError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';
import { clearStaleSocket, listenOnSocket, openToGroup } from './socket-file.ts';

export const CONNECTIONS_MAX = 64;
export const REQUESTS_PER_CONNECTION_MAX = 16;
/** Progress of one request is sent at most this often. */
export const PROGRESS_INTERVAL_MS = 100;
const SOCKET_GROUP = 'warren';
/** How long a client may take to read its last answers when the server closes. */
const CLOSE_TIMEOUT_MS = 1000;

export interface ControlServer {
  readonly socketPath: string;
  /** Stops listening, cancels what is running, drops every connection and removes the socket file. */
  close(): Promise<void>;
}

export interface ControlServerOptions {
  readonly socketPath: string;
  readonly handlers: ControlHandlers;
  readonly log: Log;
  /** Group that may connect beside the daemon's user; default `warren`, ignored where there is none. */
  readonly group?: string;
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
  await listenOnSocket(server, socketPath);
  // A failed accept (out of descriptors) is one client's loss.
  server.on('error', (error) =>
    log.warn('control channel could not accept a client', { reason: error.message }),
  );
  openToGroup(socketPath, options.group ?? SOCKET_GROUP, log);
  log.debug('control channel listens', { socket: socketPath });
  return {
    socketPath,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        // What was answered (to `shutdown` above all) still goes out; who does not read it is dropped.
        for (const client of clients) {
          client.end();
          setTimeout(() => client.destroy(), CLOSE_TIMEOUT_MS).unref();
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
