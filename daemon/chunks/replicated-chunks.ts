/**
 * The chunk store of a node in a cluster: the same interface as the local store, with copies on other nodes.
 *
 * A store answers when the chunk is durable here and on its homes (replicated-push.ts). A read that does not find
 * its chunk here gets it from a node that has it (replicated-fetch.ts). Behind that, workers see to it that each
 * chunk is where it should be: repair fetches what is lacking, trim deletes what is too much, scrub finds what the
 * disk has damaged, deletion follows the metadata.
 *
 * A node alone is a cluster of one: the same code, nobody to ask and nobody to send to.
 *
 * Invariants. What a reader gets was verified, wherever it came from. No copy is deleted on suspicion: trim asks the
 * homes, deletion follows a durable operation. Memory for chunks on the way is bounded in each part.
 */

import { FsError } from '../protocol/errors.ts';
import { type ChunkHash, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { systemSleep, type WorkerStatus } from '../runtime/background-worker.ts';
import { openLru } from '../runtime/lru.ts';
import { openThrottle } from '../runtime/throttle.ts';
import { ChunkLostError, type ChunkStore, type StoreOptions } from './interface.ts';
import { checkHomes, type HomesCheck } from './replicated-drain.ts';
import { startDropper } from './replicated-drop.ts';
import { ChunkNowhereError, openFetcher } from './replicated-fetch.ts';
import { handleChunkCalls } from './replicated-handlers.ts';
import type { ChunkName, ReplicatedChunksOptions } from './replicated-options.ts';
import { openPusher, type PushFigures } from './replicated-push.ts';
import { type LackingChunk, type RepairFigures, startRepair } from './replicated-repair.ts';
import { startScrub } from './replicated-scrub.ts';
import { startTrim } from './replicated-trim.ts';
import { type View, viewOfCluster } from './replicated-view.ts';

const GRACE_MS = 60 * 60_000;
const SCAN_MS = 6 * 60 * 60_000;
const SCRUB_ROUND_MS = 7 * 24 * 60 * 60_000;
const LACKING_MAX = 50_000;
const STORED_HERE_MAX = 10_000;

export interface ReplicationFigures extends RepairFigures, PushFigures {
  readonly fetched: number;
  readonly fetchedBytes: number;
  readonly trimmed: number;
  readonly trimmedBytes: number;
  readonly scrubbed: number;
  /** Nodes whose chunks others have taken over, and whether too many are away for that. */
  readonly dead: View['dead'];
  readonly braked: boolean;
}

export interface ReplicatedChunks extends ChunkStore {
  /** Members, settings or the leader have changed. */
  changed(): void;
  /** All chunks are looked for again: the metadata were replaced by a snapshot, or taken back. */
  rescan(): void;
  /** An applied operation names these large chunks. Cheap; what should be here and is not is fetched. */
  named(chunks: readonly ChunkName[]): void;
  /** An applied operation dropped these chunks; their bytes go when it is durable. */
  dropped(hashes: readonly ChunkHash[]): void;
  figures(): ReplicationFigures;
  /** Chunks that should be here and are not; `after` 0 to begin, then `next`. */
  lacking(after: number, limit: number): { chunks: LackingChunk[]; next: number | undefined };
  /** The nodes that should have a chunk. */
  homes(chunk: ChunkName): readonly string[];
  /** Whether every chunk is on all its homes: asked before a draining node is removed. */
  checkHomes(signal: AbortSignal): Promise<HomesCheck>;
  workers(): WorkerStatus[];
  /** Repair and trimming rest until `resumeRepair`. Reads and writes go on. */
  pauseRepair(): void;
  resumeRepair(): void;
  /** From now on this node deletes no chunk, until what is answered is called: an older state refers to them. */
  keepAll(): () => void;
  /** Bytes per second of repair and trimming; undefined: no limit. */
  setRepairLimit(bytesPerSecond: number | undefined): void;
}

/** Sets the handlers of `peers` for chunks; call it before the first message. */
export function replicatedChunks(options: ReplicatedChunksOptions): ReplicatedChunks {
  const { local, peers, rows, clock, cluster } = options;
  const log = options.log.room('chunks');
  const graceMs = options.graceMs ?? GRACE_MS;
  const scanMs = options.scanMs ?? SCAN_MS;
  const sleep = options.sleep ?? systemSleep;
  const onDamage = options.onDamage ?? (() => undefined);
  const onRepaired = options.onRepaired ?? (() => undefined);
  const throttle = openThrottle(clock, options.repairBytesPerSecond);
  /** Stored by this node a while ago: no need to look whether they are here. */
  const storedHere = openLru<ChunkHash, true>({ weightMax: STORED_HERE_MAX });
  /** Chunks whose files are being read. */
  const reading = new Map<ChunkHash, number>();

  /** Who asked to keep all chunks. */
  let keeps = 0;

  const view = viewOfCluster(options, graceMs);
  const fetcher = openFetcher({ local, peers, view, log });
  const pusher = openPusher({ peers, view, clock, log });
  const dropper = startDropper({ local, rows, clock, log, sleep });
  const repair = startRepair({
    ...{ local, rows, view, fetcher, clock, log, throttle, sleep, scanMs, onDamage, onRepaired },
    lackingMax: options.lackingMax ?? LACKING_MAX,
  });
  const trim = startTrim({
    ...{ local, peers, rows, view, clock, log, throttle, sleep, scanMs, graceMs },
    isInUse: (hash) => keeps > 0 || reading.has(hash) || dropper.isPromised(hash),
  });
  const scrub = startScrub({
    ...{ local, clock, log, sleep },
    roundMs: options.scrubRoundMs ?? SCRUB_ROUND_MS,
    onDamaged: (chunk, reason) => repair.lack(chunk, reason),
  });
  const workers = [repair, trim, scrub, dropper];
  handleChunkCalls({
    ...{ local, peers, view, rows },
    onPromised: (hash) => dropper.promise(hash),
    isGoing: (hash) => trim.isGoing(hash),
    onLacking: (chunk, reason) => repair.lack(chunk, reason),
    onStored: (hash) => repair.found(hash),
  });
  let { key } = view.current();
  view.onChange((now) => {
    if (now.key === key) return repair.retry();
    key = now.key;
    repair.rescan();
    trim.rescan();
  });

  async function store(data: Buffer, storeOptions: StoreOptions = {}): Promise<ChunkHash> {
    const failure = new AbortController();
    let pushing: Promise<void> = Promise.resolve();
    function onHash(hash: ChunkHash): void {
      storeOptions.onHash?.(hash);
      if (storeOptions.expected !== undefined && storeOptions.expected !== hash) return;
      storedHere.set(hash, true);
      if (cluster.members().length <= 1) return;
      // Asked before this store can have written it.
      const likelyThere = local.stat(hash).then(
        (stored) => stored !== undefined,
        () => false,
      );
      pushing = pusher.push({ hash, data, likelyThere, signal: failure.signal });
      pushing.catch(() => undefined);
    }
    try {
      const hash = await local.store(data, { ...storeOptions, onHash });
      try {
        await pushing;
      } catch (error) {
        local.unpin(hash);
        throw error;
      }
      return hash;
    } catch (error) {
      failure.abort();
      // The caller may use the memory again when this rejects.
      await pushing.catch(() => undefined);
      throw error;
    }
  }

  function read(chunk: ChunkName, offset: number, target: Buffer): Promise<void> {
    const fetched = fetcher.peek(chunk.hash);
    if (fetched?.length === chunk.size) {
      fetched.copy(target, 0, offset, offset + target.length);
      return Promise.resolve();
    }
    reading.set(chunk.hash, (reading.get(chunk.hash) ?? 0) + 1);
    return local.read(chunk, offset, target).then(
      () => endRead(chunk.hash),
      (error: unknown) => {
        endRead(chunk.hash);
        return readElsewhere(chunk, offset, target, error);
      },
    );
  }

  function endRead(hash: ChunkHash): void {
    const count = reading.get(hash) ?? 1;
    if (count === 1) reading.delete(hash);
    else reading.set(hash, count - 1);
  }

  async function readElsewhere(
    chunk: ChunkName,
    offset: number,
    target: Buffer,
    cause: unknown,
  ): Promise<void> {
    if (!(cause instanceof FsError)) throw cause;
    const isHome = view.isHome(chunk, view.self);
    if (cause instanceof ChunkLostError && (isHome || cause.loss === 'damaged'))
      repair.lack(chunk, cause.message);
    const data = await getElsewhere(chunk.hash, {
      sizeHint: chunk.size,
      keep: isHome && cause instanceof ChunkLostError,
    });
    if (data.length !== chunk.size)
      throw new FsError('EIO', `chunk ${chunk.hash} has ${data.length} bytes and not ${chunk.size}`);
    data.copy(target, 0, offset, offset + target.length);
  }

  async function getElsewhere(hash: ChunkHash, wanted: { sizeHint: number; keep: boolean }): Promise<Buffer> {
    try {
      const { data, kept } = await fetcher.fetch(hash, wanted);
      void kept.then((stored) => {
        if (stored) repair.found(hash);
      });
      return data;
    } catch (error) {
      if (error instanceof ChunkNowhereError && error.lost) onDamage({ hash, reason: error.message });
      throw error;
    }
  }

  async function checkNamed(chunk: ChunkName): Promise<void> {
    const known = storedHere.peek(chunk.hash) === true || dropper.isPromised(chunk.hash);
    dropper.kept(chunk.hash);
    if (known || chunk.size <= SMALL_CHUNK_BYTES_MAX) return;
    if (!view.isHome(chunk, view.self)) return;
    if ((await local.stat(chunk.hash)) === undefined) repair.lack(chunk, '');
  }

  return {
    store,
    hash: (data) => local.hash(data),
    unpin: (hash) => local.unpin(hash),
    reserve: (bytes, kept) => local.reserve(bytes, kept),
    usage: () => local.usage(),
    read,
    readAtOnce: (chunk, offset, target) => local.readAtOnce(chunk, offset, target),
    prefetch(chunk) {
      if (repair.isLacking(chunk.hash) || !view.isHome(chunk, view.self)) fetcher.prefetch(chunk);
      else local.prefetch(chunk);
    },
    readSmall(hash) {
      try {
        return local.readSmall(hash);
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        repair.lack({ hash, size: SMALL_CHUNK_BYTES_MAX }, error.message);
        return undefined;
      }
    },
    async fetchSmall(hash) {
      const chunk = { hash, size: SMALL_CHUNK_BYTES_MAX };
      const here = rows.unsettled(hash) ?? fetcher.peek(hash);
      return (
        here ?? (await getElsewhere(hash, { sizeHint: chunk.size, keep: view.isHome(chunk, view.self) }))
      );
    },
    settle: (chunks) => local.settle(chunks),
    async remove(hashes) {
      if (keeps > 0) {
        dropper.dropped(hashes);
        return [];
      }
      // Another node counts on them for an operation that is on its way: later, if it does not come.
      const promised = hashes.filter((hash) => dropper.isPromised(hash));
      if (promised.length > 0) dropper.dropped(promised);
      return local.remove(hashes.filter((hash) => !dropper.isPromised(hash)));
    },
    verify: (chunk, verifyOptions) => local.verify(chunk, verifyOptions),
    stat: (hash) => local.stat(hash),
    holds: (hash) => local.holds(hash),
    listLarge: (from) => local.listLarge(from),
    listSmall: () => local.listSmall(),
    async close() {
      view.close();
      await Promise.all(workers.map((worker) => worker.close()));
    },
    changed: () => view.changed(),
    rescan: () => repair.rescan(),
    named(chunks) {
      if (cluster.members().length <= 1) return;
      for (const chunk of chunks) {
        checkNamed(chunk).catch((error: unknown) => repair.lack(chunk, String(error)));
      }
    },
    dropped: (hashes) => dropper.dropped(hashes),
    figures() {
      const { dead, braked } = view.current();
      const { fetched, fetchedBytes } = fetcher.figures();
      const trimmed = trim.trimmed();
      return {
        ...repair.figures(),
        ...pusher.figures(),
        fetched,
        fetchedBytes,
        trimmed: trimmed.chunks,
        trimmedBytes: trimmed.bytes,
        scrubbed: scrub.figures().verified,
        dead,
        braked,
      };
    },
    lacking: (after, limit) => repair.page(after, limit),
    homes: (chunk) => view.homes(chunk),
    checkHomes: (signal) => checkHomes({ local, peers, rows, view, signal }),
    workers: () => workers.map((worker) => worker.status()),
    pauseRepair() {
      repair.pause();
      trim.pause();
    },
    resumeRepair() {
      repair.resume();
      trim.resume();
    },
    keepAll() {
      if (keeps++ === 0) dropper.pause();
      return () => {
        if (--keeps === 0) dropper.resume();
      };
    },
    setRepairLimit: (bytesPerSecond) => throttle.setLimit(bytesPerSecond),
  };
}
