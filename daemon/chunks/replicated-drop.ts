/**
 * Deletes this node's copies of chunks that a `drop-chunks` operation took out of the metadata.
 *
 * Order. The operation is durable on this node first, then the bytes go: else a power cut could bring the row back
 * without its bytes. A chunk that has a row again by then stays.
 *
 * A writer elsewhere may just have been told that the chunk is here (`chunk-have`, `chunk-put`) and will name it in
 * an operation that is still on its way. So a chunk that was promised a moment ago waits, and so does one that is
 * pinned by a store on this node; they are looked at again.
 */

import type { ChunkHash } from '../protocol/ids.ts';
import {
  type BackgroundWorker,
  type Sleep,
  startWorker,
  type UnitOutcome,
} from '../runtime/background-worker.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { openThrottle } from '../runtime/throttle.ts';
import type { ChunkStore } from './interface.ts';
import type { ChunkRows } from './replicated-options.ts';

const UNIT_CHUNKS_MAX = 1000;
/** Waiting deletions in memory; more than that stay on the disk as garbage that `warren fsck --repair` removes. */
const WAITING_MAX = 500_000;
const RETRY_MS = 30_000;
/** Longer than an operation can be on its way. */
const PROMISE_MS = 120_000;
const PROMISES_MAX = 100_000;

export interface Dropper extends BackgroundWorker {
  dropped(hashes: readonly ChunkHash[]): void;
  /** Another node counts on the chunk being here. */
  promise(hash: ChunkHash): void;
  isPromised(hash: ChunkHash): boolean;
  /** The operation that was waited for has come. */
  kept(hash: ChunkHash): void;
}

export function startDropper(options: {
  local: ChunkStore;
  rows: ChunkRows;
  clock: Clock;
  log: Log;
  sleep: Sleep;
}): Dropper {
  const { local, rows, clock, log } = options;
  /** Hash -> not before this time. */
  const waiting = new Map<ChunkHash, number>();
  /** Hash -> until when; the oldest first. */
  const promises = new Map<ChunkHash, number>();
  let forgotten = 0;

  function isPromised(hash: ChunkHash): boolean {
    return (promises.get(hash) ?? 0) > clock.monotonicMs();
  }

  function promise(hash: ChunkHash): void {
    const now = clock.monotonicMs();
    promises.delete(hash);
    promises.set(hash, now + PROMISE_MS);
    for (const [oldest, untilMs] of promises) {
      if (untilMs > now && promises.size <= PROMISES_MAX) break;
      promises.delete(oldest);
    }
  }

  async function unit(): Promise<UnitOutcome> {
    const now = clock.monotonicMs();
    const due: ChunkHash[] = [];
    for (const [hash, notBeforeMs] of waiting) {
      if (due.length === UNIT_CHUNKS_MAX) break;
      if (notBeforeMs <= now) due.push(hash);
    }
    if (due.length === 0) return { kind: 'idle', nextMs: RETRY_MS };
    await rows.barrier();
    const gone = due.filter((hash) => !rows.hasChunk(hash) && !isPromised(hash));
    const removed = new Set(await local.remove(gone));
    for (const hash of due) {
      if (removed.has(hash) || rows.hasChunk(hash)) waiting.delete(hash);
      else waiting.set(hash, now + RETRY_MS);
    }
    return { kind: 'worked', bytes: 0 };
  }

  const worker = startWorker({
    name: 'chunk deletion',
    unit,
    queue: () => ({ items: waiting.size, bytes: 0, doneBytes: 0, secondsLeft: undefined }),
    throttle: openThrottle(clock),
    sleep: options.sleep,
    log,
  });

  return {
    ...worker,
    dropped(hashes) {
      for (const hash of hashes) {
        if (waiting.size < WAITING_MAX) waiting.set(hash, 0);
        else forgotten += 1;
      }
      if (forgotten > 0) {
        log.warn(`${forgotten} deleted chunks stay on the disk; \`warren fsck --repair\` removes them`);
        forgotten = 0;
      }
      worker.wake();
    },
    promise,
    isPromised,
    kept: (hash) => promises.delete(hash),
  };
}
