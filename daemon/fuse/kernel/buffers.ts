/**
 * Reply buffers for data, reused: a fresh 1 MiB buffer for each READ costs more (page faults, garbage
 * collection) than the read itself. A buffer begins with room for the reply header, so that header and data
 * leave in one write.
 */

import { OUT_HEADER_BYTES, TRANSFER_BYTES_MAX } from './protocol.ts';

const CLASSES = [
  { bytes: 4096, keep: 64 },
  { bytes: 32 * 1024, keep: 32 },
  { bytes: 128 * 1024, keep: 32 },
  { bytes: TRANSFER_BYTES_MAX, keep: 8 },
] as const;

export interface ReplyBuffer {
  readonly words: Uint32Array;
  readonly bytes: Buffer;
  readonly sizeClass: number;
}

export interface BufferPool {
  /** Room for `bytes` of data after the header. */
  take(bytes: number): ReplyBuffer;
  give(buffer: ReplyBuffer): void;
}

export function createBufferPool(): BufferPool {
  const free: ReplyBuffer[][] = CLASSES.map(() => []);
  return {
    take(bytes) {
      for (let index = 0; index < CLASSES.length; index++) {
        const size = (CLASSES[index] as (typeof CLASSES)[number]).bytes;
        if (bytes <= size) return (free[index] as ReplyBuffer[]).pop() ?? allocate(size, index);
      }
      // Larger than any READ the kernel was offered: served, not kept.
      return allocate(bytes, CLASSES.length);
    },
    give(buffer) {
      const list = free[buffer.sizeClass];
      const keep = CLASSES[buffer.sizeClass]?.keep ?? 0;
      if (list !== undefined && list.length < keep) list.push(buffer);
    },
  };
}

function allocate(dataBytes: number, sizeClass: number): ReplyBuffer {
  const whole = new ArrayBuffer(OUT_HEADER_BYTES + Math.ceil(dataBytes / 8) * 8);
  return { words: new Uint32Array(whole), bytes: Buffer.from(whole), sizeClass };
}
