/**
 * The ring of requests between the reader thread (only producer) and the main thread (only consumer).
 *
 * A slot holds one request as the kernel wrote it. HEAD counts requests published, TAIL requests consumed;
 * both only grow (modulo 2^32), and the slot of a count is its low bits. The consumer releases slots in
 * order and at once: whatever a request needs after its handler returned must have been copied.
 *
 * The kernel demands a read buffer that fits the largest WRITE; a slot that only ever held small requests
 * costs one page of memory.
 */

import { TRANSFER_BYTES_MAX } from './protocol.ts';

/** A power of two. 16 slots keep the reader ahead of a burst of 1 MiB writes; 32 measured the same. */
export const SLOTS = 16;
export const SLOT_BYTES = TRANSFER_BYTES_MAX + 4096;

export const HEAD = 0;
export const TAIL = 1;
/** 1 while the reader waits for a free slot. */
export const READER_WAITS = 2;
/** 1 when the reader must end although it never saw a mount. */
export const STOP = 3;
const CONTROL_WORDS = 4;

export interface Ring {
  readonly control: SharedArrayBuffer;
  readonly slots: SharedArrayBuffer;
}

export interface ReaderInput extends Ring {
  /** The open /dev/fuse of the mount. */
  readonly descriptor: number;
}

export function createRing(): Ring {
  return {
    control: new SharedArrayBuffer(CONTROL_WORDS * 4),
    slots: new SharedArrayBuffer(SLOTS * SLOT_BYTES),
  };
}

export function slotIndex(count: number): number {
  return count & (SLOTS - 1);
}
