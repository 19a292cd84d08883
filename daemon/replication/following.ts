/**
 * A follower at work: takes the leader's appends, takes its own entries back where its log parts from the leader's, and
 * fetches a whole copy where that does not help. What to do is decided in follower.ts.
 *
 * An acknowledgement means: applied, written, and the kernels of this node were told what is old (bounded, because a
 * kernel may wait for a request that waits for this very entry). It is not given when this node meanwhile agreed to a
 * newer leadership.
 *
 * While entries are taken back or the state is replaced nothing else is taken: appends are answered `busy`.
 */

import {
  comparePositions,
  type EncodedEntry,
  type LogPosition,
  MEMBER_NUMBER_MAX,
} from '../protocol/cluster.ts';
import { describeError, WarrenError } from '../protocol/errors.ts';
import type { Epoch, NodeId, Version } from '../protocol/ids.ts';
import type { AppendAnswer, AppendRequest } from '../protocol/peer-api.ts';
import { assert } from '../runtime/assert.ts';
import type { Context } from './context.ts';
import { judgeAppend } from './follower.ts';
import { epochAt } from './history.ts';
import { kernelsTold } from './kernels.ts';
import { fetchSnapshot } from './snapshots.ts';

/** A failed copy is not begun again before. */
const FETCH_PAUSE_MS = 500;
/** Epochs below were no leadership: entries of a node that was in no cluster. */
const FIRST_EPOCH = MEMBER_NUMBER_MAX + 1;

/** The entries of an append are here. */
interface Taken {
  readonly kind: 'taken';
  readonly through: Version;
}

export interface Following {
  /** What it is doing instead of following, or undefined. */
  busy(): 'rewind' | 'snapshot' | undefined;
  /** Resolves when no entries of a leader are being applied; undefined: none are. */
  settled(): Promise<unknown> | undefined;
  /** Resolves when nothing is under way any more. */
  close(): Promise<void>;
}

