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
import type { OperationOutcome } from '../protocol/operations.ts';
import type { Applied, Proposal, Rewound, StateMachine } from '../replication/state-machine.ts';
import { assert, AssertionError } from '../runtime/assert.ts';
import { SOLO_EPOCH } from './cluster-state.ts';
import { decodeEntry, decodeProposal, encodeEntry, encodeProposal } from './entry-codec.ts';
import { entrySource } from './entry-source.ts';
import { openRewinding, type RewindingOptions } from './rewinding.ts';
import { openSnapshots } from './snapshots.ts';

/** Applying entries of the leader gives way to others after this long. */
const APPEND_SLICE_MS = 4;
/** Entries of the leader wait at most this long for room for small chunks; the leader must not wait for ever. */
const ROOM_WAIT_MS = 1000;

export interface StateMachineOptions extends RewindingOptions {
  /** The state was replaced as a whole. */
  readonly onRestored: () => void;
}

export function openStateMachine(options: StateMachineOptions): StateMachine {
  const { state, committing, checkpointing, logDirectory } = options;
  const source = entrySource(logDirectory);
  const rewinding = openRewinding(options);
  const snapshots = openSnapshots({
    ...options,
    steady: () => running,
  });
  let listeners: ((applied: Applied) => void)[] = [];
  let rewoundListeners: ((change: Rewound) => void)[] = [];
  /** The last of what runs one after the other; undefined when nothing does. */
  let running: Promise<void> | undefined;

  async function inOrder<T>(task: () => Promise<T>): Promise<T> {
    const before = running;
    const { promise, resolve } = Promise.withResolvers<void>();
    running = promise;
    try {
      if (before !== undefined) await before;
      return await task();
    } finally {
      if (running === promise) running = undefined;
      resolve();
    }
  }

  function add(proposal: Proposal, body: Buffer, foreign: boolean): OperationOutcome {
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
    if (listeners.length > 0) {
      const applied = { ...proposal, version, outcome };
      for (const listener of listeners) listener(applied);
    }
    return outcome;
  }

  function rewound(change: Rewound): void {
    for (const listener of rewoundListeners) listener(change);
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

  function appendOne({ version, body: view }: EncodedEntry): void {
    assert(version === state.version + 1, `entry ${version} follows ${state.version}`);
    // The view keeps a whole message in memory, and the newest entries are kept (entry-source.ts).
    const body = Buffer.from(view);
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
    members: () => state.cluster.members(),
    settings: () => state.cluster.settings(),
    durableVersion: () => committing.durableVersion() as Version,
    propose(proposal) {
      assert(running === undefined, 'nothing is proposed while entries are appended or taken back');
      const written = committing.enter();
      const body = encodeEntry(proposal);
      const outcome = add(proposal, body, false);
      return { entry: { version: state.version as Version, body }, outcome, written };
    },
    append: (entries) => inOrder(() => append(entries)),
    entriesAfter: (version, bytesMax) =>
      source.after(version, bytesMax, state.version, () => committing.endTurn()),
    setCommitted: (version) => checkpointing.setAgreed(version),
    barrier: () => committing.barrier(),
    takeBack: (version) =>
      inOrder(async () => {
        await snapshots.quiet();
        try {
          const entries = await rewinding.takeBack(version);
          if (entries !== undefined && entries.length > 0) rewound({ kind: 'taken-back', entries });
          return entries;
        } finally {
          source.reset();
        }
      }),
    snapshot: () => snapshots.make(),
    restore: (file, position) =>
      inOrder(async () => {
        await snapshots.quiet();
        await rewinding.restore(file, position);
        source.reset();
        options.onRestored();
        rewound({ kind: 'restored', position });
      }),
    onRewound(listener) {
      rewoundListeners = [...rewoundListeners, listener];
      return () => {
        rewoundListeners = rewoundListeners.filter((each) => each !== listener);
      };
    },
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
