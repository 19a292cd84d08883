/**
 * The chunk store of one data directory: joins the large chunks (files), the small ones (small.db), the pins
 * and the free-space guard.
 *
 * Races, and what decides them. Everything that changes the file of one hash (store, remove, moving a damaged
 * one aside) runs under that hash's lock. `store` pins as soon as it knows the hash, before it takes the lock;
 * `remove` looks at the pins after it took the lock. So a store either pinned in time and the file stays, or it
 * waits until the deletion is over and writes the file anew.
 *
 * A store answers when the chunk is durable. A chunk this process saw to be durable is compared again but not
 * synced again; and while its file has the identity (inode, size, times) it had when it was compared, it is not
 * read either, so that a thousand copies of one file cost their hashes. Damage that leaves the times as they are
 * is the disk's, and reads find it.
 */

import { openSync, rmSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import type { DatabaseSync } from 'node:sqlite';
import { FsError, systemErrorCode } from '../protocol/errors.ts';
import { type ChunkHash, CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';
import type { Clock } from '../runtime/clock.ts';
import { openKeyedLock } from '../runtime/keyed-lock.ts';
import type { Log } from '../runtime/log.ts';
import { openLru } from '../runtime/lru.ts';
import { openWorkerPool } from '../runtime/worker-pool.ts';
import { workerUrl } from '../runtime/worker-url.ts';
import { openCommitter } from './committer.ts';
import { asDiskFailure } from './disk-error.ts';
import type { FileIdentity, FileJobs } from './file-jobs.ts';
import type { ChunkStore, SmallChunk, StoredChunk, StoreOptions } from './interface.ts';
import { chunkPath, isChunkHash, type Layout } from './layout.ts';
import { openReader } from './reader.ts';
import { openSmallStore } from './small-store.ts';
import { openSpaceGuard } from './space.ts';

const WRITE_THREADS = 2;
const SYNC_THREADS = 2;
/** Started when a chunk without a checksum table is read, or for fsck. */
const CHECK_THREADS = 2;
/** What callers may have in `store` at once; they bound it lower, by their own buffers. */
const STORE_BYTES_IN_FLIGHT_MAX = 256 * 1024 * 1024;
/** Shared memory kept for stores of memory that is not shared. */
const COPY_BUFFERS_KEPT_MAX = 4;
const REMOVALS_AT_ONCE = 4;
/** Chunks whose sync failed while their file stayed: written anew next time. */
const DISTRUSTED_MAX = 10_000;
/** Chunks stored repeatedly, whose files are known to hold them: 4096 are 1 MiB and 16 GiB of chunks. */
const IDENTITIES_MAX = 4096;

export interface StartOptions {
  readonly layout: Layout;
  readonly database: DatabaseSync;
  readonly log: Log;
  readonly clock: Clock;
  readonly onDamage: (damage: { hash: ChunkHash; reason: string }) => void;
  readonly missingIsDamage: boolean;
}

/** Starts the threads and answers the store. The caller has checked the layout. */
export function startChunkStore(options: StartOptions): ChunkStore {
  const { layout, log } = options;
  const { directory } = layout;
  const url = workerUrl(import.meta.url, './file-worker');
  const writers = openWorkerPool<FileJobs>({
    url,
    threads: WRITE_THREADS,
    startAtOnce: 1,
    name: 'chunk writes',
  });
  const syncers = openWorkerPool<FileJobs>({
    url,
    threads: SYNC_THREADS,
    startAtOnce: 0,
    name: 'chunk syncs',
  });
  const checkers = openWorkerPool<FileJobs>({
    url,
    threads: CHECK_THREADS,
    startAtOnce: 0,
    name: 'chunk checks',
  });
  const locks = openKeyedLock<ChunkHash>();
  const space = openSpaceGuard(directory, options.clock);
  const pins = new Map<ChunkHash, number>();
  const distrusted = new Set<ChunkHash>();
  const identities = openLru<ChunkHash, FileIdentity>({ weightMax: IDENTITIES_MAX });
  const copies: Buffer[] = [];
  const active = new Set<Promise<unknown>>();
  let bytesInFlight = 0;
  let temporaries = 0;
  let closed = false;

  const small = openSmallStore({ database: options.database, path: layout.smallDb, onDamage: damaged });
  const { blockSums } = small;
  const reader = openReader({
    layout,
    threads: checkers,
    locks,
    blockSums,
    onDamage: damaged,
    missingIsDamage: options.missingIsDamage,
  });
  const committer = openCommitter({
    directory,
    threads: syncers,
    threadCount: SYNC_THREADS,
    removeTemporary,
  });

  function removeTemporary(name: string): void {
    try {
      rmSync(`${layout.temporary}/${name}`, { force: true });
    } catch (error) {
      log.warn(`temporary file ${name} stays until the next start`, { error: String(error) });
    }
  }

  function damaged(hash: ChunkHash, reason: string): void {
    log.error(`chunk ${hash} is damaged: ${reason}`, { hash, reason });
    options.onDamage({ hash, reason });
  }

  /** Remembers work until it ends, so that `close` can wait for it. */
  function track<Result>(work: () => Promise<Result>): Promise<Result> {
    assert(!closed, 'the chunk store is open');
    const promise = work();
    active.add(promise);
    void promise.catch(() => undefined).finally(() => active.delete(promise));
    return promise;
  }

  function pin(hash: ChunkHash): void {
    pins.set(hash, (pins.get(hash) ?? 0) + 1);
  }

  function unpin(hash: ChunkHash): void {
    const count = pins.get(hash) ?? 0;
    assert(count > 0, `chunk ${hash} is pinned when it is unpinned`);
    if (count === 1) pins.delete(hash);
    else pins.set(hash, count - 1);
  }

  async function store(data: Buffer, { onHash, expected }: StoreOptions): Promise<ChunkHash> {
    assert(data.length <= CHUNK_BYTES_MAX, 'a chunk has at most CHUNK_BYTES_MAX bytes');
    assert(
      bytesInFlight + data.length <= STORE_BYTES_IN_FLIGHT_MAX,
      `at most ${STORE_BYTES_IN_FLIGHT_MAX} bytes are being stored`,
    );
    space.admit(data.length, bytesInFlight);
    bytesInFlight += data.length;
    const copy = data.buffer instanceof SharedArrayBuffer ? undefined : copyOf(data);
    try {
      const shared = copy?.subarray(0, data.length) ?? data;
      const hash = await writers.run('hash', { data: shared });
      onHash?.(hash);
      if (expected !== undefined && hash !== expected)
        throw new FsError('EIO', `the bytes that came for chunk ${expected} do not have its hash`);
      pin(hash);
      try {
        await locks.run(hash, () => makeDurable(hash, shared));
        return hash;
      } catch (error) {
        unpin(hash);
        throw asDiskFailure(error, `chunk ${hash} could not be stored`);
      }
    } finally {
      bytesInFlight -= data.length;
      if (copy !== undefined && copies.length < COPY_BUFFERS_KEPT_MAX) copies.push(copy);
    }
  }

  function copyOf(data: Buffer): Buffer {
    const copy = copies.pop() ?? Buffer.from(new SharedArrayBuffer(CHUNK_BYTES_MAX));
    data.copy(copy);
    return copy;
  }

  async function hashOnly(data: Buffer): Promise<ChunkHash> {
    assert(data.length <= CHUNK_BYTES_MAX, 'a chunk has at most CHUNK_BYTES_MAX bytes');
    const copy = data.buffer instanceof SharedArrayBuffer ? undefined : copyOf(data);
    try {
      return await writers.run('hash', { data: copy?.subarray(0, data.length) ?? data });
    } finally {
      if (copy !== undefined && copies.length < COPY_BUFFERS_KEPT_MAX) copies.push(copy);
    }
  }

  async function makeDurable(hash: ChunkHash, data: Buffer): Promise<void> {
    const temporary = String(++temporaries);
    const keep = !distrusted.has(hash);
    const durable = reader.isDurable(hash);
    const known = durable ? identities.get(hash) : undefined;
    const outcome = await writers.run('write', { directory, hash, data, temporary, keep, durable, known });
    if (outcome.identity === undefined) identities.delete(hash);
    else identities.set(hash, outcome.identity);
    if (outcome.setAside !== undefined) damaged(hash, outcome.setAside);
    if (outcome.kind === 'written') reader.forget(hash);
    if (outcome.descriptor !== undefined) {
      try {
        const { descriptor } = outcome;
        await committer.commit({
          hash,
          descriptor,
          temporary: outcome.kind === 'written' ? temporary : undefined,
        });
      } catch (error) {
        // A kernel reports a write error once: what is in the file's place must not be believed later.
        assert(distrusted.size < DISTRUSTED_MAX, `at most ${DISTRUSTED_MAX} chunks failed to sync`);
        distrusted.add(hash);
        identities.delete(hash);
        reader.forget(hash);
        throw error;
      }
      distrusted.delete(hash);
    }
    if (outcome.checksums !== undefined) reader.learn({ hash, size: data.length }, outcome.checksums);
  }

  async function remove(hashes: readonly ChunkHash[]): Promise<ChunkHash[]> {
    const removed: ChunkHash[] = [];
    const queue = [...hashes];
    async function removeNext(): Promise<void> {
      for (let hash = queue.shift(); hash !== undefined; hash = queue.shift()) {
        if (await removeLarge(hash)) removed.push(hash);
      }
    }
    await Promise.all(Array.from({ length: REMOVALS_AT_ONCE }, removeNext));
    await small.remove(removed);
    return removed;
  }

  function removeLarge(hash: ChunkHash): Promise<boolean> {
    return locks.run(hash, async () => {
      if (pins.has(hash)) return false;
      reader.forget(hash);
      try {
        await fs.unlink(chunkPath(layout, hash));
      } catch (error) {
        if (systemErrorCode(error) !== 'ENOENT')
          throw asDiskFailure(error, `chunk ${hash} could not be removed`);
      }
      return true;
    });
  }

  async function stat(hash: ChunkHash): Promise<StoredChunk | undefined> {
    // Some microseconds, where a thread of the pool takes fifty.
    const size = small.size(hash);
    if (size !== undefined) return { home: 'small', size };
    const large = await statOf(chunkPath(layout, hash));
    return large === undefined ? undefined : { home: 'large', size: large.size, writtenMs: large.mtimeMs };
  }

  function holds(hash: ChunkHash): Promise<StoredChunk | undefined> {
    return locks.run(hash, async () => {
      const stored = distrusted.has(hash) ? undefined : await stat(hash);
      if (stored?.home !== 'large' || reader.isDurable(hash)) return stored;
      try {
        const descriptor = openSync(chunkPath(layout, hash), 'r');
        await committer.commit({ hash, descriptor, temporary: undefined });
        return stored;
      } catch (error) {
        throw asDiskFailure(error, `chunk ${hash} could not be made durable`);
      }
    });
  }

  async function* listLarge(from: string) {
    for (const first of (await fs.readdir(layout.chunks)).sort()) {
      if (first < from.slice(0, 2)) continue;
      for (const second of (await fs.readdir(`${layout.chunks}/${first}`)).sort()) {
        if (first + second < from.slice(0, 4)) continue;
        const shard = `${layout.chunks}/${first}/${second}`;
        for (const name of await fs.readdir(shard)) {
          if (!isChunkHash(name) || !name.startsWith(first + second)) continue;
          const stats = await statOf(`${shard}/${name}`);
          if (stats !== undefined) yield { hash: name, size: stats.size };
        }
      }
    }
  }

  return {
    store: (data, options = {}) => track(() => store(data, options)),
    hash: (data) => track(() => hashOnly(data)),
    unpin,
    reserve: (bytes) => space.reserve(bytes),
    usage: () => space.usage(),
    read: (chunk, offset, target) => track(() => reader.read(chunk, offset, target)),
    readAtOnce: (chunk, offset, target) => reader.readAtOnce(chunk, offset, target),
    prefetch(chunk) {
      void track(() => reader.prefetch(chunk));
    },
    readSmall: (hash) => small.read(hash),
    async fetchSmall(hash) {
      const data = small.read(hash);
      if (data === undefined) throw new FsError('EIO', `small chunk ${hash} is missing`);
      return data;
    },
    settle: (chunks: readonly SmallChunk[]) => track(() => small.settle(chunks)),
    remove: (hashes) => track(() => remove(hashes)),
    verify: (chunk, options = {}) =>
      track(async () => {
        const health = small.verify(chunk.hash);
        if (health.kind !== 'missing') return health;
        try {
          return await reader.verify(chunk, options.setAside ?? false);
        } catch (error) {
          throw asDiskFailure(error, `chunk ${chunk.hash} cannot be read`);
        }
      }),
    stat: (hash) => track(() => stat(hash)),
    holds: (hash) => track(() => holds(hash)),
    listLarge: (from = '') => listLarge(from),
    listSmall: () => small.list(),
    async close() {
      assert(!closed, 'a chunk store is closed once');
      closed = true;
      await Promise.allSettled(active);
      reader.close();
      await Promise.all([writers.close(), syncers.close(), checkers.close(), small.close()]);
    },
  };
}

/** Size and times of the file at `path`, or undefined when there is none. */
async function statOf(path: string): Promise<{ size: number; mtimeMs: number } | undefined> {
  try {
    return await fs.stat(path);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw asDiskFailure(error, `${path} cannot be examined`);
  }
}
