/**
 * The metadata as replication sees it (replication/state-machine.ts): entries come in, in order, from here or from the
 * leader, and go out to those who follow.
 *
 * Entries of the leader are applied in slices of APPEND_SLICE_MS, so that a node that catches up still answers its
 * own requests. What changes the state as a whole (a batch, a rewinding, a snapshot) runs one after the other.
 */

import type { EncodedEntry } from '../protocol/cluster.ts';
import { FsError, WarrenError } from '../protocol/errors.ts';
import type { Version } from '../protocol/ids.ts';
import type { Applied, Proposal, StateMachine } from '../replication/state-machine.ts';
import { assert, AssertionError } from '../runtime/assert.ts';
import type { Checkpointing } from './checkpointing.ts';
import { SOLO_EPOCH } from './cluster-state.ts';
import type { Committing } from './committing.ts';
import { decodeEntry, decodeProposal, encodeEntry, encodeProposal } from './entry-codec.ts';
import { entrySource } from './entry-source.ts';
import type { State } from './state.ts';

/** Applying entries of the leader gives way to others after this long. */
const APPEND_SLICE_MS = 4;
/** Entries of the leader wait at most this long for room for small chunks; the leader must not wait for ever. */
const ROOM_WAIT_MS = 1000;

export interface StateMachineOptions {
  readonly state: State;
  readonly committing: Committing;
  readonly checkpointing: Checkpointing;
  readonly logDirectory: string;
}

export type ForwardMachine = Omit<StateMachine, 'takeBack' | 'snapshot' | 'restore' | 'onRewound'>;

export function openStateMachine(options: StateMachineOptions): ForwardMachine {
  const { state, committing, checkpointing, logDirectory } = options;
  const source = entrySource(logDirectory);
  let listeners: ((applied: Applied) => void)[] = [];
  /** The last of what runs one after the other; undefined when nothing does. */
  let running: Promise<unknown> | undefined;

  function inOrder<T>(task: () => Promise<T>): Promise<T> {
    const mine: Promise<T> = running === undefined ? task() : running.then(task, task);
    running = mine;
    void mine
      .catch(() => {})
      .then(() => {
        if (running === mine) running = undefined;
        return undefined;
      });
    return mine;
  }

  function add(proposal: Proposal, body: Buffer, foreign: boolean): Applied {
    const { epoch, operation } = proposal;
    const current = state.version === 0 ? SOLO_EPOCH : state.cluster.epoch(state.version);
    const expected = operation.kind === 'lead' ? operation.epoch : current;
    assert(epoch === expected, `an entry of epoch ${epoch} belongs to epoch ${expected}`);
    const outcome = committing.add(proposal, body, foreign);
    const version = state.version as Version;
    source.push({ version, body });
    // The first entry that makes this a cluster: all before it is the own history.
    if (operation.kind === 'member' && checkpointing.agreed() === Number.POSITIVE_INFINITY) {
      if (state.cluster.members().length > 1) checkpointing.setAgreed(version - 1);
    }
    const applied = { ...proposal, version, outcome };
    for (const listener of listeners) listener(applied);
    return applied;
  }

  async function append(entries: readonly EncodedEntry[]): Promise<void> {
    for (let next = 0; next < entries.length; ) {
      const full = state.unsettled.room();
      if (full !== undefined) await orTimeout(full, ROOM_WAIT_MS);
      const written = committing.enter();
      const end = performance.now() + APPEND_SLICE_MS;
      try {
        do {
          const entry = entries[next];
          if (entry === undefined) break;
          appendOne(entry);
          next++;
        } while (performance.now() < end);
      } finally {
        committing.endTurn();
      }
      await written;
      if (next < entries.length) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  function appendOne({ version, body }: EncodedEntry): void {
    assert(version === state.version + 1, `entry ${version} follows ${state.version}`);
    try {
      add(decodeEntry(body), body, true);
    } catch (error) {
      const refused = error instanceof FsError && committing.readOnly() === undefined;
      if (!refused && !(error instanceof AssertionError)) throw error;
      throw new WarrenError({
        code: 'STATE_DIVERGED',
        message: `Entry ${version} of the leader cannot be applied here: ${error.message}.`,
        hint: "The metadata of this node is replaced by a copy of the leader's; nothing needs to be done.",
        cause: error,
      });
    }
  }

  return {
    position: () => ({
      epoch: state.cluster.epoch(state.version),
      version: state.version as Version,
    }),
    epochs: () => state.cluster.epochs(state.version),
    durableVersion: () => committing.durableVersion() as Version,
    propose(proposal) {
      assert(running === undefined, 'nothing is proposed while entries are appended or taken back');
      const written = committing.enter();
      const body = encodeEntry(proposal);
      const { version, outcome } = add(proposal, body, false);
      return { entry: { version, body }, outcome, written };
    },
    append: (entries) => inOrder(() => append(entries)),
    entriesAfter: (version, bytesMax) =>
      source.after(version, bytesMax, state.version, () => committing.endTurn()),
    setCommitted: (version) => checkpointing.setAgreed(version),
    barrier: () => committing.barrier(),
    onApplied(listener) {
      listeners = [...listeners, listener];
      return () => {
        listeners = listeners.filter((each) => each !== listener);
      };
    },
    encodeProposal,
    decodeProposal,
  };
}

function orTimeout(promise: Promise<void>, timeoutMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, timeoutMs);
    void promise.then(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
