/**
 * The clients that a storing node serves: what each has open, and what it must be told of.
 *
 * Only what a client was ever told of concerns it (`KnownInodes`), so that a change costs nothing where nobody looks.
 * Events wait in a map, one for each inode or name; beyond EVENTS_MAX they become one: everything.
 *
 * What can go wrong. A client that does not answer must not hold up the changes of others: it is waited for
 * TOLD_WITHIN_MS once, and then not again until it has caught up. Two clients that change one directory at once may each
 * hold the kernel's lock that telling the other needs: a client with a change under way on an inode that it was not yet
 * told of is waited for CROSSED_WITHIN_MS only.
 */

import { MOUNTS_PER_NODE } from './cluster-locks.ts';
import type { Inode, MountId, NodeId } from '../protocol/ids.ts';
import { type KnownInodes, knownInodes } from '../runtime/known-inodes.ts';
import type { Invalidation } from './interface.ts';

const EVENTS_MAX = 8192;
const TOLD_WITHIN_MS = 1000;
const CROSSED_WITHIN_MS = 5;
/** A client that wants events is answered at the latest after this: its sign of life. */
const POLL_MS = 1000;

export interface Session {
  readonly client: NodeId;
  readonly name: string;
  readonly known: KnownInodes;
  readonly opens: Map<string, { readonly mount: MountId; readonly inode: Inode; count: number }>;
  /** Inodes that changes under way work on, with how many. */
  readonly changing: Map<Inode, number>;
  several: boolean;
  heardMs: number;
  /** Number of the newest event. */
  last(): number;
  push(event: Invalidation, memberNumber: number): void;
  /** Takes what waits; with `wait` when there is something, or after POLL_MS. */
  take(wait: boolean): Promise<{ last: number; events: Invalidation[] }>;
  /** The client's kernels were told of the events up to `number`. */
  told(number: number): void;
  /** Resolves when the client has been told of everything so far, or is not waited for any more. */
  caughtUp(): Promise<void> | undefined;
  close(): void;
}

export function openSession(client: NodeId, name: string, onSlow: () => void): Session {
  const changing = new Map<Inode, number>();
  const known = knownInodes();
  let waiting = new Map<string, Invalidation>();
  /** Inodes of what was sent and not told yet. */
  let untold = new Set<Inode>();
  let last = 0;
  let toldTo = 0;
  let slow = false;
  let closed = false;
  let poll: (() => void) | undefined;
  let waiters: { readonly number: number; readonly resolve: () => void }[] = [];

  function concerns(event: Invalidation): boolean {
    if (event.kind === 'everything') return true;
    return known.has(event.kind === 'entry' ? event.parent : event.inode);
  }

  function settleWaiters(): void {
    const open = waiters;
    waiters = [];
    for (const waiter of open) {
      if (waiter.number <= toldTo || closed) waiter.resolve();
      else waiters.push(waiter);
    }
  }

  function isCrossed(): boolean {
    for (const inode of changing.keys()) if (untold.has(inode)) return true;
    return false;
  }

  return {
    client,
    name,
    known,
    opens: new Map(),
    changing,
    several: false,
    heardMs: performance.now(),
    last: () => last,
    push(event, memberNumber) {
      const isOwn = Math.floor(event.mount / MOUNTS_PER_NODE) === memberNumber;
      if (closed || (isOwn && !this.several) || !concerns(event)) return;
      last++;
      if (event.kind !== 'everything') untold.add(event.kind === 'entry' ? event.parent : event.inode);
      if (event.kind === 'everything' || waiting.size >= EVENTS_MAX) {
        waiting = new Map([['everything', { kind: 'everything', mount: event.mount }]]);
      } else if (!waiting.has('everything')) add(waiting, event);
      poll?.();
    },
    async take(wait) {
      if (wait && waiting.size === 0 && !closed) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, POLL_MS);
          poll = () => {
            clearTimeout(timer);
            // The events of one turn of the event loop go together.
            setImmediate(resolve);
          };
        });
        poll = undefined;
      }
      const events = [...waiting.values()];
      waiting = new Map();
      return { last, events };
    },
    told(number) {
      toldTo = Math.max(toldTo, number);
      if (toldTo >= last) {
        slow = false;
        untold = new Set();
      }
      settleWaiters();
    },
    caughtUp() {
      if (closed || slow || toldTo >= last) return undefined;
      const number = last;
      const crossed = isCrossed();
      return new Promise((resolve) => {
        const timer = setTimeout(
          () => {
            if (!crossed && !slow && toldTo < number) {
              slow = true;
              onSlow();
            }
            resolve();
          },
          crossed ? CROSSED_WITHIN_MS : TOLD_WITHIN_MS,
        );
        waiters.push({
          number,
          resolve: () => {
            clearTimeout(timer);
            resolve();
          },
        });
      });
    },
    close() {
      closed = true;
      settleWaiters();
      poll?.();
    },
  };
}

function add(waiting: Map<string, Invalidation>, event: Exclude<Invalidation, { kind: 'everything' }>): void {
  switch (event.kind) {
    case 'attributes':
      waiting.set(`attributes ${event.inode} ${event.mount}`, event);
      return;
    case 'data': {
      const key = `data ${event.inode} ${event.mount}`;
      // Two ranges of one file become the whole file: dropping too much is only slower.
      waiting.set(key, waiting.has(key) ? { ...event, offset: 0, length: 0 } : event);
      return;
    }
    case 'entry': {
      const name = Buffer.copyBytesFrom(event.name);
      waiting.set(`entry ${event.parent} ${name.toString('latin1')} ${event.mount}`, { ...event, name });
    }
  }
}
