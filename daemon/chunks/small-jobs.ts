/** The jobs of the thread that writes small.db (small-worker.ts). Hashes travel as 32 bytes each, packed. */

export const HASH_BYTES = 32;

export interface SmallJobs {
  /** Inserts, repairs, or leaves alone; one durable transaction. Answers the indexes whose data is not its hash's. */
  settle: {
    job: { hashes: Uint8Array; lengths: Uint32Array; data: Uint8Array };
    result: { refused: number[] };
  };
  /** Deletes in one durable transaction. */
  remove: { job: { hashes: Uint8Array }; result: undefined };
  /** Checkpoints and closes the connection: the last job. */
  close: { job: undefined; result: undefined };
}
