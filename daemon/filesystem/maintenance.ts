/**
 * Background work of the file system, one thing at a time:
 *
 * - settle: bytes of small chunks go from the log to `small.db`, durably, so that the log can be trimmed;
 * - reclaim: inodes without a name, an open or a kernel that knows them are freed, some extents at a time;
 * - collect: chunks that nothing refers to are deleted: the row first, by an operation that is durable before
 *   the bytes go. A chunk must have been seen unreferenced in two rounds, so that no read is in its middle;
 * - fold: a slot with many small extents becomes one chunk, when the file has been quiet for a moment.
 *
 * One at a time is an invariant: settle and collect work on the same rows of `small.db`.
 *
 * Of several nodes each settles for itself; what changes the metadata is the leader's. It frees an inode without a
 * name only when no node has it open.
 */

import * as crypto from 'node:crypto';
import { describeError, FsError } from '../protocol/errors.ts';
import {
  CHUNK_BYTES_MAX,
  type ChunkHash,
  type Inode,
  type MountId,
  NO_MOUNT,
  SMALL_CHUNK_BYTES_MAX,
} from '../protocol/ids.ts';
import type { NewExtent } from '../protocol/operations.ts';
import type { Context } from './context.ts';

const ROUND_MS = 100;
/** Small chunks are settled this often, or when this many bytes wait: each time costs the disk two syncs. */
const SETTLE_INTERVAL_MS = 1000;
const SETTLE_BYTES_EAGER = 4 * 1024 * 1024;
const SETTLE_BATCH_BYTES = 4 * 1024 * 1024;
const RECLAIM_INODES_MAX = 256;
const RECLAIM_EXTENTS_MAX = 1000;
const COLLECT_CHUNKS_MAX = 1000;
const COLLECT_INTERVAL_MS = 2000;
/** A slot with more extents than this is folded when it is quiet, with many more while it is written. */
const FOLD_EXTENTS_QUIET = 64;
const FOLD_EXTENTS_BUSY = 768;
const FOLD_QUIET_MS = 2000;
const FOLD_CANDIDATES_MAX = 10_000;
/** Inodes that another node holds open are asked for again after this long. */
const HELD_ELSEWHERE_RETRY_MS = 2000;
const ORPHANS_MAX = 1_000_000;

export interface MaintenanceStatus {
  readonly orphans: number;
  readonly foldCandidates: number;
  readonly folded: number;
  readonly collectedChunks: number;
  readonly lastError: string | undefined;
}

export interface Maintenance {
  orphaned(inode: Inode, mount: MountId): void;
  /** An orphan got a name again. */
  named(inode: Inode): void;
  forgotten(inode: Inode): void;
  mountDropped(): void;
  noteSmallExtents(inode: Inode, offset: number): void;
  /** This node leads from now on: what other nodes left is its work. */
  leads(): void;
  /** Which of these this node still uses, with a name or without. */
  heldOf(inodes: readonly Inode[]): Inode[];
  /** Does everything there is to do now (tests, clean shutdown). */
  drain(): Promise<void>;
  status(): MaintenanceStatus;
  close(): Promise<void>;
}

interface FoldCandidate {
  readonly inode: Inode;
  readonly slot: number;
  lastWriteMs: number;
  /** Small extents since they were last counted. */
  noted: number;
}

