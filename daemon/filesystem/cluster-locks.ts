/**
 * Locks of several machines: one authority, the leader; every other node asks it and remembers what it got.
 *
 * Each node keeps a lock table. On the leader it holds the locks of all nodes; elsewhere only the node's own, as a
 * record of what was granted. Mount ids are unique in the cluster (`mountBase`), so an owner of one node is never
 * taken for one of another.
 *
 * What can go wrong. The leader dies: the record of each node survives, and the next leader gets it as an `assert`
 * before it gives anything to that node; it gives nothing to anybody until every in-sync node has asserted, has left,
 * or GRACE_MS have passed. A node dies: the leader drops its locks when it leaves the in-sync set. An answer comes
 * after the leadership changed: it counts for nothing and the question is asked again. A node was thought dead and
 * comes back: what it asserts is taken as far as nobody else got it meanwhile; what is lost is logged, because no
 * program can be told.
 *
 * Left out: locks do not survive the death of the node whose programs hold them, and waiters lose their place in the
 * queue when the leader changes.
 */

import { FsError } from '../protocol/errors.ts';
import type { Inode, MountId, NodeId } from '../protocol/ids.ts';
import type { LockAnswer, LockCall, LockSpan, LockTableName } from '../protocol/peer-api.ts';
import type { Log } from '../runtime/log.ts';
import { LOCK_END, type LockOwner, type RangeLock } from './interface.ts';
import { type HeldSpan, type Locks, type LockTable, lockTable } from './locks.ts';

/** How long a new leader gives nothing while nodes have not told what they hold. */
const GRACE_MS = 5000;
/** Mounts of one node have ids `member number * this` and up. */
export const MOUNTS_PER_NODE = 65_536;
const RETRY_MS = 50;

/** Who leads, as the lock tables need to know it. `term` changes with every leadership. */
export type LockLeader =
  | { readonly kind: 'none' }
  | { readonly kind: 'self'; readonly term: number }
  | { readonly kind: 'other'; readonly node: NodeId; readonly term: number };

export interface ClusterLocksOptions {
  readonly self: { readonly number: number };
  readonly log: Log;
  /** How long a lock waits for a leader before it fails with EIO. */
  readonly timeoutMs: number;
  leader(): LockLeader;
  onLeader(listener: () => void): void;
  /** Member numbers of the other in-sync nodes. */
  inSync(): readonly number[];
  /** `timeoutMs` undefined: as long as the connection lives. Rejects when the answer did not come. */
  call(to: NodeId, call: LockCall, options: { timeoutMs: number | undefined }): Promise<LockAnswer>;
  alone(): boolean;
}

export interface ClusterLocks extends Locks {
  /** Answers a call of the node with this member number. */
  handle(from: number, call: LockCall): Promise<LockAnswer>;
  /** The node left the in-sync set or was removed: its locks end. */
  nodeLost(number: number): void;
}

/** Base of a node's mount ids: the first mount is this plus one. */
export function mountBase(memberNumber: number): number {
  return memberNumber * MOUNTS_PER_NODE;
}

