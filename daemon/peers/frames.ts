/**
 * Frames: how messages lie in the byte stream of a connection.
 *
 * A frame is a prefix of 16 bytes (magic u16, kind u8, method u8, call u32, length of the header u32, length of the
 * payload u32; big endian), the header (MessagePack) and the raw payload. The number of a method is its place in the
 * list that the sender's hello carries, so that releases may know different methods.
 *
 * What can go wrong: lengths from nowhere (compared with the limits before anything is allocated), garbage (the magic),
 * and bytes that arrive in any pieces. A payload in one piece of input is a view into it, else it is put together in a
 * buffer of its own; nobody writes either again.
 */

import { Packr } from 'msgpackr';
import { HEADER_BYTES_MAX, HELLO_BYTES_MAX, PAYLOAD_BYTES_MAX } from './limits.ts';

export const PREFIX_BYTES = 16;
const MAGIC = 0x5752; // "WR"
const EMPTY: Buffer = Buffer.alloc(0);

export const FRAME = {
  hello: 1,
  /** Who the other side is not talked to: `{ code, message }`; the connection ends after it. */
  farewell: 2,
  request: 3,
  answer: 4,
  /** The handler threw: `{ message }`. */
  refused: 5,
  /** Nobody waits for the answer of this call any more. */
  cancel: 6,
  ping: 7,
  join: 8,
  joined: 9,
} as const;

export interface Frame {
  readonly kind: number;
  readonly method: number;
  readonly call: number;
  readonly header: Buffer;
  readonly payload: Buffer;
}

/** Records would share state between messages; numbers above 2^32 stay numbers. */
const packr = new Packr({ useRecords: false, int64AsType: 'number', mapsAsObjects: true });

export function decodeHeader(header: Buffer): unknown {
  return header.length === 0 ? undefined : packr.unpack(header);
}

/** Prefix and header in one buffer; the payload of `payloadBytes` follows it. */
export function encodeFrame(options: {
  readonly kind: number;
  readonly method?: number;
  readonly call?: number;
  readonly header?: unknown;
  readonly payloadBytes?: number;
}): Buffer {
  const header = options.header === undefined ? EMPTY : packr.pack(options.header);
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + header.length);
  frame.writeUInt16BE(MAGIC, 0);
  frame[2] = options.kind;
  frame[3] = options.method ?? 0;
  frame.writeUInt32BE(options.call ?? 0, 4);
  frame.writeUInt32BE(header.length, 8);
  frame.writeUInt32BE(options.payloadBytes ?? 0, 12);
  header.copy(frame, PREFIX_BYTES);
  return frame;
}

export class FrameError extends Error {
  override readonly name = 'FrameError';
}

/** Cuts a byte stream into frames. `onFrame` is told of each; `blocked` is asked before each and stops the cutting. */
export class FrameReader {
  readonly #onFrame: (frame: Frame) => void;
  readonly #blocked: () => boolean;
  #headerBytesMax = HELLO_BYTES_MAX;
  #payloadBytesMax = 0;
  /** Input that was not looked at because of `blocked`. */
  #held: Buffer | undefined;
  readonly #prefix = new Gathering();
  readonly #header = new Gathering();
  readonly #payload = new Gathering();
  #stage: 'prefix' | 'header' | 'payload' = 'prefix';
  #begun = EMPTY;
  #headerDone = EMPTY;

  constructor(options: { onFrame: (frame: Frame) => void; blocked: () => boolean }) {
    this.#onFrame = options.onFrame;
    this.#blocked = options.blocked;
    this.#prefix.expect(PREFIX_BYTES);
  }

  /** From now on frames of full size are accepted: the other side has said and shown who it is. */
  trust(): void {
    this.#headerBytesMax = HEADER_BYTES_MAX;
    this.#payloadBytesMax = PAYLOAD_BYTES_MAX;
  }

  get holds(): boolean {
    return this.#held !== undefined;
  }

  /** Errors: FrameError; nothing can be read from the connection after it. */
  push(chunk: Buffer): void {
    const input = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = undefined;
    let at = 0;
    while (at < input.length) {
      if (this.#stage === 'prefix' && this.#blocked()) {
        this.#held = input.subarray(at);
        return;
      }
      at = this.#take(input, at);
    }
  }

  /** Goes on with what was held back. */
  resume(): void {
    if (this.#held !== undefined) this.push(EMPTY);
  }

  #take(input: Buffer, start: number): number {
    let at = start;
    if (this.#stage === 'prefix') {
      at = this.#prefix.fill(input, at);
      if (!this.#prefix.complete) return at;
      this.#begun = this.#prefix.take(PREFIX_BYTES);
      this.#begin(this.#begun);
      this.#stage = 'header';
    }
    if (this.#stage === 'header') {
      at = this.#header.fill(input, at);
      if (!this.#header.complete) return at;
      this.#headerDone = this.#header.take(0);
      this.#stage = 'payload';
    }
    at = this.#payload.fill(input, at);
    if (!this.#payload.complete) return at;
    const payload = this.#payload.take(0);
    this.#stage = 'prefix';
    const prefix = this.#begun;
    this.#onFrame({
      kind: prefix[2] ?? 0,
      method: prefix[3] ?? 0,
      call: prefix.readUInt32BE(4),
      header: this.#headerDone,
      payload,
    });
    return at;
  }

  #begin(prefix: Buffer): void {
    const headerBytes = prefix.readUInt32BE(8);
    const payloadBytes = prefix.readUInt32BE(12);
    if (prefix.readUInt16BE(0) !== MAGIC) throw new FrameError('it does not speak the protocol of Warren');
    if (headerBytes > this.#headerBytesMax) {
      throw new FrameError(
        `it announced a header of ${headerBytes} bytes, at most ${this.#headerBytesMax} are allowed`,
      );
    }
    if (payloadBytes > this.#payloadBytesMax) {
      throw new FrameError(
        `it announced ${payloadBytes} bytes, at most ${this.#payloadBytesMax} are allowed`,
      );
    }
    this.#header.expect(headerBytes);
    this.#payload.expect(payloadBytes);
  }
}

/** A known number of bytes from one or many pieces of input: a view where one piece has them all, else a copy. */
class Gathering {
  #wanted = 0;
  #have = 0;
  #bytes: Buffer | undefined;

  expect(bytes: number): void {
    this.#wanted = bytes;
    this.#have = 0;
    this.#bytes = undefined;
  }

  get complete(): boolean {
    return this.#have === this.#wanted;
  }

  /** Takes what is there from `at`; answers where the rest of the input begins. */
  fill(input: Buffer, at: number): number {
    const missing = this.#wanted - this.#have;
    const end = Math.min(input.length, at + missing);
    if (this.#have === 0 && end - at === missing) {
      this.#bytes = input.subarray(at, end);
    } else if (end > at) {
      // Memory of its own, not of the pool, which others write; it is not touched before bytes arrive.
      this.#bytes ??= Buffer.allocUnsafeSlow(this.#wanted);
      input.copy(this.#bytes, this.#have, at, end);
    }
    this.#have += end - at;
    return end;
  }

  /** The bytes; then it expects `next`. */
  take(next: number): Buffer {
    const bytes = this.#bytes ?? EMPTY;
    this.expect(next);
    return bytes;
  }
}
