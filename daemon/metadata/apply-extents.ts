/**
 * Changes of a file's extents and of the reference counts that go with them.
 *
 * Invariants: extents of a file never overlap; none crosses a slot; `chunk.refs` is the number of extent rows
 * that name the chunk. Counts change in the transaction of the extents; the caller keeps `inode.stored` (the sum
 * of lengths) by what `put`, `remove` and `copy` answer.
 */

import { FsError } from '../protocol/errors.ts';
import {
  CHUNK_BYTES_MAX,
  type ChunkHash,
  FILE_BYTES_MAX,
  type Inode,
  SMALL_CHUNK_BYTES_MAX,
} from '../protocol/ids.ts';
import type { NewExtent } from '../protocol/operations.ts';
import { assert } from '../runtime/assert.ts';
import type { Connection } from './connection.ts';
import { type ExtentRow, hashToBytes } from './rows.ts';

/** Running totals of the whole tree; the log's last row carries them across restarts. */
export interface Totals {
  inodes: number;
  /** Sum of the lengths of all extents, bytes (before deduplication). */
  stored: number;
  /** Sum of the lengths of all allocations, bytes. */
  allocated: number;
}

/** The bytes of small chunks that an operation brings, by hash. */
export type Payload = ReadonlyMap<ChunkHash, Uint8Array>;

export interface ExtentWriter {
  /** Refuses (ESTALE) an operation that names a small chunk that is neither here nor in the payload. */
  check(extents: readonly NewExtent[], payload: Payload): void;
  /** Cuts what is there and puts the extent in its place. Answers by how much the stored bytes grew. */
  put(inode: Inode, extent: NewExtent, payload: Payload): number;
  /** Makes `start` (inclusive) to `end` (exclusive) a hole. Answers by how much the stored bytes shrank. */
  remove(inode: Inode, start: number, end: number): number;
  /** Removes up to `limit` extents from the file's end; answers how many. */
  removeSome(inode: Inode, limit: number): number;
  /** Shares `found` (extents of the source range) into the target range. Answers by how much that one grew. */
  copy(
    found: readonly ExtentRow[],
    range: { fromOffset: number; to: Inode; toOffset: number; length: number },
  ): number;
  /** Deletes the chunk's row when nothing refers to it; answers whether it did. */
  dropChunk(hash: ChunkHash): boolean;
}

/** Where the bytes of a new small chunk wait until `small.db` holds them durably. */
export interface SmallChunkSink {
  add(hash: ChunkHash, data: Uint8Array): void;
  delete(hash: ChunkHash): void;
}

