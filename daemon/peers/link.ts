/**
 * The way to one other node: keeps a connection of its own on every lane, and says whether the node is connected, gone
 * or lost.
 *
 * The control lane leads: the others are dialled while it is up, at the address where it answered. When a connection
 * ends it is dialled again at once, because that tells a dead process (refused: gone) from a cut (no answer: lost)
 * within a round trip; after failures with growing pauses, cut short when the node was heard or its address changed.
 *
 * "Gone" is believed only of the address where the node was last known to be: a hint may name anybody's machine.
 */

import type { Member } from '../protocol/cluster.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Lane } from '../protocol/peer-api.ts';
import type { Clock } from '../runtime/clock.ts';
import { CallLane } from './call-lane.ts';
import { type Dialled, DialError, dial } from './dial.ts';
import { type MemberBook, memberRefusal } from './hello.ts';
import type { Identity } from './identity.ts';
import type { LinkState } from './interface.ts';
import { BACKOFF_MAX_MS, BACKOFF_MIN_MS, HINTS_MAX, STABLE_MS } from './limits.ts';
import type { QuietLog } from './quiet-log.ts';
import type { Wire } from './wire.ts';

const LANE_NAMES = ['control', 'log', 'bulk'] as const satisfies readonly Lane[];

export interface LinkOptions {
  readonly member: Member;
  readonly identity: () => Identity;
  readonly book: () => MemberBook;
  readonly clock: Clock;
  readonly log: QuietLog;
  readonly onState: (state: LinkState) => void;
  /** A connection that lives now, until its `onClose`. */
  readonly onWire: (wire: Wire) => void;
}