export function clusterLocks(options: ClusterLocksOptions): ClusterLocks {
  const { log } = options;
  const tables: Record<LockTableName, LockTable> = {
    range: lockTable({ flock: false }),
    flock: lockTable({ flock: true }),
  };
  const ofNode = (number: number) => (mount: MountId) => Math.floor(mount / MOUNTS_PER_NODE) === number;
  const isOwn = ofNode(options.self.number);
  /** The leadership that `asserted` belongs to, and the nodes that have told it what they hold. */
  let term: number | undefined;
  let asserted = new Set<number>();
  let grace: { over: Promise<void>; end: () => void } | undefined;
  /** The leadership that knows what this node holds. */
  let assertedTo: number | undefined;
  /** Waiting calls of other nodes, to cancel them: by node and id. */
  const waiting = new Map<string, AbortController>();
  let nextCall = 1;

  options.onLeader(leaderChanged);
  // Who leads may be known already.
  leaderChanged();

  function leaderChanged(): void {
    const leader = options.leader();
    if (leader.kind === 'self') {
      beginTerm(leader.term);
      return;
    }
    if (term !== undefined) {
      term = undefined;
      for (const controller of waiting.values()) controller.abort();
      for (const table of Object.values(tables)) table.dropMounts((mount) => !isOwn(mount));
      endGrace();
    }
    // Also when there is nothing to tell: the others' locks wait for every node's word.
    if (leader.kind === 'other') assertTo(leader).catch(() => {});
  }

  function beginTerm(next: number): void {
    if (term === next) return;
    term = next;
    asserted = new Set();
    if (options.inSync().length === 0) return;
    let end = (): void => {};
    const over = new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, GRACE_MS);
      end = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    const current = { over, end };
    grace = current;
    void over.then(() => {
      if (grace === current) grace = undefined;
    });
  }

  function endGrace(): void {
    grace?.end();
    grace = undefined;
  }

  function checkGrace(): void {
    if (grace !== undefined && options.inSync().every((number) => asserted.has(number))) endGrace();
  }

  function held(): LockSpan[] {
    return (['range', 'flock'] as const).flatMap((table) =>
      tables[table].held(isOwn).map((span) => wireSpan(table, span)),
    );
  }

  async function assertTo(leader: Extract<LockLeader, { kind: 'other' }>): Promise<void> {
    const answer = await options.call(
      leader.node,
      { call: 'assert', spans: held() },
      { timeoutMs: options.timeoutMs },
    );
    if (answer.kind === 'done') assertedTo = leader.term;
  }

  /** Asks the leader until it answers for a leadership that still holds. */
  async function ask(call: LockCall, wait: boolean, signal: AbortSignal | undefined): Promise<LockAnswer> {
    const deadlineMs = performance.now() + options.timeoutMs;
    for (;;) {
      if (signal?.aborted === true) return { kind: 'refused', code: 'EINTR' };
      const leader = options.leader();
      if (leader.kind === 'self') return decide(options.self.number, call, signal);
      if (leader.kind === 'other') {
        try {
          if (assertedTo !== leader.term) await assertTo(leader);
          const answer = await options.call(leader.node, call, {
            timeoutMs: wait ? undefined : options.timeoutMs,
          });
          const now = options.leader();
          const holds = now.kind === 'other' && now.term === leader.term;
          if (answer.kind === 'assert-first') assertedTo = undefined;
          else if (holds && answer.kind !== 'not-leader') return answer;
        } catch {
          // Not answered: by the same leader when it comes back, or by the next one.
        }
      }
      if (performance.now() > deadlineMs && !wait) {
        throw new FsError('EIO', 'no leader answers, which keeps the locks; see `warren status`');
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** The authority's answer. */
  async function decide(from: number, call: LockCall, signal: AbortSignal | undefined): Promise<LockAnswer> {
    if (grace !== undefined && call.call !== 'assert') await grace.over;
    switch (call.call) {
      case 'get': {
        const { table, inode } = call.span;
        const found = tables[table].test(inode, ownerOf(call.span), rangeOf(call.span));
        return {
          kind: 'conflict',
          span: found === undefined ? null : spanOf(table, inode, ownerOf(call.span), found),
        };
      }
      case 'set': {
        const { table, inode } = call.span;
        try {
          await tables[table].set(inode, ownerOf(call.span), rangeOf(call.span), { wait: call.wait, signal });
          return { kind: 'done' };
        } catch (error) {
          if (error instanceof FsError && isLockCode(error.code))
            return { kind: 'refused', code: error.code };
          throw error;
        }
      }
      case 'cancel':
        waiting.get(`${from}:${call.id}`)?.abort();
        return { kind: 'done' };
      case 'assert':
        takeOver(from, call.spans);
        return { kind: 'done' };
    }
  }

  function takeOver(from: number, spans: readonly LockSpan[]): void {
    for (const table of Object.values(tables)) table.dropMounts(ofNode(from));
    for (const span of spans) {
      try {
        // Nothing waits: what somebody else got meanwhile is lost.
        void tables[span.table].set(span.inode, ownerOf(span), rangeOf(span), { wait: false });
      } catch {
        log.warn('a lock was lost while its node was away: another node holds it now', {
          inode: span.inode,
          node: from,
        });
      }
    }
    asserted.add(from);
    checkGrace();
  }

  function isAuthority(): boolean {
    return options.alone() || (options.leader().kind === 'self' && grace === undefined);
  }

  function changesKind(inode: Inode, owner: LockOwner, lock: RangeLock): boolean {
    if (!tables.flock.holds(inode, owner)) return false;
    const held = tables.flock.held((mount) => mount === owner.mount);
    return held.some(
      (span) => span.inode === inode && span.owner.owner === owner.owner && span.type !== lock.type,
    );
  }

  function record(span: LockSpan): void {
    try {
      void tables[span.table].set(span.inode, ownerOf(span), rangeOf(span), { wait: false });
    } catch {
      // A local owner whose unlock is on its way still stands in the record; the leader's word counts.
      tables[span.table].drop(span.inode, ownerOf(span));
    }
  }

  async function setThroughLeader(
    span: LockSpan,
    wait: boolean,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const id = nextCall++;
    const cancel = () => {
      const leader = options.leader();
      if (leader.kind === 'other') {
        options.call(leader.node, { call: 'cancel', id }, { timeoutMs: options.timeoutMs }).catch(() => {});
      }
    };
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      const answer = await ask({ call: 'set', span, wait, id }, wait, signal);
      if (answer.kind === 'refused') throw new FsError(answer.code);
      if (!isAuthority()) record(span);
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  return {
    get(inode, owner, lock) {
      if (isAuthority()) return tables.range.test(inode, owner, lock);
      const span = spanOf('range', inode, owner, lock);
      return ask({ call: 'get', span }, false, undefined).then((answer) => {
        if (answer.kind !== 'conflict' || answer.span === null) return undefined;
        return rangeOf(answer.span);
      });
    },
    set(inode, owner, lock, { wait, flock, signal }) {
      const name = flock ? 'flock' : 'range';
      if (isAuthority()) return tables[name].set(inode, owner, lock, { wait, signal });
      if (lock.type === 'unlock' && !tables[name].holds(inode, owner)) return undefined;
      const span = spanOf(name, inode, owner, lock);
      // It is ours no more from now on, whatever becomes of the message: the next assert leaves it out. Another kind of
      // flock gives up the old one, also when it is refused.
      if (lock.type === 'unlock') record(span);
      else if (flock && changesKind(inode, owner, lock)) tables.flock.drop(inode, owner);
      return setThroughLeader(span, wait, signal);
    },
    drop(inode, owner) {
      if (!tables.range.holds(inode, owner)) return undefined;
      const all: RangeLock = { start: 0n, end: LOCK_END, type: 'unlock', pid: 0 };
      return this.set(inode, owner, all, { wait: false, flock: false });
    },
    releaseFlock(inode, owner) {
      if (!tables.flock.holds(inode, owner)) return;
      const all: RangeLock = { start: 0n, end: LOCK_END, type: 'unlock', pid: 0 };
      const released = this.set(inode, owner, all, { wait: false, flock: true });
      if (released !== undefined) {
        // Nobody waits for a release; a leader that did not hear of it hears of it by the next assert.
        released.catch((error: unknown) => {
          assertedTo = undefined;
          log.debug('a released lock could not be told', { reason: String(error) });
        });
      }
    },
    dropMount(mount) {
      for (const table of Object.values(tables)) table.dropMount(mount);
      const leader = options.leader();
      if (leader.kind === 'other') assertTo(leader).catch(() => {});
    },
    count: () => tables.range.count() + tables.flock.count(),
    shared: () => !options.alone(),
    async handle(from, call) {
      const leader = options.leader();
      if (leader.kind !== 'self' || term !== leader.term) return { kind: 'not-leader' };
      if (call.call === 'assert' || call.call === 'cancel') return decide(from, call, undefined);
      if (!asserted.has(from)) return { kind: 'assert-first' };
      if (call.call !== 'set' || !call.wait) return decide(from, call, undefined);
      const key = `${from}:${call.id}`;
      const controller = new AbortController();
      waiting.set(key, controller);
      try {
        return await decide(from, call, controller.signal);
      } finally {
        waiting.delete(key);
      }
    },
    nodeLost(number) {
      if (term === undefined) return;
      asserted.delete(number);
      for (const table of Object.values(tables)) table.dropMounts(ofNode(number));
      checkGrace();
    },
  };
}

function spanOf(table: LockTableName, inode: Inode, owner: LockOwner, lock: RangeLock): LockSpan {
  return {
    ...{ table, inode, mount: owner.mount, owner: String(owner.owner) },
    ...{ start: String(lock.start), end: String(lock.end), type: lock.type, pid: lock.pid },
  };
}

function rangeOf({ start, end, type, pid }: LockSpan): RangeLock {
  return { start: BigInt(start), end: BigInt(end), type, pid };
}

function wireSpan(table: LockTableName, span: HeldSpan): LockSpan {
  return spanOf(table, span.inode, span.owner, span);
}

function ownerOf(span: LockSpan): LockOwner {
  return { mount: span.mount, owner: BigInt(span.owner) };
}

function isLockCode(code: string): code is 'EAGAIN' | 'EDEADLK' | 'EINTR' {
  return code === 'EAGAIN' || code === 'EDEADLK' || code === 'EINTR';
}
