/**
 * Chunks read and checked as a whole: the first touch of a chunk in this process.
 *
 * A few slots of shared memory, each for one chunk, filled by a file thread while the event loop goes on.
 * Concurrent readers of one chunk share its slot and the one check; when all slots are held, readers wait
 * their turn. A slot that nobody holds keeps its chunk until another one needs it, so the reads that follow
 * the first one in a sequential scan are served from memory.
 */

import { type ChunkHash, CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { assert } from '../runtime/assert.ts';

/** 24 MiB: two being checked for each of two streams, and one spare for each. */
const SLOTS_MAX = 6;
const WAITING_MAX = 16_384;

export interface Chunk {
  readonly hash: ChunkHash;
  readonly size: number;
}

export interface WholeChunks {
  /** The bytes of a checked chunk if they are in memory: to be used before the next turn of the event loop. */
  peek(chunk: Chunk): Buffer | undefined;
  /** Loads the chunk, or joins who does, and calls `work` with its bytes. Errors: those of `load`. */
  use<Result>(chunk: Chunk, work: (data: Buffer) => Result): Promise<Result>;
  /** Lends empty memory of CHUNK_BYTES_MAX for as long as `work` takes. */
  borrow<Result>(work: (memory: Buffer) => Promise<Result>): Promise<Result>;
  /** Loads the chunk unless it is here or no memory is free right now. Never throws. */
  prefetch(chunk: Chunk): Promise<void>;
  forget(hash: ChunkHash): void;
}

interface Slot {
  readonly memory: Buffer;
  chunk: Chunk | undefined;
  /** Settles when the chunk's bytes are in memory and right. */
  loading: Promise<void> | undefined;
  loaded: boolean;
  holders: number;
  usedAt: number;
}

/** `load` fills the memory with the chunk's verified bytes, or throws. */
export function openWholeChunks(load: (chunk: Chunk, memory: Buffer) => Promise<void>): WholeChunks {
  const slots: Slot[] = [];
  const waiting: (() => void)[] = [];
  let uses = 0;

  function find(chunk: Chunk): Slot | undefined {
    return slots.find((slot) => slot.chunk?.hash === chunk.hash && slot.chunk.size === chunk.size);
  }

  function idleSlot(): Slot | undefined {
    if (slots.length < SLOTS_MAX && slots.every((slot) => slot.holders > 0 || slot.chunk !== undefined)) {
      const memory = Buffer.from(new SharedArrayBuffer(CHUNK_BYTES_MAX));
      slots.push({ memory, chunk: undefined, loading: undefined, loaded: false, holders: 0, usedAt: 0 });
    }
    const idle = slots.filter((slot) => slot.holders === 0);
    return idle.reduce<Slot | undefined>(
      (oldest, slot) => (oldest === undefined || slot.usedAt < oldest.usedAt ? slot : oldest),
      undefined,
    );
  }

  function clear(slot: Slot): void {
    slot.chunk = undefined;
    slot.loading = undefined;
    slot.loaded = false;
    slot.usedAt = 0;
  }

  function claim(slot: Slot, chunk: Chunk): void {
    clear(slot);
    slot.chunk = chunk;
    slot.loading = fill(slot, chunk);
    // Holders see the failure; without one (prefetch) nobody needs to.
    slot.loading.catch(() => undefined);
  }

  async function fill(slot: Slot, chunk: Chunk): Promise<void> {
    try {
      await load(chunk, slot.memory);
      slot.loaded = slot.chunk === chunk;
    } catch (error) {
      if (slot.chunk === chunk) slot.chunk = undefined;
      throw error;
    }
  }

  /** A held slot with the chunk in it or on its way, or without one when `chunk` is undefined. */
  async function hold(chunk: Chunk | undefined): Promise<Slot> {
    for (;;) {
      const present = chunk === undefined ? undefined : find(chunk);
      const slot = present ?? idleSlot();
      if (slot !== undefined) {
        slot.holders += 1;
        if (present === undefined) {
          if (chunk === undefined) clear(slot);
          else claim(slot, chunk);
        }
        return slot;
      }
      assert(waiting.length < WAITING_MAX, `at most ${WAITING_MAX} reads wait for memory`);
      await new Promise<void>((resolve) => waiting.push(resolve));
    }
  }

  function release(slot: Slot): void {
    slot.holders -= 1;
    slot.usedAt = ++uses;
    if (slot.holders === 0) waiting.shift()?.();
  }

  async function use<Result>(chunk: Chunk, work: (data: Buffer) => Result): Promise<Result> {
    assert(chunk.size <= CHUNK_BYTES_MAX, 'a chunk has at most CHUNK_BYTES_MAX bytes');
    const slot = await hold(chunk);
    try {
      await slot.loading;
      return work(slot.memory.subarray(0, chunk.size));
    } finally {
      release(slot);
    }
  }

  return {
    peek(chunk) {
      const slot = find(chunk);
      if (slot === undefined || !slot.loaded) return undefined;
      slot.usedAt = ++uses;
      return slot.memory.subarray(0, chunk.size);
    },
    use,
    async borrow(work) {
      const slot = await hold(undefined);
      try {
        return await work(slot.memory);
      } finally {
        release(slot);
      }
    },
    async prefetch(chunk) {
      if (find(chunk) !== undefined || waiting.length > 0 || idleSlot() === undefined) return;
      try {
        await use(chunk, () => undefined);
      } catch {
        // The read that follows meets the same failure and reports it to its program.
      }
    },
    forget(hash) {
      for (const slot of slots) {
        if (slot.chunk?.hash === hash && slot.holders === 0) clear(slot);
        // Held: the bytes were right when they were read; only nobody new may find them.
        else if (slot.chunk?.hash === hash) slot.chunk = undefined;
      }
    },
  };
}
