/**
 * A read of some bytes of a chunk file by whole blocks: which memory the disk fills, and what is checked.
 *
 * Whole blocks go straight into the caller's memory; the first and the last one, where the range cuts them, through
 * `scratch`. One system call fills all parts. What is in the caller's memory counts only after `verified`.
 */

import { type BlockChecksums, matches } from './checksums.ts';
import { OLD_BLOCK_BYTES } from './layout.ts';

/** For the two cut blocks of the largest size. */
export const SCRATCH_BYTES = 2 * OLD_BLOCK_BYTES;

/** The checksums of a chunk of `size` bytes. */
export interface ChecksumTable {
  readonly size: number;
  readonly blockBytes: number;
  readonly checksums: BlockChecksums;
}

export interface BlockRead {
  /** Where in the file the parts begin: at a block. */
  readonly position: number;
  readonly parts: readonly Buffer[];
  /** Whether the parts are right; then the caller's memory holds what was asked for. */
  verified(): boolean;
}

/** `offset` and `target.length` lie inside the chunk; `scratch` has SCRATCH_BYTES. */
export function planBlockRead(
  table: ChecksumTable,
  offset: number,
  target: Buffer,
  scratch: Buffer,
): BlockRead {
  const { size, blockBytes } = table;
  const end = offset + target.length;
  const start = offset - (offset % blockBytes);
  // What ends with the chunk ends its last, shorter block.
  const lastStart = end === size ? end : end - (end % blockBytes);
  const startsCut = offset !== start;
  const endsCut = end !== lastStart;
  const first = start / blockBytes;
  if (!startsCut && !endsCut) {
    return { position: start, parts: [target], verified: () => matches(target, first, table) };
  }
  const firstEnd = startsCut ? Math.min(start + blockBytes, size) : start;
  if (end <= firstEnd || lastStart <= start) {
    // One block holds it all.
    const block = scratch.subarray(0, Math.min(start + blockBytes, size) - start);
    return {
      position: start,
      parts: [block],
      verified() {
        if (!matches(block, first, table)) return false;
        block.copy(target, 0, offset - start, end - start);
        return true;
      },
    };
  }
  const head = scratch.subarray(0, firstEnd - start);
  const middle = target.subarray(startsCut ? firstEnd - offset : 0, lastStart - offset);
  const lastEnd = Math.min(lastStart + blockBytes, size);
  const tail = scratch.subarray(blockBytes, blockBytes + (endsCut ? lastEnd - lastStart : 0));
  const parts = [head, middle, tail].filter((part) => part.length > 0);
  return {
    position: start,
    parts,
    verified() {
      let block = first;
      for (const part of parts) {
        if (!matches(part, block, table)) return false;
        block += part.length / blockBytes;
      }
      if (startsCut) head.copy(target, 0, offset - start);
      if (endsCut) tail.copy(target, lastStart - offset, 0, end - lastStart);
      return true;
    },
  };
}
