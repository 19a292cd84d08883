/** What a reader sees of the bytes that are still in memory. */

import type { Segment } from './write-buffer.ts';

/**
 * Copies what is in memory into `target`, which begins at `offset` in the file. Of `batches`, each sorted and free of
 * overlaps, an earlier one is newer. Answers the parts that are in none, as [start, end) in the file.
 */
export function overlay(
  batches: readonly (readonly Segment[])[],
  offset: number,
  target: Buffer,
): [number, number][] {
  let missing: [number, number][] = [[offset, offset + target.length]];
  for (const batch of batches) {
    if (missing.length === 0) break;
    const next: [number, number][] = [];
    for (const [start, end] of missing) {
      let position = start;
      for (const segment of overlappingSegments(batch, start, end)) {
        const from = Math.max(position, segment.offset);
        const to = Math.min(end, segment.offset + segment.length);
        if (from > position) next.push([position, from]);
        segment.buffer.copy(target, from - offset, from - segment.offset, to - segment.offset);
        position = to;
      }
      if (position < end) next.push([position, end]);
    }
    missing = next;
  }
  return missing;
}

function overlappingSegments(segments: readonly Segment[], start: number, end: number): Segment[] {
  return segments.filter((segment) => segment.offset < end && segment.offset + segment.length > start);
}
