/** The jobs of the thread that writes small.db (small-worker.ts). Hashes travel as 32 bytes each, packed. */

import type { ChunkHash } from '../protocol/ids.ts';

export const HASH_BYTES = 32;

export function packHashes(hashes: readonly ChunkHash[]): Uint8Array<ArrayBuffer> {
  const packed = Buffer.from(new ArrayBuffer(hashes.length * HASH_BYTES));
  for (const [index, hash] of hashes.entries()) packed.write(hash, index * HASH_BYTES, 'hex');
  return packed;
}

export interface SmallJobs {
  /** Inserts, repairs, or leaves alone; one durable transaction. Answers the indexes whose data is not its hash's. */
  settle: {
    job: { hashes: Uint8Array; lengths: Uint32Array; data: Uint8Array };
    result: { refused: number[] };
  };
  /** Deletes small chunks in one durable transaction, and block checksums in another that need not be. */
  remove: { job: { hashes: Uint8Array }; result: undefined };
  /** Puts or replaces block checksums; nobody waits for them to be durable. `lengths` counts checksums. */
  keepSums: {
    job: { hashes: Uint8Array; sizes: Float64Array; lengths: Uint32Array; sums: Uint32Array };
    result: undefined;
  };
  /** Checkpoints and closes the connection: the last job. */
  close: { job: undefined; result: undefined };
}
