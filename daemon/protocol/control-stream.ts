/**
 * Messages of the control channel over a socket: one JSON text a line, in both directions.
 *
 * vscode-jsonrpc pairs requests with answers, cancels and reports progress. Its own stream reader and writer
 * are not used: they take a frame of any length and queue without bound for a peer that does not read. Here a
 * frame, the time to finish one and the bytes waiting to be sent have limits; whoever breaks one loses the
 * connection, nobody else notices. Lines also let a person talk to the socket by hand.
 */

import type { Socket } from 'node:net';
import {
  AbstractMessageReader,
  AbstractMessageWriter,
  type DataCallback,
  type Disposable,
  type Message,
  ProgressType,
} from 'vscode-jsonrpc/node';
import { z } from 'zod';
import type { Progress } from './control-api.ts';

/** An fsck answer with FINDINGS_MAX findings stays well below. */
export const FRAME_BYTES_MAX = 4 * 1024 * 1024;
/** A frame that was begun must be finished in this time. */
export const FRAME_TIMEOUT_MS = 10_000;
/** Bytes waiting for a peer that does not read. */
export const SEND_QUEUE_BYTES_MAX = 8 * 1024 * 1024;

export const progressType = new ProgressType<Progress>();

const NEWLINE = 0x0a;

export class LineReader extends AbstractMessageReader {
  readonly #socket: Socket;
  #parts: Buffer[] = [];
  #bytes = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
  }

  /** Ends the socket and reports `onError` at the first line that is too long, too slow or not a message. */
  listen(callback: DataCallback): Disposable {
    const onData = (data: Buffer): void => this.#take(data, callback);
    const onClose = (): void => {
      clearTimeout(this.#timer);
      this.fireClose();
    };
    this.#socket.on('data', onData).once('close', onClose);
    return {
      dispose: () => {
        this.#socket.off('data', onData).off('close', onClose);
        clearTimeout(this.#timer);
      },
    };
  }

  #take(data: Buffer, callback: DataCallback): void {
    let start = 0;
    while (start < data.length && !this.#socket.destroyed) {
      const end = data.indexOf(NEWLINE, start);
      const part = data.subarray(start, end === -1 ? data.length : end);
      this.#bytes += part.length;
      if (this.#bytes > FRAME_BYTES_MAX)
        return this.#fail(`a message is longer than ${FRAME_BYTES_MAX} bytes`);
      this.#parts.push(part);
      if (end === -1) break;
      start = end + 1;
      const line = Buffer.concat(this.#parts).toString('utf8');
      this.#reset();
      if (line.trim() === '') continue;
      const message = parseMessage(line);
      if (message === undefined) return this.#fail('a line is not a JSON-RPC message');
      callback(message);
    }
    if (this.#bytes > 0) {
      this.#timer ??= setTimeout(
        () => this.#fail(`a message took over ${FRAME_TIMEOUT_MS} ms`),
        FRAME_TIMEOUT_MS,
      );
    }
  }

  #reset(): void {
    this.#parts = [];
    this.#bytes = 0;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #fail(reason: string): void {
    this.#reset();
    this.fireError(new Error(reason));
    this.#socket.destroy();
  }
}

export class LineWriter extends AbstractMessageWriter {
  readonly #socket: Socket;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
  }

  /** Queues; never rejects, because a peer that is gone is told by `close`. */
  async write(message: Message): Promise<void> {
    if (this.#socket.destroyed) return;
    if (this.#socket.writableLength > SEND_QUEUE_BYTES_MAX) {
      this.fireError(
        new Error(`${this.#socket.writableLength} bytes wait for a peer that does not read`),
        message,
      );
      this.#socket.destroy();
      return;
    }
    this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  end(): void {
    this.#socket.end();
  }
}

/**
 * The shapes that JSON-RPC allows, and no others: vscode-jsonrpc trusts its peer and throws into the socket's
 * event handler where, for example, the parameters of `$/cancelRequest` are null.
 */
const idSchema = z.union([z.string(), z.number()]);
const paramsSchema = z.union([z.record(z.string(), z.unknown()), z.array(z.unknown())]).optional();
const messageSchema = z.union([
  z.strictObject({
    jsonrpc: z.literal('2.0'),
    method: z.enum(['$/cancelRequest']),
    params: z.object({ id: idSchema }),
  }),
  z.strictObject({
    jsonrpc: z.literal('2.0'),
    method: z.enum(['$/progress']),
    params: z.object({ token: idSchema, value: z.unknown() }),
  }),
  z.strictObject({
    jsonrpc: z.literal('2.0'),
    id: idSchema.optional(),
    // Everything else that starts with `$/` means something to the library and nothing to us.
    method: z.string().regex(/^(?!\$\/)/),
    params: paramsSchema,
  }),
  z.strictObject({ jsonrpc: z.literal('2.0'), id: idSchema, result: z.unknown() }),
  z.strictObject({
    jsonrpc: z.literal('2.0'),
    id: idSchema,
    error: z.object({ code: z.number(), message: z.string(), data: z.unknown().optional() }),
  }),
]);

function parseMessage(line: string): Message | undefined {
  try {
    const parsed = messageSchema.safeParse(JSON.parse(line));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}
