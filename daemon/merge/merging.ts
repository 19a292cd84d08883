/**
 * The background work behind a healed partition: keeps what the losing side had before replication drops it, and merges
 * it once this node is in sync with the side that stays.
 *
 * While a fork waits, this node deletes no chunk, because the losing state may be the only one that still names it. What
 * the other side touched is read from the leader's log, and kept current by every entry that is applied meanwhile, except
 * the merge's own. When entries are taken back meanwhile, the merge begins anew.
 */

import { randomUUID } from 'node:crypto';
import { openKeptState } from '../metadata/kept-state.ts';
import type { Metadata } from '../metadata/metadata.ts';
import type { EncodedEntry } from '../protocol/cluster.ts';
import { describeError } from '../protocol/errors.ts';
import type { NodeId, Version } from '../protocol/ids.ts';
import type { Fork } from '../replication/context.ts';
import type { Replication } from '../replication/interface.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { decodeEntry } from '../metadata/entry-codec.ts';
import { conflictLabel } from './conflict-name.ts';
import { type KeptFork, openForkFolder, stateFileOf } from './fork-folder.ts';
import { merge } from './merge.ts';
import { nothingTouched, noteTouched, type Touched } from './touched.ts';
import type { MergeChunks } from './world.ts';

const POLL_MS = 100;
const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 60_000;
const PIECE_BYTES = 1024 * 1024;

export interface MergingOptions {
  readonly self: NodeId;
  readonly dataDirectory: string;
  readonly metadata: Metadata;
  readonly replication: Replication;
  readonly chunks: MergeChunks & { keepAll(): () => void };
  readonly clock: Clock;
  readonly log: Log;
  /** Entries after `after` from the log of the leader; undefined: it does not reach back so far. */
  entriesOfLeader(after: Version, bytesMax: number): Promise<readonly EncodedEntry[] | undefined>;
}

export interface Merging {
  /** Durable when it resolves. Errors: those of the disk. */
  keep(fork: Fork): Promise<void>;
  /** Forks that are not merged yet. */
  waiting(): number;
  close(): Promise<void>;
}

