/**
 * The console's end of the control channel.
 *
 * What can go wrong: no daemon, a hung one, one that goes away in the middle of a call, an answer that does not
 * fit this release. Every call is bounded or cancellable, and every failure is a WarrenError with a next step;
 * CONTROL_UNREACHABLE is the one that ends a command with exit code 4.
 */

import { randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import {
  CancellationTokenSource,
  ConnectionError,
  createMessageConnection,
  ErrorCodes,
  type MessageConnection,
  ResponseError,
} from 'vscode-jsonrpc/node';
import {
  CONTROL_METHODS,
  type ControlMethod,
  type ControlParams,
  type ControlResult,
  type Progress,
  WARREN_ERROR_CODE,
} from '../daemon/protocol/control-api.ts';
import { LineReader, LineWriter, progressType } from '../daemon/protocol/control-stream.ts';
import { systemErrorCode, WarrenError } from '../daemon/protocol/errors.ts';

export const CONNECT_TIMEOUT_MS = 3000;
export const CALL_TIMEOUT_MS = 60_000;

export interface CallOptions {
  /** Cancels the call at the daemon too. */
  readonly signal?: AbortSignal;
  /** Default CALL_TIMEOUT_MS; Infinity for long work that shows progress. */
  readonly timeoutMs?: number;
  readonly onProgress?: (progress: Progress) => void;
}

export interface ControlClient {
  /** Errors: those of the daemon with their codes, CONTROL_UNREACHABLE, CONTROL_TIMEOUT, CANCELLED. */
  call<M extends ControlMethod>(
    method: M,
    params?: ControlParams<M>,
    options?: CallOptions,
  ): Promise<ControlResult<M>>;
  close(): void;
}

/** Connects. Errors: CONTROL_UNREACHABLE. */
export async function connectControl(options: {
  socket: string;
  timeoutMs?: number;
}): Promise<ControlClient> {
  const { socket: path } = options;
  const socket = await openSocket(path, options.timeoutMs ?? CONNECT_TIMEOUT_MS);
  const connection = createMessageConnection(new LineReader(socket), new LineWriter(socket));
  const lost = new Promise<never>((_, reject) => {
    socket.once('close', () => {
      reject(unreachableError(path, 'the daemon closed the connection'));
      connection.dispose();
    });
  });
  // Nobody may be waiting when the connection ends.
  lost.catch(() => {});
  socket.on('error', () => {});
  connection.listen();
  return {
    call: (method, params, callOptions) =>
      call({ connection, lost, method, params, options: callOptions ?? {} }),
    close: () => socket.destroy(),
  };
}

/** Connects, runs `body`, and closes. */
export async function withControl<T>(
  socket: string,
  body: (client: ControlClient) => Promise<T>,
): Promise<T> {
  const client = await connectControl({ socket });
  try {
    return await body(client);
  } finally {
    client.close();
  }
}

async function call<M extends ControlMethod>(request: {
  connection: MessageConnection;
  lost: Promise<never>;
  method: M;
  params: unknown;
  options: CallOptions;
}): Promise<ControlResult<M>> {
  const { connection, lost, method, options } = request;
  const timeoutMs = options.timeoutMs ?? CALL_TIMEOUT_MS;
  const cancellation = new CancellationTokenSource();
  const ended = Promise.withResolvers<never>();
  const giveUp = (error: WarrenError) => (): void => {
    cancellation.cancel();
    ended.reject(error);
  };
  const onAbort = giveUp(cancelledError(method));
  const timer = Number.isFinite(timeoutMs)
    ? setTimeout(giveUp(timeoutError(method, timeoutMs)), timeoutMs)
    : undefined;
  options.signal?.addEventListener('abort', onAbort, { once: true });
  if (options.signal?.aborted === true) onAbort();
  const progressToken = randomUUID();
  const progress =
    options.onProgress === undefined
      ? undefined
      : connection.onProgress(progressType, progressToken, options.onProgress);
  const given = (request.params ?? {}) as Record<string, unknown>;
  const params = progress === undefined ? given : { ...given, progressToken };
  try {
    const answer = connection.sendRequest<unknown>(method, params, cancellation.token);
    answer.catch(() => {});
    const result: unknown = await Promise.race([answer, lost, ended.promise]);
    return checkedResult(method, result);
  } catch (error) {
    // The connection was disposed before or under the call: `lost` says why.
    if (error instanceof ConnectionError) return await lost;
    if (error instanceof ResponseError && error.code === ErrorCodes.PendingResponseRejected)
      return await lost;
    if (error instanceof ResponseError) throw daemonError(method, error);
    throw error;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
    progress?.dispose();
    cancellation.dispose();
  }
}

function checkedResult<M extends ControlMethod>(method: M, result: unknown): ControlResult<M> {
  const parsed = CONTROL_METHODS[method].result.safeParse(result);
  if (parsed.success) return parsed.data as ControlResult<M>;
  throw new WarrenError({
    code: 'CONTROL_PROTOCOL',
    message: `The daemon's answer to ${method} is not one that this release of warren understands.`,
    hint: 'use the warren and the warrend of one release: `warren version` shows both',
    cause: parsed.error,
  });
}

function daemonError(method: string, error: ResponseError<unknown>): WarrenError {
  const data = error.data;
  if (error.code === WARREN_ERROR_CODE && typeof data === 'object' && data !== null) {
    const { code, hint } = data as { code?: unknown; hint?: unknown };
    return new WarrenError({
      code: typeof code === 'string' ? code : 'INTERNAL',
      message: error.message,
      hint: typeof hint === 'string' ? hint : '',
    });
  }
  return new WarrenError({
    code: 'CONTROL_PROTOCOL',
    message: `The daemon refused ${method}: ${error.message}`,
    hint: 'use the warren and the warrend of one release: `warren version` shows both',
  });
}

function openSocket(path: string, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const timer = setTimeout(() => {
      socket.destroy();
      reject(unreachableError(path, `it did not answer in ${timeoutMs} ms`));
    }, timeoutMs);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', (error) => {
      clearTimeout(timer);
      reject(unreachableError(path, reasonOf(systemErrorCode(error)), error));
    });
  });
}

function reasonOf(code: string | undefined): string {
  if (code === 'ENOENT') return 'there is no such socket';
  if (code === 'ECONNREFUSED') return 'nothing listens there';
  if (code === 'EACCES') return 'this user may not use it';
  return code ?? 'it cannot be opened';
}

function unreachableError(path: string, reason: string, cause?: unknown): WarrenError {
  const isDenied = reason.includes('may not');
  return new WarrenError({
    code: 'CONTROL_UNREACHABLE',
    message: `No daemon answers on ${path}: ${reason}.`,
    hint: isDenied
      ? 'run as root or as a member of the group that owns the socket (`warren`)'
      : 'start `warrend --config FILE`, or name its socket with `--socket`',
    cause,
  });
}

function timeoutError(method: string, timeoutMs: number): WarrenError {
  return new WarrenError({
    code: 'CONTROL_TIMEOUT',
    message: `The daemon did not answer ${method} in ${timeoutMs} ms.`,
    hint: 'look at the daemon log; it may be waiting for a slow disk',
  });
}

function cancelledError(method: string): WarrenError {
  return new WarrenError({ code: 'CANCELLED', message: `${method} was cancelled.`, hint: 'run it again' });
}