export function extentWriter(
  connection: Connection,
  totals: Totals,
  unsettled: SmallChunkSink,
): ExtentWriter {
  const overlapping = connection.query(`SELECT offset, length, chunk, chunk_offset FROM extent
     WHERE inode = ?1 AND offset < ?3 AND offset >= coalesce(
       (SELECT max(e.offset) FROM extent e WHERE e.inode = ?1 AND e.offset <= ?2), 0)
     ORDER BY offset`);
  const lastOnes = connection.query(
    'SELECT offset, length, chunk FROM extent WHERE inode = ? ORDER BY offset DESC LIMIT ?',
  );
  const insert = connection.command('INSERT INTO extent VALUES (?, ?, ?, ?, ?)');
  const shorten = connection.command('UPDATE extent SET length = ? WHERE inode = ? AND offset = ?');
  const erase = connection.command('DELETE FROM extent WHERE inode = ? AND offset = ?');
  const addStored = connection.command('UPDATE inode SET stored = stored + ? WHERE inode = ?');
  const chunkByHash = connection.query('SELECT chunk, refs FROM chunk WHERE hash = ?');
  const chunkInsert = connection.command('INSERT INTO chunk (hash, bytes, refs) VALUES (?, ?, 1)');
  const addRefs = connection.command('UPDATE chunk SET refs = refs + ? WHERE chunk = ?');
  const chunkDelete = connection.command('DELETE FROM chunk WHERE chunk = ?');

  function remove(inode: Inode, start: number, end: number): number {
    let removed = 0;
    for (const row of overlapping.all(inode, start, end)) {
      const offset = row[0] as number;
      const length = row[1] as number;
      const chunk = row[2] as number;
      const chunkOffset = row[3] as number;
      const extentEnd = offset + length;
      if (extentEnd <= start) continue;
      const cutStart = Math.max(start, offset);
      const cutEnd = Math.min(end, extentEnd);
      removed += cutEnd - cutStart;
      if (cutStart > offset) shorten.run(cutStart - offset, inode, offset);
      else erase.run(inode, offset);
      if (cutEnd < extentEnd) {
        insert.run(inode, cutEnd, extentEnd - cutEnd, chunk, chunkOffset + (cutEnd - offset));
      }
      const rowsNow = (cutStart > offset ? 1 : 0) + (cutEnd < extentEnd ? 1 : 0);
      if (rowsNow !== 1) addRefs.run(rowsNow - 1, chunk);
    }
    totals.stored -= removed;
    return removed;
  }

  function chunkFor(extent: NewExtent, payload: Payload): number {
    const hash = hashToBytes(extent.hash);
    const known = chunkByHash.get(hash);
    if (known !== undefined) {
      addRefs.run(1, known[0] as number);
      return known[0] as number;
    }
    const chunk = Number(chunkInsert.run(hash, extent.chunkBytes).lastInsertRowid);
    const data = payload.get(extent.hash);
    if (data !== undefined) unsettled.add(extent.hash, data);
    return chunk;
  }

  return {
    check(extents, payload) {
      for (const extent of extents) {
        const slot = Math.floor(extent.offset / CHUNK_BYTES_MAX);
        const lastSlot = Math.floor((extent.offset + extent.length - 1) / CHUNK_BYTES_MAX);
        assert(slot === lastSlot, `extent at ${extent.offset} stays within its slot`);
        assert(
          extent.length > 0 && extent.chunkOffset + extent.length <= extent.chunkBytes,
          'extent lies within its chunk',
        );
        if (extent.offset + extent.length > FILE_BYTES_MAX) throw new FsError('EFBIG');
        if (extent.chunkBytes > SMALL_CHUNK_BYTES_MAX || payload.has(extent.hash)) continue;
        if (chunkByHash.get(hashToBytes(extent.hash)) === undefined) throw new FsError('ESTALE');
      }
    },
    put(inode, extent, payload) {
      // The new reference is counted first, so that content overwritten by itself never drops to zero.
      const chunk = chunkFor(extent, payload);
      const removed = remove(inode, extent.offset, extent.offset + extent.length);
      insert.run(inode, extent.offset, extent.length, chunk, extent.chunkOffset);
      totals.stored += extent.length;
      return extent.length - removed;
    },
    remove,
    removeSome(inode, limit) {
      let removed = 0;
      const rows = lastOnes.all(inode, limit);
      for (const row of rows) {
        erase.run(inode, row[0] as number);
        addRefs.run(-1, row[2] as number);
        removed += row[1] as number;
      }
      totals.stored -= removed;
      addStored.run(-removed, inode);
      return rows.length;
    },
    copy(found, range) {
      const { fromOffset, to, toOffset, length } = range;
      let added = -remove(to, toOffset, toOffset + length);
      for (const extent of found) {
        const start = Math.max(extent.offset, fromOffset);
        const end = Math.min(extent.offset + extent.length, fromOffset + length);
        for (let position = start; position < end; ) {
          const target = toOffset + (position - fromOffset);
          const slotEnd = (Math.floor(target / CHUNK_BYTES_MAX) + 1) * CHUNK_BYTES_MAX;
          const bytes = Math.min(end - position, slotEnd - target);
          insert.run(to, target, bytes, extent.chunk, extent.chunkOffset + (position - extent.offset));
          addRefs.run(1, extent.chunk);
          added += bytes;
          totals.stored += bytes;
          position += bytes;
        }
      }
      return added;
    },
    dropChunk(hash) {
      const known = chunkByHash.get(hashToBytes(hash));
      if (known === undefined || (known[1] as number) > 0) return false;
      unsettled.delete(hash);
      chunkDelete.run(known[0] as number);
      return true;
    },
  };
}
