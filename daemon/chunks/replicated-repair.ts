/**
 * Fetches the chunks that should be here and are not.
 *
 * Two ways to learn of one: somebody met it (a read, a scrub, a peer's question), or the scan of the chunk table
 * did. A scan runs at the start, when the placement or who is away changes, and every few hours. It looks page by
 * page: what is a home here and neither on the disk nor in the log is put into `lacking`.
 *
 * Invariants. `lacking` is bounded: what does not fit is counted, and scanned for again once there is room. A chunk
 * leaves it when it is durable here, or when it is not wanted here any more. What nobody has is tried again ever
 * more slowly, and whenever a node comes back; it is damage only when every node that may have it was asked.
 */

import type { ChunkHash } from '../protocol/ids.ts';
import {
  type BackgroundWorker,
  type Sleep,
  startWorker,
  type UnitOutcome,
  type WorkerQueue,
} from '../runtime/background-worker.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Throttle } from '../runtime/throttle.ts';
import { FsError } from '../protocol/errors.ts';
import type { ChunkStore } from './interface.ts';
import { ChunkNowhereError, type Fetcher } from './replicated-fetch.ts';
import type { ChunkName, ChunkRow, ChunkRows } from './replicated-options.ts';
import type { ViewOfCluster } from './replicated-view.ts';

const SCAN_ROWS = 500;
/** File look-ups of a scan at once. */
const LOOKS_AT_ONCE = 8;
/** One unit of work: chunks that are fetched side by side. */
const UNIT_CHUNKS_MAX = 256;
const UNIT_BYTES_MAX = 16 * 1024 * 1024;
/** Small chunks that arrive together share a transaction of small.db. The fetcher bounds the bytes. */
const FETCHES_AT_ONCE = 64;
/** Links that flap do not cause a scan each. */
const SCAN_SOON_MS = 60_000;
const RETRY_MS_MIN = 5000;
const RETRY_MS_MAX = 10 * 60_000;

export interface LackingChunk {
  readonly hash: ChunkHash;
  /** Of a damaged chunk: of what was found. */
  readonly bytes: number;
  /** Why it is still lacking; empty: its turn has not come. */
  readonly reason: string;
}

export interface RepairFigures {
  readonly lackingChunks: number;
  readonly lackingBytes: number;
  /** Chunks of which at least one home is away now: they have fewer copies until it is back or replaced. */
  readonly awayChunks: number;
  readonly awayBytes: number;
  /** The figures are those of a whole scan of the present placement. */
  readonly complete: boolean;
}

export interface Repair extends BackgroundWorker {
  /** Looks at all chunks again, now. */
  rescan(): void;
  /** Nodes came or went: what was not found is tried again, and a scan follows soon. */
  retry(): void;
  lack(chunk: ChunkName, reason: string): void;
  isLacking(hash: ChunkHash): boolean;
  /** The chunk is here now. */
  found(hash: ChunkHash): void;
  figures(): RepairFigures;
  /** Lacking chunks in the order they were found, after the `after`th ever; `next` undefined: no more. */
  page(after: number, limit: number): { chunks: LackingChunk[]; next: number | undefined };
}

interface Lacking {
  readonly sequence: number;
  readonly bytes: number;
  reason: string;
  tries: number;
  retryAtMs: number;
  /** Reported as damage. */
  lost: boolean;
}

export interface RepairOptions {
  readonly local: ChunkStore;
  readonly rows: ChunkRows;
  readonly view: ViewOfCluster;
  readonly fetcher: Fetcher;
  readonly clock: Clock;
  readonly log: Log;
  readonly throttle: Throttle;
  readonly sleep: Sleep;
  readonly scanMs: number;
  readonly lackingMax: number;
  readonly onDamage: (damage: { hash: ChunkHash; reason: string }) => void;
  readonly onRepaired: (hash: ChunkHash) => void;
}

