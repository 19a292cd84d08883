/**
 * The bytes of one file that were written but are not chunks yet.
 *
 * Segments: runs of new bytes, sorted by offset, never overlapping, none crossing a multiple of the chunk size
 * (so none crosses a slot), because a segment becomes one chunk. A write that touches a segment of its part
 * extends it or overwrites it in place; else it starts a new one. Small segments grow by doubling in ordinary memory;
 * those above SMALL_CHUNK_BYTES_MAX live in shared slot buffers, which a worker hashes and writes without a
 * copy, and which are used again.
 *
 * What it deliberately does not do: bound itself. The file system counts `bytes` of all buffers, makes writers
 * wait, and starts flushes.
 */

import { CHUNK_BYTES_MAX, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { defined } from '../runtime/assert.ts';

export interface Segment {
  readonly offset: number;
  length: number;
  /** Holds `length` bytes; may be longer. Slot buffers are shared memory of CHUNK_BYTES_MAX. */
  buffer: Buffer;
}

/** Slot buffers kept for use again. */
const POOL_MAX = 16;
const SMALLEST_BUFFER_BYTES = 4096;

const pool: Buffer[] = [];

function takeSlotBuffer(): Buffer {
  return pool.pop() ?? Buffer.from(new SharedArrayBuffer(CHUNK_BYTES_MAX));
}

/** Gives the memory of a segment back; nobody may look at it afterwards. */
export function recycle(segment: Segment): void {
  if (segment.buffer.length === CHUNK_BYTES_MAX && pool.length < POOL_MAX) pool.push(segment.buffer);
}

export interface WriteBuffer {
  /** Copies `data` in. Answers by how many bytes the buffer grew. */
  write(offset: number, data: Uint8Array): number;
  /** Takes every segment out, or only those that reach the end of their part. */
  take(which: 'all' | 'full'): Segment[];
  segments(): readonly Segment[];
  bytes(): number;
  /** End of the last segment; 0 when empty. */
  end(): number;
  /** Whether a write filled a part to its end. */
  hasFull(): boolean;
}

/** `chunkBytes`: a power of two, at most CHUNK_BYTES_MAX. */
export function writeBuffer(chunkBytes: number = CHUNK_BYTES_MAX): WriteBuffer {
  let segments: Segment[] = [];
  let bytes = 0;
  let full = 0;

  /** Index of the last segment with an offset at or below `offset`, or -1. */
  function find(offset: number): number {
    let low = 0;
    let high = segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (at(middle).offset <= offset) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  function at(index: number): Segment {
    return defined(segments[index], 'segment index is in range');
  }

  function writePiece(offset: number, data: Uint8Array): void {
    const end = offset + data.byteLength;
    const partStart = Math.floor(offset / chunkBytes) * chunkBytes;
    let index = find(offset);
    let segment = index >= 0 ? at(index) : undefined;
    if (segment === undefined || segment.offset + segment.length < offset || segment.offset < partStart) {
      segment = { offset, length: 0, buffer: allocate(data.byteLength) };
      index++;
      segments.splice(index, 0, segment);
    }
    const before = segment.length;
    const position = offset - segment.offset;
    ensureCapacity(segment, position + data.byteLength);
    segment.buffer.set(data, position);
    segment.length = Math.max(segment.length, position + data.byteLength);
    bytes += segment.length - before;
    absorbFollowers(segment, index, end);
    const partEnd = partStart + chunkBytes;
    if (segment.length > before && segment.offset + segment.length === partEnd) full++;
  }

  /** What follows and is covered now goes; what only begins inside hands over its tail. */
  function absorbFollowers(segment: Segment, index: number, end: number): void {
    let count = 0;
    for (let next = segments[index + 1]; next !== undefined && next.offset < end; ) {
      const nextEnd = next.offset + next.length;
      bytes -= next.length;
      if (nextEnd > end) {
        const tail = next.buffer.subarray(end - next.offset, next.length);
        const position = end - segment.offset;
        ensureCapacity(segment, position + tail.length);
        segment.buffer.set(tail, position);
        segment.length = position + tail.length;
        bytes += tail.length;
      }
      recycle(next);
      count++;
      next = segments[index + 1 + count];
    }
    if (count > 0) segments.splice(index + 1, count);
  }

  return {
    write(offset, data) {
      const before = bytes;
      for (let done = 0; done < data.byteLength; ) {
        const position = offset + done;
        const left = chunkBytes - (position % chunkBytes);
        const length = Math.min(left, data.byteLength - done);
        writePiece(position, data.subarray(done, done + length));
        done += length;
      }
      return bytes - before;
    },
    take(which) {
      if (which === 'all') {
        const taken = segments;
        segments = [];
        bytes = 0;
        full = 0;
        return taken;
      }
      const taken = segments.filter((segment) => (segment.offset + segment.length) % chunkBytes === 0);
      segments = segments.filter((segment) => (segment.offset + segment.length) % chunkBytes !== 0);
      for (const segment of taken) bytes -= segment.length;
      full = 0;
      return taken;
    },
    segments: () => segments,
    bytes: () => bytes,
    end() {
      const last = segments.at(-1);
      return last === undefined ? 0 : last.offset + last.length;
    },
    hasFull: () => full > 0,
  };
}

function allocate(bytes: number): Buffer {
  if (bytes > SMALL_CHUNK_BYTES_MAX) return takeSlotBuffer();
  let capacity = SMALLEST_BUFFER_BYTES;
  while (capacity < bytes) capacity *= 2;
  // Above the pool of Buffer.allocUnsafe; small ones would keep a whole pool page alive.
  return Buffer.allocUnsafeSlow(capacity);
}

function ensureCapacity(segment: Segment, bytes: number): void {
  if (segment.buffer.length >= bytes) return;
  const larger = allocate(bytes);
  larger.set(segment.buffer.subarray(0, segment.length));
  segment.buffer = larger;
}
