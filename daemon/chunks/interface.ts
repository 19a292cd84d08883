/**
 * What the file system may ask of the chunk store: immutable bytes by their SHA-256.
 *
 * Two homes. Chunks above SMALL_CHUNK_BYTES_MAX are files, `chunks/ab/cd/<hash>`, whose content is exactly
 * the chunk. Smaller ones are rows of `small.db`; they first travel inside the metadata transaction that
 * refers to them and are settled into `small.db` in the background, so that a small write
 * with fsync costs one fdatasync.
 *
 * Order. `store` answers when the chunk is durable (data, then directory): the operation that refers to it is
 * proposed afterwards, so after a power cut no durable operation names a chunk that is not there.
 */

import { FsError } from '../protocol/errors.ts';
import type { ChunkHash } from '../protocol/ids.ts';

export type ChunkHealth =
  | { readonly kind: 'ok' }
  | { readonly kind: 'missing' }
  | { readonly kind: 'bad'; readonly reason: string };

export interface SmallChunk {
  readonly hash: ChunkHash;
  readonly data: Uint8Array;
}

export interface ChunkUsage {
  /** Of the disk that holds the data directory, bytes. */
  readonly diskBytes: number;
  readonly diskFreeBytes: number;
  /** Free for Warren's users: disk free less the reserve kept for metadata; never negative. */
  readonly availableBytes: number;
}

export interface StoredChunk {
  readonly home: 'large' | 'small';
  readonly size: number;
  /** When the file of a large chunk was written, milliseconds since 1970. */
  readonly writtenMs?: number;
}

export interface StoreOptions {
  /** Called when the hash is known, before anything is on the disk. Must not throw. */
  readonly onHash?: (hash: ChunkHash) => void;
  /** The hash that the bytes must have; others are refused (FsError EIO) and nothing is written. */
  readonly expected?: ChunkHash;
}

/** A large chunk that this disk does not have, or not any more because it was damaged and set aside. */
export class ChunkLostError extends FsError {
  readonly loss: 'missing' | 'damaged';
  constructor(loss: 'missing' | 'damaged', detail: string) {
    super('EIO', detail);
    this.loss = loss;
  }
}

export interface ChunkStore {
  /**
   * Stores up to CHUNK_BYTES_MAX bytes as a chunk file; answers its hash when it is durable. The chunk is
   * pinned: garbage collection leaves it alone until `unpin`. `data` must not change until the answer; a
   * Buffer over a SharedArrayBuffer is hashed and written by a worker without a copy. Content that is
   * already there is compared byte by byte (once, while its file does not change), kept when equal, and set aside and replaced when damaged.
   * Errors: FsError ENOSPC below the free-space reserve, EIO or EROFS from the disk.
   */
  store(data: Buffer, options?: StoreOptions): Promise<ChunkHash>;
  /** SHA-256 of up to CHUNK_BYTES_MAX bytes, computed by a thread. `data` must not change until the answer. */
  hash(data: Buffer): Promise<ChunkHash>;
  /** Ends one pin of `store`. */
  unpin(hash: ChunkHash): void;
  /** Throws FsError ENOSPC when `bytes` more would go below the reserve. Cheap: statfs is cached for a moment. */
  reserve(bytes: number): void;
  usage(): ChunkUsage;

  /**
   * Fills `target` with the chunk's bytes from `offset`. Every byte answered was verified: its block
   * against the CRC-32 found when the chunk was stored, or the whole chunk against its hash when there is none.
   * Errors: ChunkLostError (EIO) when the chunk is missing or damaged (it is set aside in `quarantine/` and
   * reported); FsError EIO when the disk or the question is wrong.
   */
  read(chunk: { hash: ChunkHash; size: number }, offset: number, target: Buffer): Promise<void>;
  /**
   * `read` on the event loop, for a short range that nobody else waits behind. False, and `target` is undefined
   * memory, when it cannot be done so: the chunk's file or checksums are not at hand, the disk was slow lately, or
   * anything is wrong; `read` then does it, or says what is wrong.
   */
  readAtOnce(chunk: { hash: ChunkHash; size: number }, offset: number, target: Buffer): boolean;
  /**
   * Prepares the first read of a large chunk that will be read soon: opens its file and looks up its block
   * checksums, or starts its check when there are none and memory for it is free. Looks into small.db, so call
   * it once for a chunk. Never fails: the read that follows meets the failure and reports it.
   */
  prefetch(chunk: { hash: ChunkHash; size: number }): void;

  /** The bytes of a settled small chunk, or undefined; verified against the hash. Errors: FsError EIO. */
  readSmall(hash: ChunkHash): Uint8Array | undefined;
  /** For a small chunk that `readSmall` does not have: gets it from elsewhere. Errors: FsError EIO, nobody has it. */
  fetchSmall(hash: ChunkHash): Promise<Uint8Array>;
  /**
   * Writes small chunks (1 to SMALL_CHUNK_BYTES_MAX bytes) to `small.db`; answers when they are durable. A chunk
   * that is there is left alone, or repaired when its stored bytes differ. The data must
   * not change until the answer. Errors: FsError ENOSPC, EROFS, EIO; EIO also when a chunk's bytes do not have its hash: that one
   * is not written, the others are.
   */
  settle(chunks: readonly SmallChunk[]): Promise<void>;

  /**
   * Deletes chunks that no operation refers to any more, from both homes. Skips pinned ones; answers the others:
   * they are gone, also when they were not there before.
   */
  remove(hashes: readonly ChunkHash[]): Promise<ChunkHash[]>;
  /** Reads the whole chunk and compares its hash. `setAside`: a damaged file goes to quarantine and is reported. */
  verify(
    chunk: { hash: ChunkHash; size: number },
    options?: { readonly setAside?: boolean },
  ): Promise<ChunkHealth>;

  /** Where a chunk lives and its size in bytes, or undefined; nothing is verified. */
  stat(hash: ChunkHash): Promise<StoredChunk | undefined>;
  /**
   * As `stat`, of a chunk that a power cut would leave: makes it durable when that is not known. Waits for a store
   * of it. Errors: FsError of the disk.
   */
  holds(hash: ChunkHash): Promise<StoredChunk | undefined>;
  /**
   * Every chunk file, by the first four digits of its hash, from those of `from` on; chunks that come or go
   * meanwhile may be left out.
   */
  listLarge(from?: string): AsyncIterable<{ hash: ChunkHash; size: number }>;
  /** Every row of small.db by hash; chunks may come and go meanwhile. */
  listSmall(): Iterable<{ hash: ChunkHash; size: number }>;

  /** Waits for what is in flight, then ends the threads. No call may follow. */
  close(): Promise<void>;
}
