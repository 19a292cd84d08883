/**
 * The proposals of this node that are not answered yet: where each is, and what to do when the leader changes.
 *
 * A proposal is done when its entry is committed and this node has applied it, so that whoever proposed reads it at
 * once. It is proposed again only when it is certain that it did not survive: this node has applied the first entry of
 * a newer leadership than it was sent to, and its tag has not come by. Within one leadership it is sent again with the
 * same tag, which the leader recognises. When the state was replaced meanwhile, the leader is asked what became of it.
 *
 * Entries of this node's own log that a new leader does not have are taken back (`taken-back`), and then count as not
 * seen. While nobody leads, proposals wait in their order; each ends at its deadline: EROFS when it was certainly not
 * done, EIO when that is not known.
 */

import type { OperationTag } from '../protocol/cluster.ts';
import { ERRNO, type ErrnoName, FsError } from '../protocol/errors.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { Operation, OperationOutcome } from '../protocol/operations.ts';
import type { ForwardAnswer } from '../protocol/peer-api.ts';
import type { Context } from './context.ts';
import type { Leading } from './leading.ts';
import type { Applied, OperationPayload, Rewound } from './state-machine.ts';

/** Pause before proposals whose answer was lost are sent again. */
const RESEND_MS = 50;
const SWEEP_MS = 250;
/** One forward ends at this; the leader answers within it also when it has to leave a node behind first. */
const FORWARD_WITHIN_MS = 5000;
const FIND_WITHIN_MS = 5000;

/** Where a proposal goes now. */
export type Way =
  | { readonly kind: 'local'; readonly leading: Leading }
  | { readonly kind: 'forward'; readonly leader: NodeId; readonly epoch: Epoch }
  | { readonly kind: 'wait'; readonly reason: string };

interface Pending {
  readonly order: number;
  readonly tag: OperationTag;
  readonly operation: Operation;
  readonly payload: OperationPayload;
  readonly durable: boolean;
  readonly deadlineMs: number;
  readonly resolve: (outcome: OperationOutcome) => void;
  readonly reject: (error: unknown) => void;
  /** The leadership it was given to; 0: to none. */
  epoch: Epoch;
  inFlight: boolean;
  /** Which sending is under way; the answer of an older one does not count. */
  attempt: number;
  /** Its answer was lost: commitment shows in what the leader commits. */
  orphaned: boolean;
  /** The state was replaced: the leader is asked. */
  uncertain: boolean;
  /** Its entry in this node's log. */
  appliedAt: Version | undefined;
  outcome: OperationOutcome;
  /** The leader's word: committed (and durable) as this version. */
  accepted: Version | undefined;
  refusal: { readonly error: FsError; readonly seenAt: Version } | undefined;
}

export interface Proposals {
  propose(
    operation: Operation,
    payload: OperationPayload,
    options: { readonly durable: boolean; readonly tag: OperationTag | undefined },
  ): Promise<OperationOutcome>;
  applied(applied: Applied): void;
  rewound(change: Rewound): void;
  committed(version: Version): void;
  /** Whether any is not answered yet. */
  pending(): boolean;
  /** The leader or what is known of it changed. */
  resume(): void;
  close(): void;
}

