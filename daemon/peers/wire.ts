/**
 * One connection: a TLS socket with frames in both directions and a sign of life.
 *
 * What can go wrong: the other machine is cut off without a word. TCP would notice after minutes, and a healed cut
 * would be used late; so each side says something at least every second, and a connection on which nothing came for
 * some seconds is closed. A side that does not read, because its handlers are busy, does not count the silence.
 *
 * Invariant: `onClose` is called once, after it nothing else; an error of the socket never goes unheard.
 */

import type { TLSSocket } from 'node:tls';
import { decodeHeader, encodeFrame, FRAME, type Frame, FrameReader } from './frames.ts';
import { PING_TICKS, SILENT_TICKS } from './limits.ts';
import { Outbox, type Outgoing } from './outbox.ts';

const PING = encodeFrame({ kind: FRAME.ping });
/** How long the last words of a refused connection may take to get out. */
const FAREWELL_MS = 1000;

export interface WireOwner {
  onFrame(frame: Frame): void;
  /** `reason` continues "the connection ended: "; `fault`: the other side broke the protocol. */
  onClose(reason: string, fault: boolean): void;
}

export class Wire {
  readonly socket: TLSSocket;
  readonly outbox: Outbox;
  readonly #reader: FrameReader;
  #owner: WireOwner;
  #closed = false;
  #blocked = false;
  #received = false;
  #sent = false;
  #silentTicks = 0;
  #quietTicks = 0;

  constructor(socket: TLSSocket, owner: WireOwner) {
    this.socket = socket;
    this.#owner = owner;
    this.outbox = new Outbox(socket);
    this.#reader = new FrameReader({
      onFrame: (frame) => {
        if (!this.#closed && frame.kind !== FRAME.ping) this.#owner.onFrame(frame);
      },
      blocked: () => this.#blocked || this.#closed,
    });
    let reason = 'the other side closed it';
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('error', (error) => {
      reason = error.message;
    });
    // Nobody speaks on half a connection.
    socket.on('end', () => socket.destroy());
    socket.on('close', () => this.#ended(reason));
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** From now on `owner` is told; both are told the same way. */
  own(owner: WireOwner): void {
    this.#owner = owner;
  }

  /** Accepts frames of full size from now on. */
  trust(): void {
    this.#reader.trust();
  }

  send(head: Buffer, bytes?: readonly Uint8Array[], onWritten?: () => void): Outgoing {
    this.#sent = true;
    return this.outbox.add(head, bytes, onWritten);
  }

  /** Stops reading, or goes on. */
  block(blocked: boolean): void {
    if (blocked === this.#blocked || this.#closed) return;
    this.#blocked = blocked;
    if (blocked) {
      this.socket.pause();
      return;
    }
    // Not within the caller: it may be in the middle of the very frame that unblocked.
    setImmediate(() => {
      if (this.#closed || this.#blocked) return;
      this.#guard(() => this.#reader.resume());
      if (!this.#blocked && !this.#closed) this.socket.resume();
    });
  }

  /** To be called every TICK_MS. */
  tick(): void {
    if (this.#closed) return;
    if (this.#sent || !this.outbox.idle) this.#quietTicks = 0;
    else this.#quietTicks += 1;
    this.#sent = false;
    if (this.#quietTicks >= PING_TICKS) {
      this.#quietTicks = 0;
      this.outbox.add(PING);
    }
    if (this.#received || this.#blocked) this.#silentTicks = 0;
    else this.#silentTicks += 1;
    this.#received = false;
    if (this.#silentTicks >= SILENT_TICKS) this.destroy('nothing was heard for some seconds');
  }

  /** Says why in a last frame, then ends. */
  farewell(code: string, message: string): void {
    if (this.#closed) return;
    this.outbox.add(encodeFrame({ kind: FRAME.farewell, header: { code, message } }), undefined, () => {
      this.socket.end();
      const timer = setTimeout(() => this.socket.destroy(), FAREWELL_MS);
      this.socket.once('close', () => clearTimeout(timer));
    });
  }

  destroy(reason: string): void {
    this.#ended(reason);
    this.socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#received = true;
    if (!this.#closed) this.#guard(() => this.#reader.push(chunk));
  }

  #guard(read: () => void): void {
    try {
      read();
    } catch (error) {
      this.#ended(error instanceof Error ? error.message : String(error), true);
      this.socket.destroy();
    }
  }

  #ended(reason: string, fault = false): void {
    if (this.#closed) return;
    this.#closed = true;
    this.outbox.close();
    this.#owner.onClose(reason, fault);
  }
}

/** What a farewell frame says. */
export function readFarewell(frame: Frame): { readonly code: string; readonly message: string } {
  const value = decodeHeader(frame.header);
  const field = (name: string): string => {
    const text = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
    return typeof text === 'string' ? text.slice(0, 500) : '';
  };
  return { code: field('code'), message: field('message') || 'it gave no reason' };
}