export function startFollowing(context: Context): Following {
  const { state, peers, coordinator, clock } = context;
  const log = context.log.room('replication');
  let work: 'rewind' | 'snapshot' | undefined;
  let reason = '';
  let underWay: Promise<unknown> = Promise.resolve();
  /** The append that is being applied and written, with all that wait behind it; undefined: none. */
  let applying: Promise<unknown> | undefined;
  let fetchFromMs = 0;
  /** What `onFork` was told last: taking back may fail after it, and a copy is fetched for the same fork. */
  let keptFork: { readonly common: LogPosition; readonly last: LogPosition } | undefined;
  let closed = false;

  peers.handle('append', async (from, request, bytes) => {
    const verdict = await inOrder(() => append(from, request, bytes));
    return { answer: verdict.kind === 'taken' ? await acknowledge(request, verdict.through) : verdict };
  });

  /** Appends are judged and applied one after the other; without another one at once. */
  async function inOrder<T>(action: () => Promise<T>): Promise<T> {
    const before = applying;
    const mine = before === undefined ? action() : before.then(action);
    const settled = mine.catch(() => {});
    applying = settled;
    try {
      return await mine;
    } finally {
      if (applying === settled) applying = undefined;
    }
  }

  async function append(from: NodeId, request: AppendRequest, bytes: Buffer): Promise<AppendAnswer | Taken> {
    if (closed || from !== request.leader) throw new Error('this node takes no entries from there');
    if (!coordinator.admits(from, request.epoch)) {
      const accepts = coordinator.accepts();
      if (request.epoch < accepts) return { kind: 'stale', epoch: accepts };
      return { kind: 'busy', work: 'other-leader', reason: 'it still follows another leader' };
    }
    if (work !== undefined) return { kind: 'busy', work, reason };
    const verdict = judgeAppend(
      { last: state.position(), epochs: state.epochs() },
      coordinator.accepts(),
      request,
    );
    switch (verdict.kind) {
      case 'answer':
        return verdict.answer;
      case 'fetch':
        return fetch(from, verdict.common, 'the leader’s log does not reach back to what it has');
      case 'rewind':
        return (await rewind(from, verdict.common)) ?? append(from, request, bytes);
      case 'take':
        if (verdict.skip < request.sizes.length) {
          try {
            await state.append(entriesOf(request, bytes, verdict.skip));
          } catch (error) {
            return failed(from, error);
          }
          assert(state.position().version === verdict.through, 'an append is applied as a whole');
        }
        return { kind: 'taken', through: verdict.through };
    }
  }

  /** Everything up to `through` is applied and written. */
  async function acknowledge(request: AppendRequest, through: Version): Promise<AppendAnswer> {
    try {
      await kernelsTold(context);
      if (request.durableTo > 0 && state.durableVersion() < Math.min(request.durableTo, through)) {
        await state.barrier();
      }
    } catch (error) {
      return failed(request.leader, error);
    }
    const accepts = coordinator.accepts();
    if (accepts > request.epoch) return { kind: 'stale', epoch: accepts };
    const committed = Math.min(request.committed, through) as Version;
    if (committed > context.committed()) context.noteCommitted(committed);
    return { kind: 'appended', version: through, durable: state.durableVersion() };
  }

  function failed(leader: NodeId, error: unknown): AppendAnswer {
    if (error instanceof WarrenError && error.code === 'STATE_DIVERGED') {
      return fetch(leader, state.position(), error.message);
    }
    context.broken('entries cannot be written', error);
    throw error;
  }

  async function exclusively<T>(
    kind: 'rewind' | 'snapshot',
    why: string,
    action: () => Promise<T>,
  ): Promise<T> {
    work = kind;
    reason = why;
    const running = action();
    underWay = running.catch(() => {});
    try {
      return await running;
    } finally {
      work = undefined;
    }
  }

  /** Undefined: done, the append can be judged again. */
  function rewind(from: NodeId, common: LogPosition): Promise<AppendAnswer | undefined> {
    return exclusively('rewind', `it takes entries after ${common.version} back`, async () => {
      await keepFork(common);
      const last = state.position();
      const taken = await state.takeBack(common.version);
      log.info(`took ${last.version - common.version} entries back that ${from} does not have`, {
        common: common.version,
        possible: taken !== undefined,
      });
      return taken;
    }).then(
      (taken) =>
        taken === undefined ? fetch(from, common, 'its log parts from the leader’s further back') : undefined,
      (error: unknown) => {
        log.warn('entries could not be taken back', { error: describeError(error) });
        return { kind: 'busy', work: 'rewind', reason: describeError(error) };
      },
    );
  }

  /** Gives entries of an own leadership away for keeping, before they are dropped. */
  async function keepFork(common: LogPosition): Promise<void> {
    const last = state.position();
    if (last.version <= common.version || !ledAfter(common)) return;
    const known = keptFork?.common.version === common.version && comparePositions(keptFork.last, last) === 0;
    if (known) return;
    await context.onFork({
      common,
      last,
      entries: state.entriesAfter(common.version, Number.POSITIVE_INFINITY),
      committed: Math.max(common.version, Math.min(context.committed(), last.version)) as Version,
    });
    keptFork = { common, last };
  }

  function ledAfter(common: LogPosition): boolean {
    const number = state.members().find(({ id }) => id === context.self)?.number;
    const epochs = state.epochs();
    const within = epochs.filter(({ first }) => first > common.version).map(({ epoch }) => epoch);
    within.push(epochAt(epochs, (common.version + 1) as Version));
    return within.some((epoch: Epoch) => epoch >= FIRST_EPOCH && epoch % FIRST_EPOCH === number);
  }

  /** Begins to fetch a copy of the leader's state; entries are taken again when it is in place. */
  function fetch(from: NodeId, common: LogPosition, why: string): AppendAnswer {
    const nowMs = clock.monotonicMs();
    if (work === undefined && nowMs >= fetchFromMs && !closed) {
      log.info(`fetches a whole copy of the metadata from ${from}`, { reason: why });
      exclusively('snapshot', `it gets a whole copy: ${why}`, () => replaceState(from, common)).catch(
        (error: unknown) => {
          fetchFromMs = clock.monotonicMs() + FETCH_PAUSE_MS;
          log.warn(`the copy of the metadata from ${from} failed; it is tried again`, {
            error: describeError(error),
          });
        },
      );
    }
    return { kind: 'busy', work: 'snapshot', reason: why };
  }

  async function replaceState(from: NodeId, common: LogPosition): Promise<void> {
    const { file, position } = await fetchSnapshot({ from, peers, files: context.files });
    const standing = coordinator.standing();
    if (standing.kind !== 'follows' || standing.leader !== from || closed) {
      await file.discard();
      throw new Error(`${from} is followed no more`);
    }
    try {
      await keepFork(common);
      await state.restore(file.path, position);
    } catch (error) {
      await file.discard();
      throw error;
    }
  }

  return {
    busy: () => work,
    settled: () => applying,
    async close() {
      closed = true;
      await applying;
      await underWay;
    },
  };
}

function entriesOf(request: AppendRequest, bytes: Buffer, skip: number): EncodedEntry[] {
  const entries: EncodedEntry[] = [];
  let at = 0;
  let version = request.previous.version;
  for (const size of request.sizes) {
    version++;
    if (version - request.previous.version > skip) {
      entries.push({ version, body: bytes.subarray(at, at + size) });
    }
    at += size;
  }
  assert(at === bytes.length, 'the bytes of an append are its entries');
  return entries;
}