export function openProposals(options: {
  readonly context: Context;
  readonly way: () => Way;
  /** Everything applied here is durable on every in-sync node. */
  readonly barrier: () => Promise<void>;
}): Proposals {
  const { context, way } = options;
  const { state, peers, clock, timers } = context;
  const own = new Map<number, Pending>();
  /** Those with a tag of somebody else. */
  const foreign = new Map<string, Pending>();
  let sequence = 0;
  let orders = 0;
  let orphans = 0;
  /** Refused or accepted ones that wait until this node has applied as much as the leader had. */
  let behind: Pending[] = [];
  let asking = false;
  /** Up to here this node saw every entry of the common history itself, before its state was replaced. */
  let uncertainFrom = 0 as Version;
  let lastForward = { epoch: 0 as Epoch, sequence: 0 };
  let cancelResend: (() => void) | undefined;
  let cancelSweep: (() => void) | undefined;
  let closed = false;

  function find(tag: OperationTag): Pending | undefined {
    return tag.session === context.incarnation
      ? own.get(tag.sequence)
      : foreign.size === 0
        ? undefined
        : foreign.get(`${tag.sequence} ${tag.session}`);
  }

  function add(pending: Pending): void {
    const { tag } = pending;
    if (tag.session === context.incarnation) own.set(tag.sequence, pending);
    else foreign.set(`${tag.sequence} ${tag.session}`, pending);
    scheduleSweep();
  }

  function remove(pending: Pending): void {
    const { tag } = pending;
    if (tag.session === context.incarnation) own.delete(tag.sequence);
    else foreign.delete(`${tag.sequence} ${tag.session}`);
    setOrphaned(pending, false);
  }

  function isOpen(pending: Pending): boolean {
    return find(pending.tag) === pending;
  }

  function all(): Pending[] {
    return [...own.values(), ...foreign.values()].sort((a, b) => a.order - b.order);
  }

  function setOrphaned(pending: Pending, orphaned: boolean): void {
    if (pending.orphaned === orphaned) return;
    pending.orphaned = orphaned;
    orphans += orphaned ? 1 : -1;
  }

  function succeed(pending: Pending): void {
    if (!isOpen(pending)) return;
    remove(pending);
    pending.resolve(pending.outcome);
  }

  function refuse(pending: Pending, error: unknown): void {
    if (!isOpen(pending)) return;
    remove(pending);
    pending.reject(error);
  }

  /** Committed by what the leader says of its log, not by an answer of its own. */
  function finishOrphan(pending: Pending): void {
    if (!pending.durable) {
      succeed(pending);
      return;
    }
    setOrphaned(pending, false);
    options.barrier().then(
      () => succeed(pending),
      (error: unknown) => refuse(pending, error),
    );
  }

  /** This node's log has `version` of that leadership's log; one that lost may be longer. */
  function hasReached(epoch: Epoch, version: Version): boolean {
    const here = state.position();
    return here.epoch >= epoch && here.version >= version;
  }

  /** The leader's word was heard; answers once this node has applied as much. */
  function settle(pending: Pending): boolean {
    if (pending.refusal !== undefined) {
      if (!hasReached(pending.epoch, pending.refusal.seenAt)) return false;
      refuse(pending, pending.refusal.error);
      return true;
    }
    if (pending.accepted === undefined) return true;
    if (pending.appliedAt === undefined && !hasReached(pending.epoch, pending.accepted)) return false;
    succeed(pending);
    return true;
  }

  function settleOrWait(pending: Pending): void {
    if (!settle(pending)) behind.push(pending);
  }

  function start(pending: Pending): void {
    if (pending.inFlight || pending.uncertain || pending.appliedAt !== undefined) return;
    if (pending.accepted !== undefined || pending.refusal !== undefined) return;
    const to = way();
    if (to.kind === 'wait') return;
    const epoch = to.kind === 'local' ? to.leading.epoch : to.epoch;
    const here = state.position().epoch;
    // It may be in the log of a leader in between, until the new leadership's first entry was applied here.
    if (pending.epoch !== 0 && pending.epoch !== epoch && here < epoch) return;
    if (to.kind === 'local') proposeHere(pending, to.leading);
    else forward(pending, to.leader, to.epoch);
  }

  function proposeHere(pending: Pending, leading: Leading): void {
    // Given to this leadership by another node's hands already (a foreign tag): its entry tells.
    pending.epoch = leading.epoch;
    setOrphaned(pending, false);
    let version: Version;
    try {
      const { operation, payload, tag } = pending;
      const known = context.doneAs(tag);
      const done =
        known === undefined
          ? leading.propose({ operation, payload, tag })
          : { version: known, outcome: pending.outcome };
      version = done.version;
      pending.outcome = done.outcome;
      pending.appliedAt = version;
    } catch (error) {
      refuse(pending, error);
      return;
    }
    leading.wait(version, pending.durable, (reached) => {
      if (reached) succeed(pending);
      else orphan(pending);
    });
  }

  /** What becomes of it is seen in the log. */
  function orphan(pending: Pending): void {
    if (!isOpen(pending)) return;
    setOrphaned(pending, true);
    if (pending.appliedAt !== undefined && pending.appliedAt <= context.committed()) finishOrphan(pending);
  }

  function forward(pending: Pending, leader: NodeId, epoch: Epoch): void {
    const { tag } = pending;
    const isOwn = tag.session === context.incarnation;
    if (lastForward.epoch !== epoch) lastForward = { epoch, sequence: 0 };
    const previous = isOwn ? previousOf(tag.sequence, epoch) : 0;
    const [oldest] = own.keys();
    pending.epoch = epoch;
    pending.inFlight = true;
    const attempt = ++pending.attempt;
    setOrphaned(pending, false);
    if (isOwn && tag.sequence > lastForward.sequence) lastForward.sequence = tag.sequence;
    const bytes = state.encodeProposal(pending.operation, pending.payload);
    const request = {
      epoch,
      tag,
      previous,
      oldest: isOwn ? (oldest ?? tag.sequence) : 0,
      durable: pending.durable,
      size: bytes.length,
    };
    peers.call(leader, 'forward', request, { bytes: [bytes], timeoutMs: FORWARD_WITHIN_MS }).then(
      ({ answer }) => {
        if (pending.attempt !== attempt || !isOpen(pending)) return;
        pending.inFlight = false;
        answered(pending, answer);
      },
      () => {
        if (pending.attempt !== attempt) return;
        pending.inFlight = false;
        orphan(pending);
        resendSoon();
      },
    );
  }

  /** The newest sequence before this one that went to the same leadership and may matter to its order. */
  function previousOf(before: number, epoch: Epoch): number {
    if (before > lastForward.sequence) return lastForward.sequence;
    let previous = 0;
    for (const [sequence, pending] of own) {
      if (sequence >= before) break;
      if (pending.epoch === epoch) previous = sequence;
    }
    return previous;
  }

  function answered(pending: Pending, answer: ForwardAnswer): void {
    switch (answer.kind) {
      case 'accepted':
        pending.accepted = answer.version;
        settleOrWait(pending);
        break;
      case 'refused':
        pending.refusal = {
          error: new FsError(errnoName(answer.code), answer.message),
          seenAt: answer.version,
        };
        settleOrWait(pending);
        break;
      case 'out-of-order':
      case 'not-leader':
        orphan(pending);
        resendSoon();
        break;
    }
  }

  function resendSoon(): void {
    cancelResend ??= timers.after(RESEND_MS, () => {
      cancelResend = undefined;
      resume();
    });
  }

  function resume(): void {
    if (closed || (own.size === 0 && foreign.size === 0)) return;
    askForUncertain();
    const to = way();
    const epoch = to.kind === 'local' ? to.leading.epoch : to.kind === 'forward' ? to.epoch : undefined;
    for (const pending of all()) {
      if (pending.inFlight && pending.epoch !== epoch) {
        // The answer of a leader that is followed no more is not waited for.
        pending.attempt++;
        pending.inFlight = false;
        orphan(pending);
      }
      start(pending);
    }
    const waiting = all().some(
      ({ inFlight, appliedAt, accepted, refusal }) =>
        !inFlight && appliedAt === undefined && accepted === undefined && refusal === undefined,
    );
    if (waiting && to.kind !== 'wait') resendSoon();
  }

  function askForUncertain(): void {
    const to = way();
    const uncertain = all().filter((pending) => pending.uncertain);
    if (asking || uncertain.length === 0 || to.kind === 'wait') return;
    if (to.kind === 'local' || state.position().epoch < to.epoch) {
      // Not answerable here: the deadline says that it is not known.
      return;
    }
    asking = true;
    const knownTo = uncertainFrom;
    peers
      .call(to.leader, 'find-tags', { tags: uncertain.map(({ tag }) => tag) }, { timeoutMs: FIND_WITHIN_MS })
      .then(
        ({ answer }) => {
          for (const [index, pending] of uncertain.entries()) {
            if (!isOpen(pending) || !pending.uncertain) continue;
            const version = answer.versions[index] ?? null;
            if (version !== null) {
              pending.uncertain = false;
              pending.appliedAt = version;
              orphan(pending);
            } else if (answer.since <= knownTo) pending.uncertain = false;
          }
        },
        () => {},
      )
      .finally(() => {
        asking = false;
        resendSoon();
      });
  }
  function scheduleSweep(): void {
    cancelSweep ??= timers.after(SWEEP_MS, () => {
      cancelSweep = undefined;
      const nowMs = clock.monotonicMs();
      for (const pending of all()) if (nowMs >= pending.deadlineMs) expire(pending);
      if (own.size > 0 || foreign.size > 0) scheduleSweep();
    });
  }

  function expire(pending: Pending): void {
    if (pending.accepted !== undefined) {
      // It is done; that this node lags behind is shown elsewhere.
      succeed(pending);
      return;
    }
    const now = way();
    const why = now.kind === 'wait' ? now.reason : 'its nodes did not answer in time';
    refuse(
      pending,
      pending.epoch === 0
        ? new FsError('EROFS', `the cluster took no change: ${why}`)
        : new FsError('EIO', `it is not known whether the change was made: ${why}`),
    );
  }

  return {
    pending: () => own.size > 0 || foreign.size > 0,
    propose(operation, payload, { durable, tag }) {
      if (closed) return Promise.reject(new FsError('EROFS', 'replication is closed'));
      return new Promise((resolve, reject) => {
        const pending: Pending = {
          order: ++orders,
          tag: tag ?? { session: context.incarnation, sequence: ++sequence },
          operation,
          payload,
          durable,
          deadlineMs: clock.monotonicMs() + context.timeoutMs,
          resolve,
          reject,
          epoch: 0 as Epoch,
          inFlight: false,
          attempt: 0,
          orphaned: false,
          uncertain: false,
          appliedAt: undefined,
          outcome: {},
          accepted: undefined,
          refusal: undefined,
        };
        add(pending);
        start(pending);
      });
    },
    applied({ tag, version, outcome, operation }) {
      const pending = tag === null ? undefined : find(tag);
      if (pending !== undefined) {
        pending.appliedAt = version;
        pending.outcome = outcome;
        pending.uncertain = false;
        if (pending.orphaned && version <= context.committed()) finishOrphan(pending);
      }
      if (behind.length > 0) behind = behind.filter((waiting) => !settle(waiting));
      if (operation.kind === 'lead') queueMicrotask(resume);
    },
    rewound(change) {
      if (change.kind === 'taken-back') {
        for (const { tag } of change.entries) {
          const pending = tag === null ? undefined : find(tag);
          if (pending === undefined) continue;
          pending.appliedAt = undefined;
          setOrphaned(pending, true);
        }
        return;
      }
      uncertainFrom = context.committed();
      for (const pending of all()) {
        if (pending.epoch === 0 || pending.accepted !== undefined || pending.refusal !== undefined) continue;
        pending.appliedAt = undefined;
        pending.uncertain = true;
      }
      if (behind.length > 0) behind = behind.filter((waiting) => !settle(waiting));
      queueMicrotask(resume);
    },
    committed(version) {
      if (orphans === 0) return;
      for (const pending of all()) {
        if (pending.orphaned && pending.appliedAt !== undefined && pending.appliedAt <= version)
          finishOrphan(pending);
      }
    },
    resume,
    close() {
      closed = true;
      cancelResend?.();
      cancelSweep?.();
      for (const pending of all()) refuse(pending, new FsError('EIO', 'this node is shutting down'));
    },
  };
}

function errnoName(code: string): ErrnoName {
  return code in ERRNO ? (code as ErrnoName) : 'EIO';
}