export class Link {
  readonly id: NodeId;
  readonly #options: LinkOptions;
  readonly #lanes: Readonly<Record<Lane, CallLane>>;
  readonly #live = new Map<Lane, Dialled & { membersVersion: number }>();
  readonly #ended = new AbortController();
  readonly #wakers = new Set<() => void>();
  #address: string;
  /** Where it last answered, with its certificate. */
  #proven: string | undefined;
  readonly #hints = new Set<string>();
  #state: LinkState = 'lost';
  #reason = 'it was not tried yet';
  #wakes = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.id = options.member.id;
    this.#address = options.member.address;
    const lane = (name: Lane): CallLane => new CallLane({ peer: this.id, lane: name, clock: options.clock });
    this.#lanes = { control: lane('control'), log: lane('log'), bulk: lane('bulk') };
    for (const name of LANE_NAMES) void this.#keepConnected(name);
  }

  get state(): LinkState {
    return this.#state;
  }

  /** Why it is not connected, or where it is. */
  get reason(): string {
    return this.#reason;
  }

  get release(): string | undefined {
    return this.#live.get('control')?.hello.release;
  }

  lane(name: Lane): CallLane {
    return this.#lanes[name];
  }

  /** The member's address, as the list has it. */
  move(address: string): void {
    if (address === this.#address) return;
    this.#address = address;
    if (this.#state !== 'connected') this.#proven = undefined;
    this.wake();
  }

  /** It may be reached there, too. */
  hint(address: string): void {
    if (address === this.#address || this.#hints.has(address)) return;
    if (this.#hints.size >= HINTS_MAX) {
      const [oldest] = this.#hints;
      if (oldest !== undefined) this.#hints.delete(oldest);
    }
    this.#hints.add(address);
    if (this.#state !== 'connected') this.wake();
  }

  /** Something changed or was heard: what waits for its next attempt makes it now. */
  wake(): void {
    this.#wakes += 1;
    for (const wake of this.#wakers) wake();
  }

  /** Ends connections to whom the member list no longer names. */
  review(book: MemberBook): void {
    for (const { wire, peer, membersVersion } of this.#live.values()) {
      const refusal = memberRefusal(peer, book, membersVersion);
      if (refusal !== undefined) wire.destroy(refusal.message);
    }
  }

  close(reason: string): void {
    this.#ended.abort();
    for (const name of LANE_NAMES) this.#lanes[name].close(reason);
    for (const { wire } of this.#live.values()) wire.destroy(reason);
    this.wake();
    this.#become('lost', reason);
  }

  async #keepConnected(name: Lane): Promise<void> {
    const { signal } = this.#ended;
    const { clock } = this.#options;
    let failures = 0;
    let shortLives = 0;
    while (!signal.aborted) {
      if (name !== 'control' && this.#state !== 'connected') {
        this.#lanes[name].expect(false, this.#reason);
        await this.#woken(undefined, this.#wakes);
        continue;
      }
      if (name !== 'control') this.#lanes[name].expect(true, 'its connection is being made');
      let wakes = this.#wakes;
      const dialled = await this.#dial(name);
      if (dialled !== undefined) {
        failures = 0;
        const bornMs = clock.monotonicMs();
        await this.#serve(name, dialled);
        shortLives = clock.monotonicMs() - bornMs < STABLE_MS ? shortLives + 1 : 0;
        wakes = this.#wakes;
      } else {
        // Calls on the other lanes go on waiting, each for its own time: the node itself is reached.
        failures += 1;
      }
      // The first short life is followed by an attempt at once: most likely the process just died.
      const attempts = Math.max(failures, shortLives - 1);
      if (attempts > 0) {
        await this.#woken(Math.min(BACKOFF_MIN_MS * 2 ** (attempts - 1), BACKOFF_MAX_MS), wakes);
        if (this.#wakes !== wakes) failures = 0;
      }
    }
  }

  async #dial(name: Lane): Promise<Dialled | undefined> {
    const { identity, book, log } = this.#options;
    const addresses = this.#addresses(name);
    const known = this.#proven ?? this.#address;
    const note = (address: string, error: DialError): void => {
      if (name === 'control' && address === known) this.#noteFailure(error);
    };
    try {
      return await dial(addresses, {
        to: this.id,
        lane: name,
        identity: identity(),
        book: book(),
        signal: this.#ended.signal,
        onFailure: note,
      });
    } catch (error) {
      if (!(error instanceof DialError)) throw error;
      if (this.#ended.signal.aborted) return undefined;
      if (addresses.length === 1) note(known, error);
      if (error.kind === 'unwelcome') {
        log.warn(`unwelcome ${this.id}`, 'there is no talking to a node', {
          node: this.id,
          reason: error.message,
        });
      }
      return undefined;
    }
  }

  #addresses(name: Lane): string[] {
    if (name !== 'control') return [this.#live.get('control')?.address ?? this.#proven ?? this.#address];
    const all = [this.#proven, this.#address, ...this.#hints];
    return [...new Set(all.filter((address) => address !== undefined))];
  }

  #noteFailure(error: DialError): void {
    this.#become(error.kind === 'nobody' ? 'gone' : 'lost', error.message);
  }

  /** Resolves when the connection has ended. */
  #serve(name: Lane, dialled: Dialled): Promise<void> {
    const { wire, address } = dialled;
    const lane = this.#lanes[name];
    if (wire.closed) return Promise.resolve();
    return new Promise((resolve) => {
      wire.own({
        onFrame: (frame) => lane.onFrame(frame),
        onClose: (reason) => {
          this.#live.delete(name);
          lane.detach(reason);
          if (name === 'control') {
            lane.expect(false, reason);
            this.#become('lost', `the connection ended: ${reason}`);
          }
          resolve();
        },
      });
      this.#live.set(name, { ...dialled, membersVersion: dialled.hello.members });
      lane.attach(wire);
      this.#options.onWire(wire);
      if (name === 'control') {
        this.#proven = address;
        this.#become('connected', `at ${address}`);
      }
    });
  }

  #become(state: LinkState, reason: string): void {
    this.#reason = reason;
    if (state === this.#state) return;
    this.#state = state;
    // The other lanes wait for this.
    if (state === 'connected') this.wake();
    for (const name of ['log', 'bulk'] as const) {
      this.#lanes[name].expect(state === 'connected', state === 'connected' ? 'it is being dialled' : reason);
    }
    this.#options.onState(state);
  }

  /** Waits for `wake`, for `delayMs` at most; not at all when `wake` was called since `wakes`. */
  #woken(delayMs: number | undefined, wakes: number): Promise<void> {
    if (this.#wakes !== wakes || this.#ended.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = delayMs === undefined ? undefined : setTimeout(() => wake(), delayMs);
      const wake = (): void => {
        clearTimeout(timer);
        this.#wakers.delete(wake);
        resolve();
      };
      this.#wakers.add(wake);
    });
  }
}
