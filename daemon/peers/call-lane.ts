/**
 * Calls to one node on one lane: those that wait to be sent and those that wait for their answers.
 *
 * A lane outlives its connections. Calls that were sent end with the connection ("lost"); calls that wait go on
 * waiting while the connection is expected back, in order. One timer serves all: it is set for the earliest end, so a
 * stream of calls with one time-out sets it once in that time and not for each call.
 *
 * Invariant: a call is settled once, and then holds neither a place nor its caller's bytes.
 */

import type { NodeId } from '../protocol/ids.ts';
import type { Lane, PeerMethod } from '../protocol/peer-api.ts';
import { assert } from '../runtime/assert.ts';
import type { Clock } from '../runtime/clock.ts';
import { decodeHeader, encodeFrame, FRAME, type Frame, PREFIX_BYTES } from './frames.ts';
import { PeerError, type PeerErrorKind } from './interface.ts';
import { CALLS_MAX, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX } from './limits.ts';
import { METHOD_NUMBERS } from './methods.ts';
import type { Outgoing } from './outbox.ts';
import type { Wire } from './wire.ts';

const CALL_NUMBER_MAX = 2 ** 32 - 1;

interface Call {
  readonly number: number;
  readonly method: PeerMethod;
  readonly head: Buffer;
  readonly bytes: readonly Uint8Array[] | undefined;
  readonly deadlineMs: number;
  readonly resolve: (value: { answer: unknown; bytes: Buffer }) => void;
  readonly reject: (error: PeerError) => void;
  readonly signal: AbortSignal | undefined;
  onAbort: (() => void) | undefined;
  frame: Outgoing | undefined;
}

