/**
 * What goes out on one connection: frames in order, one write to the socket at a time, many small frames in one write.
 *
 * Why not the socket's own queue: TLS copies and encrypts whatever it is given at once, so a payload of 16 MiB would
 * take 32 MiB more. Here frames wait as references to their owners' bytes; only WRITE_BYTES are with the socket. The
 * next write waits until the kernel has taken the one before, which is the back-pressure.
 *
 * Invariant: bytes that were handed to the socket are encrypted or copied before `write` returns, so that the owner of
 * a payload has to keep still only until its frame is written or detached.
 */

import type { TLSSocket } from 'node:tls';
import { WRITE_BYTES } from './limits.ts';

export interface Outgoing {
  /** Prefix and header, then the payload. */
  pieces: Uint8Array[];
  /** Told when the kernel has the last byte. */
  readonly onWritten?: () => void;
  begun: boolean;
}

export class Outbox {
  readonly #socket: TLSSocket;
  #queue: Outgoing[] = [];
  /** Place of the next frame in `#queue`: shifting an array for each frame would cost its length. */
  #next = 0;
  /** Owners of the frames whose last bytes are being written. */
  #finished: (() => void)[] = [];
  #writing = false;
  #scheduled = false;
  #closed = false;

  constructor(socket: TLSSocket) {
    this.#socket = socket;
  }

  get idle(): boolean {
    return !this.#writing && !this.#scheduled && this.#next === this.#queue.length;
  }

  /** Queues a frame; all of one turn go out together. */
  add(head: Buffer, bytes?: readonly Uint8Array[], onWritten?: () => void): Outgoing {
    const pieces: Uint8Array[] = [head];
    if (bytes !== undefined) {
      for (const piece of bytes) if (piece.length > 0) pieces.push(piece);
    }
    const frame: Outgoing = { pieces, begun: false, ...(onWritten === undefined ? {} : { onWritten }) };
    if (this.#closed) return frame;
    this.#queue.push(frame);
    if (!this.#writing && !this.#scheduled) {
      this.#scheduled = true;
      process.nextTick(this.#flush);
    }
    return frame;
  }

  /**
   * The owner of the frame's bytes wants them back. What was not begun is not sent (answers true); the rest of what
   * was begun is copied and still goes out.
   */
  detach(frame: Outgoing): boolean {
    if (frame.begun) {
      frame.pieces = frame.pieces.map((piece) => Uint8Array.from(piece));
      return false;
    }
    frame.pieces = [];
    return true;
  }

  close(): void {
    this.#closed = true;
    this.#queue = [];
    this.#next = 0;
  }

  readonly #flush = (): void => {
    this.#scheduled = false;
    if (this.#closed || this.#writing) return;
    const batch = this.#gather();
    if (batch === undefined) return;
    this.#writing = true;
    this.#socket.write(batch, this.#onWritten);
  };

  readonly #onWritten = (error?: Error | null): void => {
    this.#writing = false;
    // The socket's own error event tells its owner.
    if (error !== undefined && error !== null) return;
    const finished = this.#finished;
    this.#finished = [];
    for (const tell of finished) tell();
    this.#flush();
  };

  /** The next bytes, at most WRITE_BYTES. */
  #gather(): Uint8Array | undefined {
    const batch: Uint8Array[] = [];
    let length = 0;
    while (length < WRITE_BYTES) {
      const frame = this.#queue[this.#next];
      if (frame === undefined) break;
      const [piece] = frame.pieces;
      if (piece === undefined) {
        this.#next += 1;
        if (frame.begun && frame.onWritten !== undefined) this.#finished.push(frame.onWritten);
        continue;
      }
      frame.begun = true;
      const room = WRITE_BYTES - length;
      if (piece.length <= room) {
        batch.push(piece);
        length += piece.length;
        frame.pieces.shift();
      } else {
        batch.push(piece.subarray(0, room));
        length += room;
        frame.pieces[0] = piece.subarray(room);
      }
    }
    if (this.#next === this.#queue.length) {
      this.#queue = [];
      this.#next = 0;
    } else if (this.#next > 1024) {
      this.#queue = this.#queue.slice(this.#next);
      this.#next = 0;
    }
    return batch.length <= 1 ? batch[0] : Buffer.concat(batch, length);
  }
}
