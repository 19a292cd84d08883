/** The jobs of the chunk store's file threads (file-worker.ts): shapes only, shared by both sides. */

import type { ChunkHash } from '../protocol/ids.ts';
import type { BlockChecksums } from './checksums.ts';

/** Inode, size, modification and change time (ns) of a file: an equal one has not been written since. */
export type FileIdentity = string;

export type WriteOutcome = {
  /** To be synced and closed by the caller; undefined when nothing needs syncing. */
  readonly descriptor: number | undefined;
  /** `kept`: the file is there with these bytes. `written`: the bytes are in the temporary file. */
  readonly kind: 'kept' | 'written';
  /** Of the file that was kept; undefined for a written one. */
  readonly identity: FileIdentity | undefined;
  /** undefined: the chunk had the identity given as `known`, so they were found before. */
  readonly checksums: BlockChecksums | undefined;
  /** Why what was at the final path before was moved to quarantine; undefined when nothing was. */
  readonly setAside: string | undefined;
};

export type CheckOutcome =
  | { readonly kind: 'ok'; readonly checksums: BlockChecksums }
  | { readonly kind: 'missing' }
  | { readonly kind: 'bad'; readonly reason: string; readonly setAside: boolean };

/** One file to rename into its place and make durable there. */
export interface Publication {
  /** undefined: the file is in its place already. */
  readonly temporary: string | undefined;
  readonly hash: ChunkHash;
}

/** A system error code, or undefined for success. */
export type Outcome = string | undefined;

export interface FileJobs {
  /** SHA-256 of bytes in shared memory. */
  hash: { job: { data: Uint8Array }; result: ChunkHash };
  write: {
    job: {
      data: Uint8Array;
      hash: ChunkHash;
      directory: string;
      /** Name below tmp/. */
      temporary: string;
      /** Compare with the file that is there and keep it when equal; else replace it whatever it holds. */
      keep: boolean;
      /** The file that is there is durable when it is equal. */
      durable: boolean;
      /** With this identity it is durable and equal: it is not read again. */
      known: FileIdentity | undefined;
    };
    result: WriteOutcome;
  };
  /** fdatasync and close of each descriptor. */
  sync: { job: { descriptors: readonly number[] }; result: readonly Outcome[] };
  /** Renames, then one fsync for each distinct directory. A file whose directory failed is removed again. */
  publish: {
    job: {
      directory: string;
      files: readonly Publication[];
      /** Shards (`ab/cd`) whose own entries are not known to be durable. */
      newShards: readonly string[];
    };
    result: readonly Outcome[];
  };
  /** Reads the whole chunk into `target` (shared memory, at least `size` bytes) and checks size and hash. */
  check: {
    job: { directory: string; hash: ChunkHash; size: number; target: Uint8Array; setAside: boolean };
    result: CheckOutcome;
  };
}
