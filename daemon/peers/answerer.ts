/**
 * The other end of a lane: starts the handler of each request in the order of arrival and sends the answers.
 *
 * What can go wrong: requests that come faster than handlers end, and answers that the caller does not read. Both are
 * counted from the request's first byte to the answer's last; above the limits nothing more is read from the
 * connection, which stops the sender through TCP. A handler that throws is a refused call and nothing else.
 */

import { describeError, FsError, WarrenError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';
import { LANES, type Lane, type PeerMethod } from '../protocol/peer-api.ts';
import { assert } from '../runtime/assert.ts';
import { decodeHeader, encodeFrame, FRAME, type Frame, FrameError, PREFIX_BYTES } from './frames.ts';
import { PeerError } from './interface.ts';
import {
  BULK_BYTES_MAX,
  CALLS_MAX,
  HANDLER_BYTES_MAX,
  HEADER_BYTES_MAX,
  PAYLOAD_BYTES_MAX,
} from './limits.ts';
import { isMethod } from './methods.ts';
import type { QuietLog } from './quiet-log.ts';
import type { Wire } from './wire.ts';

/** Any handler, as the table of them holds it. */
export type AnyHandler = (
  from: NodeId,
  request: unknown,
  bytes: Buffer,
) => Promise<{ readonly answer: unknown; readonly bytes?: readonly Uint8Array[] }>;

export type HandlerTable = ReadonlyMap<PeerMethod, AnyHandler>;

/** Bytes that all bulk lanes hold, and who waits for them to become fewer. */
export class BulkBudget {
  #bytes = 0;
  readonly #waiting = new Set<() => void>();

  get full(): boolean {
    return this.#bytes >= BULK_BYTES_MAX;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
  }

  remove(bytes: number): void {
    this.#bytes -= bytes;
    if (this.full) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resume of waiting) resume();
  }

  /** `resume` is called once when there is room again. */
  wait(resume: () => void): void {
    this.#waiting.add(resume);
  }

  forget(resume: () => void): void {
    this.#waiting.delete(resume);
  }
}

export interface AnswererOptions {
  readonly wire: Wire;
  readonly peer: NodeId;
  readonly lane: Lane;
  /** The caller's list of methods; a request carries a place in it. */
  readonly methods: readonly string[];
  readonly handlers: HandlerTable;
  readonly budget: BulkBudget;
  readonly log: QuietLog;
}

export class Answerer {
  readonly #options: AnswererOptions;
  readonly #methods: readonly (PeerMethod | undefined)[];
  /** Calls under way; false: nobody waits for the answer any more. */
  readonly #running = new Map<number, boolean>();
  #started = 0;
  #bytes = 0;
  #closed = false;

  constructor(options: AnswererOptions) {
    this.#options = options;
    this.#methods = options.methods.map((name) => (isMethod(name) ? name : undefined));
  }

  onFrame(frame: Frame): void {
    if (frame.kind === FRAME.cancel) {
      if (this.#running.has(frame.call)) this.#running.set(frame.call, false);
      return;
    }
    if (frame.kind !== FRAME.request) throw new FrameError(`it sent a frame of kind ${frame.kind}`);
    const held = PREFIX_BYTES + frame.header.length + frame.payload.length;
    const request = decodeHeader(frame.header);
    this.#running.set(frame.call, true);
    this.#started += 1;
    this.#hold(held);
    this.#handle(frame, request).then(
      ({ answer, bytes }) => this.#answer(frame.call, held, answer, bytes),
      (error: unknown) => this.#refuse(frame, held, error),
    );
  }

  close(): void {
    this.#closed = true;
    this.#options.budget.forget(this.#unblock);
    if (this.#options.lane === 'bulk') this.#options.budget.remove(this.#bytes);
    this.#bytes = 0;
  }

  /** Calls the handler at once, so that handlers start in the order of arrival; its throwing becomes a rejection. */
  async #handle(frame: Frame, request: unknown): ReturnType<AnyHandler> {
    const { handlers, peer, lane } = this.#options;
    const method = this.#methods[frame.method];
    const handler = method === undefined ? undefined : handlers.get(method);
    if (method === undefined || handler === undefined || LANES[method] !== lane) {
      const name = this.#options.methods[frame.method] ?? `number ${frame.method}`;
      throw new PeerError('refused', `this node does not answer "${name}" on its ${lane} lane`);
    }
    return handler(peer, request, frame.payload);
  }

  #answer(call: number, held: number, answer: unknown, bytes: readonly Uint8Array[] | undefined): void {
    let payloadBytes = 0;
    if (bytes !== undefined) for (const piece of bytes) payloadBytes += piece.length;
    if (!this.#finish(call)) return this.#release(held);
    const head = encodeFrame({ kind: FRAME.answer, call, header: answer, payloadBytes });
    assert(
      payloadBytes <= PAYLOAD_BYTES_MAX && head.length - PREFIX_BYTES <= HEADER_BYTES_MAX,
      `an answer fits into a frame, and has ${head.length} + ${payloadBytes} bytes`,
    );
    this.#send(held, head, payloadBytes, bytes);
  }

  #refuse(frame: Frame, held: number, error: unknown): void {
    const expected = error instanceof FsError || error instanceof WarrenError || error instanceof PeerError;
    if (!expected) {
      this.#options.log.error(`failed-${frame.method}`, 'a request of another node failed', {
        node: this.#options.peer,
        method: this.#methods[frame.method],
        reason: describeError(error),
        stack: error instanceof Error ? error.stack : undefined,
      });
    }
    if (!this.#finish(frame.call)) return this.#release(held);
    const message = error instanceof Error ? error.message : String(error);
    this.#send(held, encodeFrame({ kind: FRAME.refused, call: frame.call, header: message }), 0);
  }

  /** Whether somebody still waits for the answer. */
  #finish(call: number): boolean {
    this.#started -= 1;
    const wanted = this.#running.get(call) === true && !this.#closed;
    this.#running.delete(call);
    return wanted;
  }

  /** The answer counts until the kernel has it: a caller that does not read gets nothing more answered. */
  #send(held: number, head: Buffer, payloadBytes: number, bytes?: readonly Uint8Array[]): void {
    const answerBytes = head.length + payloadBytes;
    this.#bytes += answerBytes - held;
    if (this.#options.lane === 'bulk') this.#options.budget.add(answerBytes - held);
    this.#options.wire.send(head, bytes, () => this.#release(answerBytes));
    this.#regulate();
  }

  #hold(bytes: number): void {
    if (this.#closed) return;
    this.#bytes += bytes;
    if (this.#options.lane === 'bulk') this.#options.budget.add(bytes);
    this.#regulate();
  }

  #release(bytes: number): void {
    if (this.#closed) return;
    this.#bytes -= bytes;
    if (this.#options.lane === 'bulk') this.#options.budget.remove(bytes);
    this.#regulate();
  }

  readonly #unblock = (): void => this.#regulate();

  #regulate(): void {
    if (this.#closed) return;
    const { wire, lane, budget } = this.#options;
    // With nothing of its own under way a connection always goes on: others free the budget meanwhile.
    const starved = lane === 'bulk' && budget.full && this.#bytes > 0;
    if (starved) budget.wait(this.#unblock);
    wire.block(starved || this.#bytes >= HANDLER_BYTES_MAX || this.#started >= CALLS_MAX[lane]);
  }
}