export function startMaintenance(context: Context): Maintenance {
  const { metadata, chunks, clock, data } = context;
  const log = context.log.room('maintenance');
  /** Orphans of this life that may still be in use; those of an earlier one are free at once. */
  const held = new Set<Inode>();
  let reclaimable: Inode[] = metadata.reads.orphans(ORPHANS_MAX);
  let heldElsewhere: Inode[] = [];
  let heldElsewhereSinceMs = 0;
  const candidates = new Map<string, FoldCandidate>();
  let unreferencedBefore = new Set<ChunkHash>();
  let lastCollectMs = 0;
  let lastSettleMs = 0;
  let folded = 0;
  let collectedChunks = 0;
  let lastError: string | undefined;
  let running: Promise<void> | undefined;
  let closed = false;
  const timer = setInterval(() => {
    if (hasWork()) void round();
  }, ROUND_MS);
  timer.unref();

  function hasWork(): boolean {
    if (metadata.status().readOnly !== undefined) return false;
    if (settleIsDue()) return true;
    if (!isLeader()) return false;
    return (
      reclaimable.length > 0 ||
      heldElsewhere.length > 0 ||
      candidates.size > 0 ||
      clock.monotonicMs() - lastCollectMs >= COLLECT_INTERVAL_MS
    );
  }

  function isLeader(): boolean {
    return context.cluster === undefined || context.cluster.leads();
  }

  function settleIsDue(): boolean {
    const { unsettledBytes } = metadata.status();
    if (unsettledBytes === 0) return false;
    return unsettledBytes >= SETTLE_BYTES_EAGER || clock.monotonicMs() - lastSettleMs >= SETTLE_INTERVAL_MS;
  }

  function round(): Promise<void> {
    running ??= (async () => {
      try {
        if (settleIsDue()) await settle();
        if (isLeader()) {
          await reclaim();
          await collect(false);
          await fold();
        }
        lastError = undefined;
      } catch (error) {
        const text = describeError(error);
        if (text !== lastError) log.warn('background work failed; it is tried again', { error: text });
        lastError = text;
      } finally {
        running = undefined;
      }
      if (!closed && metadata.status().unsettledBytes >= SETTLE_BYTES_EAGER) void round();
    })();
    return running;
  }

  async function settle(): Promise<void> {
    lastSettleMs = clock.monotonicMs();
    for (let batch = metadata.unsettledBatch(SETTLE_BATCH_BYTES); batch.length > 0; ) {
      try {
        await chunks.settle(batch);
      } catch (error) {
        if (error instanceof FsError) metadata.settleFailed(error);
        throw error;
      }
      metadata.settled(batch);
      batch = metadata.unsettledBatch(SETTLE_BATCH_BYTES);
    }
  }

  async function reclaim(): Promise<void> {
    if (heldElsewhere.length > 0 && clock.monotonicMs() - heldElsewhereSinceMs >= HELD_ELSEWHERE_RETRY_MS) {
      reclaimable.push(...heldElsewhere);
      heldElsewhere = [];
    }
    while (reclaimable.length > 0) {
      const closed = reclaimable.slice(0, RECLAIM_INODES_MAX).filter((inode) => !data.isOpen(inode));
      reclaimable = reclaimable.slice(RECLAIM_INODES_MAX);
      const inodes = await notHeldElsewhere(closed);
      if (inodes.length === 0) continue;
      const outcome = await metadata.propose({ kind: 'reclaim', inodes, extentsMax: RECLAIM_EXTENTS_MAX });
      // What was not freed has more extents than one operation removes, or a name again.
      if ((outcome.count ?? 0) < inodes.length) {
        reclaimable.push(...inodes.filter((inode) => metadata.reads.isOrphan(inode)));
      }
      await new Promise(setImmediate);
    }
  }

  async function notHeldElsewhere(inodes: readonly Inode[]): Promise<readonly Inode[]> {
    if (context.cluster === undefined || inodes.length === 0) return inodes;
    const elsewhere = await context.cluster.heldElsewhere(inodes);
    if (elsewhere.size === 0) return inodes;
    heldElsewhere.push(...elsewhere);
    heldElsewhereSinceMs = clock.monotonicMs();
    return inodes.filter((inode) => !elsewhere.has(inode));
  }

  async function collect(everything: boolean): Promise<void> {
    const now = clock.monotonicMs();
    if (!everything && now - lastCollectMs < COLLECT_INTERVAL_MS) return;
    lastCollectMs = now;
    const unreferenced = metadata.reads.unreferencedChunks(COLLECT_CHUNKS_MAX).map((chunk) => chunk.hash);
    const doomed = everything ? unreferenced : unreferenced.filter((hash) => unreferencedBefore.has(hash));
    unreferencedBefore = new Set(unreferenced);
    if (doomed.length === 0) return;
    await metadata.propose({ kind: 'drop-chunks', hashes: doomed });
    await metadata.barrier();
    // One that was written again meanwhile has a row again; its bytes stay.
    const gone = doomed.filter((hash) => !metadata.reads.hasChunk(hash));
    collectedChunks += (await chunks.remove(gone)).length;
    if (unreferenced.length === COLLECT_CHUNKS_MAX) lastCollectMs = 0;
  }

  async function fold(): Promise<void> {
    const now = clock.monotonicMs();
    for (const [key, candidate] of candidates) {
      const { inode, slot } = candidate;
      const start = slot * CHUNK_BYTES_MAX;
      const quiet = now - candidate.lastWriteMs >= FOLD_QUIET_MS;
      // Counted once when the slot has become quiet; while it is written, only when it must have many.
      if (!quiet && candidate.noted < FOLD_EXTENTS_BUSY) continue;
      candidate.noted = 0;
      const extents = metadata.reads.countExtents(inode, start, start + CHUNK_BYTES_MAX);
      if (extents > (quiet ? FOLD_EXTENTS_QUIET : FOLD_EXTENTS_BUSY)) {
        candidates.delete(key);
        if (await foldSlot(inode, start)) folded++;
      } else if (quiet) {
        candidates.delete(key);
      }
    }
  }

  /** Rewrites the runs of adjacent extents of a slot as one chunk each. */
  async function foldSlot(inode: Inode, start: number): Promise<boolean> {
    const found = metadata.reads.extents(inode, start, start + CHUNK_BYTES_MAX);
    const first = found[0];
    const last = found.at(-1);
    if (first === undefined || last === undefined) return false;
    const end = last.offset + last.length;
    context.room.take(end - first.offset);
    const expected: NewExtent[] = found.map(({ offset, length, hash, chunkBytes, chunkOffset }) => ({
      offset,
      length,
      hash,
      chunkBytes,
      chunkOffset,
    }));
    const buffer = Buffer.from(new SharedArrayBuffer(end - first.offset));
    const waits: Promise<void>[] = [];
    const runs: { offset: number; length: number }[] = [];
    for (const extent of found) {
      const part = buffer.subarray(
        extent.offset - first.offset,
        extent.offset - first.offset + extent.length,
      );
      if (extent.chunkBytes > SMALL_CHUNK_BYTES_MAX) {
        waits.push(chunks.read({ hash: extent.hash, size: extent.chunkBytes }, extent.chunkOffset, part));
      } else {
        const bytes =
          metadata.unsettled(extent.hash) ??
          chunks.readSmall(extent.hash) ??
          (await chunks.fetchSmall(extent.hash));
        part.set(bytes.subarray(extent.chunkOffset, extent.chunkOffset + extent.length));
      }
      const run = runs.at(-1);
      const adjoins = run !== undefined && run.offset + run.length === extent.offset;
      const startsPart = extent.offset % context.chunkBytes === 0;
      if (adjoins && !startsPart) run.length += extent.length;
      else runs.push({ offset: extent.offset, length: extent.length });
    }
    await Promise.all(waits);
    const pinned: ChunkHash[] = [];
    const extents: NewExtent[] = [];
    const payload = new Map<ChunkHash, Uint8Array>();
    try {
      for (const run of runs) {
        const bytes = buffer.subarray(run.offset - first.offset, run.offset - first.offset + run.length);
        let hash: ChunkHash;
        if (run.length > SMALL_CHUNK_BYTES_MAX) {
          hash = await chunks.store(bytes);
          pinned.push(hash);
        } else {
          hash = crypto.hash('sha256', bytes, 'hex') as ChunkHash;
          payload.set(hash, Buffer.copyBytesFrom(bytes));
        }
        extents.push({
          offset: run.offset,
          length: run.length,
          hash,
          chunkBytes: run.length,
          chunkOffset: 0,
        });
      }
      await metadata.propose(
        { kind: 'fold', inode, offset: first.offset, length: end - first.offset, expected, extents },
        payload,
      );
      data.changed(inode);
      return true;
    } catch (error) {
      // Written, cut or removed meanwhile: it stays as it is.
      if (error instanceof FsError && (error.code === 'EAGAIN' || error.code === 'ESTALE')) return false;
      throw error;
    } finally {
      for (const hash of pinned) chunks.unpin(hash);
    }
  }

  return {
    orphaned(inode, mount) {
      if (mount !== NO_MOUNT || data.isOpen(inode)) held.add(inode);
      else if (isLeader()) reclaimable.push(inode);
    },
    named: (inode) => held.delete(inode),
    forgotten(inode) {
      if (held.size === 0 || !held.has(inode) || data.isOpen(inode)) return;
      held.delete(inode);
      if (isLeader()) reclaimable.push(inode);
    },
    mountDropped() {
      for (const inode of held) {
        if (data.isOpen(inode)) continue;
        held.delete(inode);
        if (isLeader()) reclaimable.push(inode);
      }
    },
    noteSmallExtents(inode, offset) {
      if (!isLeader()) return;
      const slot = Math.floor(offset / CHUNK_BYTES_MAX);
      const key = `${inode}:${slot}`;
      const candidate = candidates.get(key);
      if (candidate !== undefined) {
        candidate.lastWriteMs = clock.monotonicMs();
        candidate.noted++;
      } else if (candidates.size < FOLD_CANDIDATES_MAX) {
        candidates.set(key, { inode, slot, lastWriteMs: clock.monotonicMs(), noted: 1 });
      }
    },
    leads() {
      candidates.clear();
      heldElsewhere = [];
      reclaimable = metadata.reads.orphans(ORPHANS_MAX).filter((inode) => !held.has(inode));
    },
    heldOf: (inodes) => inodes.filter((inode) => held.has(inode) || data.isOpen(inode)),
    async drain() {
      await running;
      await settle();
      if (!isLeader()) return;
      await reclaim();
      await collect(true);
    },
    status: () => ({
      orphans: held.size + reclaimable.length + heldElsewhere.length,
      foldCandidates: candidates.size,
      folded,
      collectedChunks,
      lastError,
    }),
    async close() {
      closed = true;
      clearInterval(timer);
      await running;
      if (metadata.status().readOnly === undefined) await settle();
    },
  };
}