export function startMerging(options: MergingOptions): Merging {
  const { self, metadata, replication, chunks, clock } = options;
  const log = options.log.room('merge');
  const folder = openForkFolder(options.dataDirectory);
  const closing = new AbortController();
  let forks = folder.list();
  let release = forks.length > 0 ? chunks.keepAll() : undefined;
  let running: Promise<void> | undefined;
  let notBeforeMs = 0;
  let retryMs = RETRY_MS_MIN;
  const timer = setInterval(() => {
    if (forks.length > 0 && clock.monotonicMs() >= notBeforeMs && isReady()) {
      running ??= mergeAll().finally(() => (running = undefined));
    }
  }, POLL_MS);
  timer.unref();

  function isReady(): boolean {
    return !closing.signal.aborted && replication.leadership().kind !== 'none' && replication.isInSync();
  }

  async function mergeAll(): Promise<void> {
    for (const fork of forks) {
      try {
        await mergeOne(fork);
      } catch (error) {
        notBeforeMs = clock.monotonicMs() + retryMs;
        retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
        if (!closing.signal.aborted)
          log.warn('a merge was interrupted; it is tried again', {
            fork: fork.id,
            error: describeError(error),
          });
        return;
      }
      forks = forks.filter((other) => other !== fork);
      folder.remove(fork);
      retryMs = RETRY_MS_MIN;
    }
    if (forks.length > 0) return;
    release?.();
    release = undefined;
  }

  async function mergeOne(fork: KeptFork): Promise<void> {
    const session = `merge-${fork.id}-`;
    const run = { session: `${session}${randomUUID()}`, sequence: 0 };
    const here = fork.hasEntries ? nothingTouched() : undefined;
    if (here !== undefined) {
      for (const { body } of folder.entries(fork))
        noteTouched(here, decodeEntry(Buffer.from(body)).operation);
    }
    const stopped = new AbortController();
    const signal = AbortSignal.any([closing.signal, stopped.signal]);
    const recent = nothingTouched();
    const isForeign = (tag: { readonly session: string } | null) => tag?.session.startsWith(session) !== true;
    const note = (touched: Touched, body: Buffer) => {
      const { operation, tag } = decodeEntry(Buffer.from(body));
      if (isForeign(tag)) noteTouched(touched, operation);
    };
    let there: Touched | undefined = recent;
    const stops = [
      metadata.stateMachine.onApplied(({ operation, tag }) => {
        if (isForeign(tag)) noteTouched(recent, operation);
      }),
      metadata.stateMachine.onRewound(() => stopped.abort(new Error('entries were taken back meanwhile'))),
    ];
    using losing = openKeptState(stateFileOf(fork));
    try {
      if (!(await readHistory(fork, signal, (entry) => note(recent, entry.body)))) there = undefined;
      const done = folder.done(fork);
      const result = await merge({
        node: self,
        label: conflictLabel(self, fork.timeMs),
        losing,
        reads: metadata.reads,
        here,
        there,
        chunks,
        async propose(operation, payload) {
          signal.throwIfAborted();
          const tag = { session: run.session, sequence: ++run.sequence };
          return replication.propose(operation, payload, { tag });
        },
        allocateInode: () => metadata.allocateInode(),
        now: () => clock.now(),
        isDone: (step) => done.has(step),
        done(step) {
          done.add(step);
          folder.note(fork, step);
        },
        warn: (message, fields) => log.warn(message, fields),
      });
      // Before the losing state goes.
      await replication.barrier();
      signal.throwIfAborted();
      log.info('what the losing side of a partition had was merged', { fork: fork.id, ...result });
      if ((here?.ofCluster ?? 0) > 0) {
        log.warn(
          'changes of members and settings on the losing side were not kept: look at `warren servers`',
        );
      }
    } finally {
      for (const stop of stops) stop();
    }
  }

  /** Everything that the side that stays did since the common entry; false: no log reaches back so far. */
  async function readHistory(
    fork: KeptFork,
    signal: AbortSignal,
    each: (entry: EncodedEntry) => void,
  ): Promise<boolean> {
    const end = metadata.stateMachine.position().version;
    for (let after = fork.common.version; after < end; ) {
      signal.throwIfAborted();
      const entries =
        metadata.stateMachine.entriesAfter(after, PIECE_BYTES) ??
        (await options.entriesOfLeader(after, PIECE_BYTES));
      const last = entries?.at(-1);
      if (entries === undefined || last === undefined) return false;
      entries.forEach(each);
      after = last.version;
    }
    return true;
  }

  return {
    async keep({ common, last, entries, committed }) {
      if (entries !== undefined && !anybodyWasAnswered(entries, committed > common.version)) return;
      release ??= chunks.keepAll();
      const timeMs = clock.now().seconds * 1000;
      const fork = await folder.keep({ common, last, entries, timeMs }, (file) => metadata.keepState(file));
      if (!forks.some(({ id }) => id === fork.id)) forks = [...forks, fork];
      log.warn(
        'two sides of a partition went on by themselves; what this one did is merged when it is in sync',
        {
          entries: entries?.length ?? 'unknown',
          since: common.version,
        },
      );
    },
    waiting: () => forks.length,
    async close() {
      clearInterval(timer);
      closing.abort(new Error('this node is shutting down'));
      await running;
    },
  };

  /**
   * Nobody can have been answered when every in-sync node of that time was needed for it and one of them is on the side
   * that stays without these entries: then the entries are the tail of a leader that died.
   */
  function anybodyWasAnswered(entries: readonly EncodedEntry[], isCommitted: boolean): boolean {
    if (isCommitted) return true;
    const leftBehind = entries.some(({ body }) => {
      const { operation } = decodeEntry(Buffer.from(body));
      return operation.kind === 'settings' && operation.settings.inSync !== undefined;
    });
    return leftBehind || metadata.stateMachine.settings().inSync.every((id) => id === self);
  }
}
