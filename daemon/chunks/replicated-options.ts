/** What the replicated chunk store is given, and its limits that more than one of its parts needs. */

import type { ClusterSettings, Member } from '../protocol/cluster.ts';
import type { ChunkHash, NodeId } from '../protocol/ids.ts';
import type { Peers } from '../peers/interface.ts';
import type { Sleep } from '../runtime/background-worker.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { ChunkStore } from './interface.ts';

/** Hashes in one `chunk-have`: an answer must not keep a node busy for long. */
export const HAVE_HASHES_MAX = 1000;
/** The same when each is read and verified. */
export const HAVE_VERIFIED_MAX = 16;

export interface ChunkRow {
  /** Grows through the table. */
  readonly row: number;
  readonly hash: ChunkHash;
  readonly bytes: number;
}

/** What the metadata know of chunks. */
export interface ChunkRows {
  /** Rows of the chunk table after `row` (0: from the start), in order, at most `limit`. */
  chunksAfter(row: number, limit: number): readonly ChunkRow[];
  hasChunk(hash: ChunkHash): boolean;
  /** Bytes of a small chunk that only the log has. */
  unsettled(hash: ChunkHash): Uint8Array | undefined;
  /** Resolves when everything applied is durable on this node. */
  barrier(): Promise<void>;
}

export interface ClusterState {
  members(): readonly Member[];
  settings(): Pick<ClusterSettings, 'mode' | 'factor'>;
  leader(): NodeId | null;
}

export interface ReplicatedChunksOptions {
  /** This node's own store, opened with `missingIsDamage: false`. Whoever opened it closes it, after this one. */
  readonly local: ChunkStore;
  readonly peers: Peers;
  readonly cluster: ClusterState;
  readonly rows: ChunkRows;
  readonly clock: Clock;
  readonly log: Log;
  /** No node has the chunk, and none that may have it is away. */
  readonly onDamage?: (damage: { hash: ChunkHash; reason: string }) => void;
  /** A chunk that was damaged or missing here is right again, or is not wanted here any more. */
  readonly onRepaired?: (hash: ChunkHash) => void;
  /** How long a node may be away before others take over its chunks, and a new copy stays untrimmed. Default: 60 min. */
  readonly graceMs?: number;
  /** Repair and trimming together, bytes per second. Default: no limit. */
  readonly repairBytesPerSecond?: number;
  /** All chunks are looked for this often. Default: 6 h. */
  readonly scanMs?: number;
  /** Every local chunk is read and verified once in this time. Default: 7 days. */
  readonly scrubRoundMs?: number;
  /** How long a call may take beside the time for its bytes. Default: 3 s. */
  readonly callMs?: number;
  /** Chunks known to be lacking at once; further ones are only counted until there is room. Default: 50,000. */
  readonly lackingMax?: number;
  /** Default: the machine's timers. */
  readonly sleep?: Sleep;
}

export interface ChunkName {
  readonly hash: ChunkHash;
  /** Bytes. */
  readonly size: number;
}
