/**
 * Deletes chunks that are here although this node is no home of theirs: copies that stood in for a node that was
 * away, what a smaller factor left over, what was written here for others.
 *
 * The one danger is to delete the last good copy. So a chunk goes only when all of this holds:
 * - every one of its `factor` homes just read its copy, found it right, and counts itself a home (`chunk-have` with
 *   `verify`; replicated-handlers.ts says why two nodes cannot delete on each other's word);
 * - it was written longer ago than the grace time, and has a row in the metadata (what has none may be on its way);
 * - nobody is draining: whoever drains may take its copies away, or may stay after all;
 * - right before the deletion this node is still no home, and nobody reads or has pinned the chunk.
 */

import type { ChunkHash, NodeId } from '../protocol/ids.ts';
import { SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { PeerError, type Peers } from '../peers/interface.ts';
import {
  type BackgroundWorker,
  type Sleep,
  startWorker,
  type UnitOutcome,
} from '../runtime/background-worker.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Throttle } from '../runtime/throttle.ts';
import type { ChunkStore } from './interface.ts';
import { type ChunkName, type ChunkRows, HAVE_VERIFIED_MAX } from './replicated-options.ts';
import type { ViewOfCluster } from './replicated-view.ts';

/** Local files looked at in one unit of work. */
const UNIT_FILES_MAX = 500;
/** A node that has just started has better things to do than to list its files. */
const FIRST_ROUND_MS = 10 * 60_000;

export interface Trim extends BackgroundWorker {
  /** Begins a round over the local chunks. */
  rescan(): void;
  isGoing(hash: ChunkHash): boolean;
  trimmed(): { readonly chunks: number; readonly bytes: number };
}

export interface TrimOptions {
  readonly local: ChunkStore;
  readonly peers: Peers;
  readonly rows: ChunkRows;
  readonly view: ViewOfCluster;
  readonly clock: Clock;
  readonly log: Log;
  readonly throttle: Throttle;
  readonly sleep: Sleep;
  readonly scanMs: number;
  readonly graceMs: number;
  /** Somebody reads the chunk, or was told a moment ago that it is here. */
  readonly isInUse: (hash: ChunkHash) => boolean;
}

export function startTrim(options: TrimOptions): Trim {
  const { local, peers, rows, view, clock } = options;
  const going = new Set<ChunkHash>();
  let seenBytes = 0;
  let files: AsyncIterator<ChunkName> | undefined;
  let endedAtMs = clock.monotonicMs() - options.scanMs + FIRST_ROUND_MS;
  let chunks = 0;
  let bytes = 0;

  function listing(): AsyncIterator<ChunkName> {
    seenBytes = 0;
    return local.listLarge()[Symbol.asyncIterator]();
  }

  function mayTrim(): boolean {
    const { draining, mode, placement, factor } = view.current();
    return draining.length === 0 && placement.copies === (mode === 'shared' ? 1 : factor);
  }

  async function isExtra({ hash, size }: ChunkName): Promise<boolean> {
    // Below the limit a chunk is at home everywhere.
    if (size <= SMALL_CHUNK_BYTES_MAX || view.isHome({ hash, size }, view.self)) return false;
    if (!rows.hasChunk(hash) || options.isInUse(hash)) return false;
    const writtenMs = (await local.stat(hash))?.writtenMs;
    return writtenMs !== undefined && clock.now().seconds * 1000 - writtenMs >= options.graceMs;
  }

  async function nextExtras(source: AsyncIterator<ChunkName>): Promise<ChunkName[]> {
    const extras: ChunkName[] = [];
    for (let looked = 0; looked < UNIT_FILES_MAX && extras.length < HAVE_VERIFIED_MAX; looked += 1) {
      const next = await source.next();
      if (next.done === true) {
        if (files === source) files = undefined;
        endedAtMs = clock.monotonicMs();
        break;
      }
      seenBytes += next.value.size;
      if (await isExtra(next.value)) extras.push(next.value);
    }
    return extras;
  }

  /** Which of the chunks `node` has verified. */
  async function ask(node: NodeId, asked: readonly ChunkName[], signal: AbortSignal): Promise<ChunkHash[]> {
    if (!view.isHere(node)) return [];
    const timeoutMs = view.timeoutMs(asked.reduce((sum, { size }) => sum + size, 0));
    try {
      const request = { hashes: asked.map(({ hash }) => hash), verify: true };
      const { answer } = await peers.call(node, 'chunk-have', request, { timeoutMs, signal });
      return request.hashes.filter((_, index) => answer.have[index] === true);
    } catch (error) {
      // Nothing was confirmed; the next round asks again.
      if (error instanceof PeerError) return [];
      throw error;
    }
  }

  /** Deletes those that all their homes have; answers the bytes that the homes had to read. */
  async function trim(extras: readonly ChunkName[], signal: AbortSignal): Promise<number> {
    const { key } = view.current();
    const byHome = new Map<NodeId, ChunkName[]>();
    for (const chunk of extras) {
      for (const home of view.homes(chunk)) byHome.set(home, [...(byHome.get(home) ?? []), chunk]);
    }
    const confirmations = new Map<ChunkHash, number>();
    await Promise.all(
      [...byHome].map(async ([home, asked]) => {
        for (const hash of await ask(home, asked, signal))
          confirmations.set(hash, (confirmations.get(hash) ?? 0) + 1);
      }),
    );
    for (const chunk of extras) {
      const wanted = view.homes(chunk).length;
      if (wanted === 0 || confirmations.get(chunk.hash) !== wanted) continue;
      if (view.current().key !== key || !mayTrim() || options.isInUse(chunk.hash)) continue;
      await remove(chunk);
    }
    return extras.reduce((sum, { size }) => sum + size, 0);
  }

  async function remove({ hash, size }: ChunkName): Promise<void> {
    going.add(hash);
    try {
      const removed = await local.remove([hash]);
      if (removed.length === 0) return;
      chunks += 1;
      bytes += size;
    } finally {
      going.delete(hash);
    }
  }

  async function unit(signal: AbortSignal): Promise<UnitOutcome> {
    const untilMs = endedAtMs + options.scanMs - clock.monotonicMs();
    if (files === undefined && untilMs <= 0) files = listing();
    if (files === undefined) return { kind: 'idle', nextMs: untilMs };
    if (!mayTrim()) return { kind: 'idle', nextMs: options.scanMs };
    const extras = await nextExtras(files);
    return { kind: 'worked', bytes: extras.length === 0 ? 0 : await trim(extras, signal) };
  }

  const worker = startWorker({
    name: 'chunk trim',
    unit,
    queue: () => ({ items: 0, bytes: 0, doneBytes: seenBytes, secondsLeft: undefined }),
    throttle: options.throttle,
    sleep: options.sleep,
    log: options.log,
  });

  return {
    ...worker,
    rescan() {
      files = listing();
      worker.wake();
    },
    isGoing: (hash) => going.has(hash),
    trimmed: () => ({ chunks, bytes }),
  };
}
