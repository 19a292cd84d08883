/**
 * Space set aside by fallocate: ranges of files that have no content yet, but for whose content there will be room.
 *
 * Invariants: an allocation overlaps no extent and no other allocation of its file; content that comes takes its
 * place; `totals.allocated` is the sum of all lengths. Which writes may use the space is the file system's business
 * (`filesystem/room.ts`).
 */

import type { Inode } from '../protocol/ids.ts';
import type { Totals } from './apply-extents.ts';
import type { Connection } from './connection.ts';
import type { MetadataReads } from './reads.ts';

export interface AllocationWriter {
  /** Sets aside what lies in `start` (inclusive) to `end` (exclusive) and is neither content nor set aside. */
  add(inode: Inode, start: number, end: number): void;
  /** Gives back what is set aside in `start` to `end`. Costs nothing while nothing is set aside anywhere. */
  remove(inode: Inode, start: number, end: number): void;
}

export function allocationWriter(
  connection: Connection,
  reads: MetadataReads,
  totals: Totals,
): AllocationWriter {
  const overlapping = connection.query(
    `SELECT offset, length FROM allocation
     WHERE inode = ?1 AND offset < ?3 AND offset >= coalesce(
       (SELECT max(a.offset) FROM allocation a WHERE a.inode = ?1 AND a.offset <= ?2), 0)
     ORDER BY offset`,
  );
  const insert = connection.command('INSERT INTO allocation VALUES (?, ?, ?)');
  const erase = connection.command('DELETE FROM allocation WHERE inode = ? AND offset = ?');

  function put(inode: Inode, start: number, end: number): void {
    if (end <= start) return;
    insert.run(inode, start, end - start);
    totals.allocated += end - start;
  }

  function remove(inode: Inode, start: number, end: number): void {
    if (totals.allocated === 0) return;
    for (const row of overlapping.all(inode, start, end)) {
      const offset = row[0] as number;
      const rowEnd = offset + (row[1] as number);
      if (rowEnd <= start) continue;
      erase.run(inode, offset);
      totals.allocated -= rowEnd - offset;
      put(inode, offset, start);
      put(inode, end, rowEnd);
    }
  }

  /** The range with the allocations that overlap or touch it, which become one with it. */
  function joined(inode: Inode, start: number, end: number): [start: number, end: number] {
    const range: [number, number] = [start, end];
    for (const row of overlapping.all(inode, Math.max(0, start - 1), end + 1)) {
      const offset = row[0] as number;
      const rowEnd = offset + (row[1] as number);
      if (rowEnd < start) continue;
      range[0] = Math.min(range[0], offset);
      range[1] = Math.max(range[1], rowEnd);
    }
    return range;
  }

  return {
    add(inode, start, end) {
      reads.noteAllocation();
      const [from, to] = joined(inode, start, end);
      remove(inode, from, to);
      let position = from;
      for (const extent of reads.extents(inode, from, to)) {
        put(inode, position, extent.offset);
        position = Math.max(position, extent.offset + extent.length);
      }
      put(inode, position, to);
    },
    remove,
  };
}