export function startRepair(options: RepairOptions): Repair {
  const { local, rows, view, fetcher, clock } = options;
  const lacking = new Map<ChunkHash, Lacking>();
  let lackingBytes = 0;
  let sequence = 0;
  /** What the last scan found beyond the limit of `lacking`. */
  let beyond = { chunks: 0, bytes: 0 };
  let away = { chunks: 0, bytes: 0 };
  let scan: { row: number; beyond: typeof beyond; away: typeof away } | undefined = newScan();
  let complete = false;
  let scannedAtMs = clock.monotonicMs();
  let busySinceMs: number | undefined;
  let doneBytes = 0;

  function newScan() {
    return { row: 0, beyond: { chunks: 0, bytes: 0 }, away: { chunks: 0, bytes: 0 } };
  }

  function add({ hash, size }: ChunkName, reason: string): void {
    if (lacking.has(hash)) return;
    sequence += 1;
    lacking.set(hash, { sequence, bytes: size, reason, tries: 0, retryAtMs: 0, lost: false });
    lackingBytes += size;
    busySinceMs ??= clock.monotonicMs();
  }

  function drop(hash: ChunkHash): void {
    const entry = lacking.get(hash);
    if (entry === undefined) return;
    lacking.delete(hash);
    lackingBytes -= entry.bytes;
    if (lacking.size === 0) {
      busySinceMs = undefined;
      doneBytes = 0;
    }
    options.onRepaired(hash);
  }

  async function isHere({ hash, bytes }: ChunkRow): Promise<boolean> {
    if (rows.unsettled(hash) !== undefined) return true;
    const stored = await local.stat(hash);
    return stored !== undefined && stored.size === bytes;
  }

  async function scanPage(progress: ReturnType<typeof newScan>): Promise<void> {
    const page = rows.chunksAfter(progress.row, SCAN_ROWS);
    const { away: gone } = view.current();
    const wanted: ChunkRow[] = [];
    for (const chunk of page) {
      const homes = view.homes({ hash: chunk.hash, size: chunk.bytes });
      if (homes.includes(view.self) && !lacking.has(chunk.hash)) wanted.push(chunk);
      if (gone.length > 0 && homes.some((home) => gone.includes(home))) {
        progress.away.chunks += 1;
        progress.away.bytes += chunk.bytes;
      }
    }
    await forEachOf(wanted, LOOKS_AT_ONCE, async (chunk) => {
      if (await isHere(chunk)) return;
      if (lacking.size < options.lackingMax) return add({ hash: chunk.hash, size: chunk.bytes }, '');
      progress.beyond.chunks += 1;
      progress.beyond.bytes += chunk.bytes;
    });
    const last = page.at(-1);
    if (last !== undefined) progress.row = last.row;
    if (scan !== progress) return;
    if (page.length < SCAN_ROWS) {
      beyond = progress.beyond;
      away = progress.away;
      scan = undefined;
      complete = true;
      scannedAtMs = clock.monotonicMs();
    }
  }

  function dueChunks(now: number): [ChunkHash, Lacking][] {
    const due: [ChunkHash, Lacking][] = [];
    let bytes = 0;
    for (const [hash, entry] of lacking) {
      if (entry.retryAtMs > now) continue;
      if (due.length > 0 && bytes + entry.bytes > UNIT_BYTES_MAX) break;
      due.push([hash, entry]);
      bytes += entry.bytes;
      if (due.length === UNIT_CHUNKS_MAX) break;
    }
    return due;
  }

  /** Answers the bytes that came. */
  async function repairOne(hash: ChunkHash, entry: Lacking): Promise<number> {
    if (!rows.hasChunk(hash) || !view.isHome({ hash, size: entry.bytes }, view.self)) {
      drop(hash);
      return 0;
    }
    if (local.usage().availableBytes < entry.bytes) {
      later(entry, 'this disk has no space for it');
      return 0;
    }
    try {
      const { data, kept } = await fetcher.fetch(hash, { sizeHint: entry.bytes, keep: true });
      if (await kept) drop(hash);
      else later(entry, 'it was fetched but could not be stored on this disk');
      doneBytes += data.length;
      return data.length;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      later(entry, error.message);
      if (error instanceof ChunkNowhereError && error.lost && !entry.lost) {
        entry.lost = true;
        options.onDamage({ hash, reason: error.message });
      }
      return 0;
    }
  }

  function later(entry: Lacking, reason: string): void {
    entry.reason = reason;
    entry.retryAtMs = clock.monotonicMs() + Math.min(RETRY_MS_MIN * 2 ** entry.tries, RETRY_MS_MAX);
    entry.tries = Math.min(entry.tries + 1, 30);
  }

  async function unit(signal: AbortSignal): Promise<UnitOutcome> {
    view.current();
    const now = clock.monotonicMs();
    if (scan === undefined) {
      const roomAgain = beyond.chunks > 0 && lacking.size < options.lackingMax / 2;
      if (roomAgain || now - scannedAtMs >= options.scanMs) scan = newScan();
    }
    const due = dueChunks(now);
    if (scan === undefined && due.length === 0) return { kind: 'idle', nextMs: restMs(now) };
    if (scan !== undefined) await scanPage(scan);
    let bytes = 0;
    await forEachOf(due, FETCHES_AT_ONCE, async ([hash, entry]) => {
      if (!signal.aborted && lacking.get(hash) === entry) bytes += await repairOne(hash, entry);
    });
    return { kind: 'worked', bytes };
  }

  function restMs(now: number): number {
    let untilMs = scannedAtMs + options.scanMs;
    for (const { retryAtMs } of lacking.values()) untilMs = Math.min(untilMs, retryAtMs);
    return Math.max(1, untilMs - now);
  }

  function queue(): WorkerQueue {
    const bytes = lackingBytes + beyond.bytes;
    const items = lacking.size + beyond.chunks;
    const elapsedMs = busySinceMs === undefined ? 0 : clock.monotonicMs() - busySinceMs;
    const secondsLeft =
      items === 0 ? 0 : doneBytes === 0 ? undefined : (bytes * elapsedMs) / doneBytes / 1000;
    return { items, bytes, doneBytes, secondsLeft };
  }

  const worker = startWorker({
    name: 'chunk repair',
    unit,
    queue,
    throttle: options.throttle,
    sleep: options.sleep,
    log: options.log,
  });

  function retry(): void {
    // A node that came back may have what nobody had.
    for (const entry of lacking.values()) {
      entry.retryAtMs = 0;
      entry.tries = 0;
    }
    scannedAtMs = Math.min(scannedAtMs, clock.monotonicMs() + SCAN_SOON_MS - options.scanMs);
    worker.wake();
  }

  function rescan(): void {
    scan = newScan();
    complete = false;
    retry();
  }

  return {
    ...worker,
    rescan,
    retry,
    lack(chunk, reason) {
      if (lacking.size >= options.lackingMax) {
        beyond = { chunks: beyond.chunks + 1, bytes: beyond.bytes + chunk.size };
        return;
      }
      add(chunk, reason);
      worker.wake();
    },
    isLacking: (hash) => lacking.has(hash),
    found: drop,
    figures: () => ({
      lackingChunks: lacking.size + beyond.chunks,
      lackingBytes: lackingBytes + beyond.bytes,
      awayChunks: away.chunks,
      awayBytes: away.bytes,
      complete,
    }),
    page(after, limit) {
      const chunks: LackingChunk[] = [];
      let last = after;
      for (const [hash, entry] of lacking) {
        if (entry.sequence <= after) continue;
        if (chunks.length === limit) return { chunks, next: last };
        chunks.push({ hash, bytes: entry.bytes, reason: entry.reason });
        last = entry.sequence;
      }
      return { chunks, next: undefined };
    },
  };
}

/** Runs `work` for each item, `atOnce` side by side. */
async function forEachOf<Item>(
  items: readonly Item[],
  atOnce: number,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  const queue = [...items];
  async function next(): Promise<void> {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, next));
}