export interface CallRequest {
  readonly method: PeerMethod;
  readonly request: unknown;
  readonly bytes?: readonly Uint8Array[];
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export class CallLane {
  readonly #peer: NodeId;
  readonly #callsMax: number;
  readonly #clock: Clock;
  readonly #waiting = new Map<number, Call>();
  readonly #sent = new Map<number, Call>();
  #wire: Wire | undefined;
  #expected = false;
  #reason = 'it was not tried yet';
  #lastNumber = 0;
  #timer: NodeJS.Timeout | undefined;
  #timerMs = Number.POSITIVE_INFINITY;

  constructor(options: { peer: NodeId; lane: Lane; clock: Clock }) {
    this.#peer = options.peer;
    this.#callsMax = CALLS_MAX[options.lane];
    this.#clock = options.clock;
  }

  get connected(): boolean {
    return this.#wire !== undefined;
  }

  call(request: CallRequest): Promise<{ answer: unknown; bytes: Buffer }> {
    const { method, signal, bytes } = request;
    if (signal?.aborted === true) return Promise.reject(this.#error('aborted', method));
    if (this.#wire === undefined && !this.#expected) {
      return Promise.reject(this.#error('unreachable', method));
    }
    const number = this.#nextNumber();
    let payloadBytes = 0;
    if (bytes !== undefined) for (const piece of bytes) payloadBytes += piece.length;
    const head = encodeFrame({
      kind: FRAME.request,
      method: METHOD_NUMBERS[method],
      call: number,
      header: request.request,
      payloadBytes,
    });
    assert(
      payloadBytes <= PAYLOAD_BYTES_MAX && head.length - PREFIX_BYTES <= HEADER_BYTES_MAX,
      `a "${method}" fits into a frame, and has ${head.length} + ${payloadBytes} bytes`,
    );
    return new Promise((resolve, reject) => {
      const call: Call = {
        number,
        method,
        head,
        bytes,
        deadlineMs: this.#clock.monotonicMs() + request.timeoutMs,
        resolve,
        reject,
        signal,
        onAbort: undefined,
        frame: undefined,
      };
      if (signal !== undefined) {
        call.onAbort = () => this.#giveUp(call, 'aborted');
        signal.addEventListener('abort', call.onAbort, { once: true });
      }
      this.#waiting.set(number, call);
      this.#sendWaiting();
      this.#watch(call.deadlineMs);
    });
  }

  /** Calls go to `wire` from now on. */
  attach(wire: Wire): void {
    this.#wire = wire;
    this.#sendWaiting();
  }

  /** The connection is gone: nobody answers what was sent. */
  detach(reason: string): void {
    this.#wire = undefined;
    this.#reason = reason;
    for (const call of [...this.#sent.values()]) {
      this.#settle(call);
      const unsent = call.frame?.begun === false;
      call.reject(this.#error(unsent ? 'unreachable' : 'lost', call.method));
    }
  }

  /** Whether calls may wait for a connection; `reason`: why there is none. */
  expect(expected: boolean, reason: string): void {
    this.#expected = expected;
    this.#reason = reason;
    if (expected || this.#wire !== undefined) return;
    for (const call of [...this.#waiting.values()]) {
      this.#settle(call);
      call.reject(this.#error('unreachable', call.method));
    }
  }

  /** An answer or a refusal. */
  onFrame(frame: Frame): void {
    const call = this.#sent.get(frame.call);
    // Given up, and the answer crossed the cancellation.
    if (call === undefined) return;
    const value = decodeHeader(frame.header);
    this.#settle(call);
    if (frame.kind === FRAME.answer) {
      call.resolve({ answer: value, bytes: frame.payload });
    } else {
      const message = typeof value === 'string' ? value : 'it gave no reason';
      call.reject(new PeerError('refused', message));
    }
    this.#sendWaiting();
  }

  #nextNumber(): number {
    do {
      this.#lastNumber = this.#lastNumber === CALL_NUMBER_MAX ? 1 : this.#lastNumber + 1;
    } while (this.#sent.has(this.#lastNumber) || this.#waiting.has(this.#lastNumber));
    return this.#lastNumber;
  }

  #sendWaiting(): void {
    if (this.#wire === undefined) return;
    for (const [number, call] of this.#waiting) {
      if (this.#sent.size >= this.#callsMax) return;
      this.#waiting.delete(number);
      this.#sent.set(number, call);
      call.frame = this.#wire.send(call.head, call.bytes);
    }
  }

  #giveUp(call: Call, kind: 'timeout' | 'aborted'): void {
    this.#settle(call);
    if (call.frame !== undefined && this.#wire !== undefined) {
      const nothingSent = this.#wire.outbox.detach(call.frame);
      if (!nothingSent) this.#wire.send(encodeFrame({ kind: FRAME.cancel, call: call.number }));
    }
    call.reject(this.#error(kind, call.method));
    this.#sendWaiting();
  }

  #settle(call: Call): void {
    this.#waiting.delete(call.number);
    this.#sent.delete(call.number);
    if (call.onAbort !== undefined) call.signal?.removeEventListener('abort', call.onAbort);
    if (this.#sent.size === 0 && this.#waiting.size === 0) {
      // The timer stays: it is nearly always wanted again before it fires.
      this.#timer?.unref();
    }
  }

  #watch(deadlineMs: number): void {
    this.#timer?.ref();
    if (deadlineMs >= this.#timerMs) return;
    clearTimeout(this.#timer);
    this.#timerMs = deadlineMs;
    this.#timer = setTimeout(this.#expire, Math.max(1, Math.ceil(deadlineMs - this.#clock.monotonicMs())));
  }

  readonly #expire = (): void => {
    const nowMs = this.#clock.monotonicMs();
    this.#timer = undefined;
    this.#timerMs = Number.POSITIVE_INFINITY;
    let earliestMs = Number.POSITIVE_INFINITY;
    for (const call of [...this.#sent.values(), ...this.#waiting.values()]) {
      if (call.deadlineMs <= nowMs) this.#giveUp(call, 'timeout');
      else earliestMs = Math.min(earliestMs, call.deadlineMs);
    }
    if (earliestMs !== Number.POSITIVE_INFINITY) this.#watch(earliestMs);
  };

  #error(kind: Exclude<PeerErrorKind, 'refused'>, method: PeerMethod): PeerError {
    return new PeerError(kind, `"${method}" to node "${this.#peer}" ${this.#sentences[kind]()}`);
  }

  readonly #sentences: Record<Exclude<PeerErrorKind, 'refused'>, () => string> = {
    unreachable: () => `was not sent: ${this.#reason}`,
    lost: () => `lost its connection: ${this.#reason}`,
    timeout: () => 'had no answer in time',
    aborted: () => 'was given up',
  };

  /** Ends everything; the lane is not used again. */
  close(reason: string): void {
    this.detach(reason);
    this.expect(false, reason);
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#timerMs = Number.POSITIVE_INFINITY;
  }
}
