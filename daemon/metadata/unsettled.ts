/**
 * Small chunks whose bytes are in the log but not yet, durably, in `small.db`.
 *
 * They are read from here. The log keeps the operations that brought them until they are settled, so a crash
 * loses nothing: opening the metadata fills this again. Bounded: writers wait while it is full, and fail when it
 * stays full because small.db cannot be written.
 */

import type { FsError } from '../protocol/errors.ts';
import type { ChunkHash } from '../protocol/ids.ts';
import type { SmallChunkSink } from './apply-extents.ts';

/** Bytes above which new small writes wait for the settling. */
export const UNSETTLED_BYTES_MAX = 32 * 1024 * 1024;

interface Waiting {
  readonly data: Uint8Array;
  readonly version: number;
}

export interface Unsettled extends SmallChunkSink {
  /** The version of the operation that is being applied. */
  version: number;
  get(hash: ChunkHash): Uint8Array | undefined;
  /** The oldest chunks, up to `bytesMax` (at least one if there is any). */
  batch(bytesMax: number): { hash: ChunkHash; data: Uint8Array }[];
  /** Marks chunks of a batch as held by small.db. */
  settle(batch: readonly { hash: ChunkHash; data: Uint8Array }[]): void;
  /** Every operation up to this one has all its small chunks in small.db, if `now` is the last one. */
  settledVersion(now: number): number;
  bytes(): number;
  /** Remembers what is waiting now; answers how to come back to it. */
  save(): () => void;
  clear(): void;
  /** Resolves when there is room for new ones. Errors: those of `failed`, while there is none. */
  room(): Promise<void> | undefined;
  /** small.db does not take them: whoever needs room hears of it instead of waiting, until some are settled. */
  failed(error: FsError): void;
}

export function unsettledChunks(): Unsettled {
  // In the order of versions: an entry is added once and never moved.
  let waiting = new Map<ChunkHash, Waiting>();
  let bytes = 0;
  let roomWaiters: PromiseWithResolvers<void>[] = [];
  let failure: FsError | undefined;

  function remove(hash: ChunkHash, entry: Waiting): void {
    waiting.delete(hash);
    bytes -= entry.data.byteLength;
    wakeWaiters();
  }

  function wakeWaiters(): void {
    if (bytes < UNSETTLED_BYTES_MAX && roomWaiters.length > 0) {
      for (const waiter of roomWaiters) waiter.resolve();
      roomWaiters = [];
    }
  }

  return {
    version: 0,
    add(hash, data) {
      if (waiting.has(hash)) return;
      waiting.set(hash, { data, version: this.version });
      bytes += data.byteLength;
    },
    delete(hash) {
      const entry = waiting.get(hash);
      if (entry !== undefined) remove(hash, entry);
    },
    get: (hash) => waiting.get(hash)?.data,
    batch(bytesMax) {
      const batch: { hash: ChunkHash; data: Uint8Array }[] = [];
      let total = 0;
      for (const [hash, entry] of waiting) {
        if (batch.length > 0 && total + entry.data.byteLength > bytesMax) break;
        batch.push({ hash, data: entry.data });
        total += entry.data.byteLength;
      }
      return batch;
    },
    settle(batch) {
      failure = undefined;
      for (const { hash, data } of batch) {
        const entry = waiting.get(hash);
        // Dropped and brought again meanwhile: those are other bytes to settle.
        if (entry !== undefined && entry.data === data) remove(hash, entry);
      }
    },
    settledVersion(now) {
      const oldest = waiting.values().next();
      return oldest.done === true ? now : oldest.value.version - 1;
    },
    bytes: () => bytes,
    save() {
      const [savedWaiting, savedBytes] = [new Map(waiting), bytes];
      return () => {
        waiting = savedWaiting;
        bytes = savedBytes;
      };
    },
    clear() {
      waiting = new Map();
      bytes = 0;
      wakeWaiters();
    },
    room() {
      if (bytes < UNSETTLED_BYTES_MAX) return undefined;
      if (failure !== undefined) return Promise.reject(failure);
      const waiter = Promise.withResolvers<void>();
      roomWaiters.push(waiter);
      return waiter.promise;
    },
    failed(error) {
      failure = error;
      for (const waiter of roomWaiters) waiter.reject(error);
      roomWaiters = [];
    },
  };
}
