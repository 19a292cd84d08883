/**
 * What replication needs of the thing that it replicates. `metadata` implements it, `main` hands it in; tests and the
 * simulator use the real one on a real database.
 *
 * Invariants. Entries are applied in order, one version after the other; applying is deterministic. What `takeBack`
 * or `restore` removed is gone from every read when it resolves. Nothing above `committed` is ever checkpointed into
 * the database file, so that it can be taken back.
 */

import type {
  ClusterSettings,
  EncodedEntry,
  EpochStart,
  LogPosition,
  Member,
  OperationTag,
} from '../protocol/cluster.ts';
import type { ChunkHash, Epoch, Version } from '../protocol/ids.ts';
import type { Operation, OperationOutcome } from '../protocol/operations.ts';

export type OperationPayload = ReadonlyMap<ChunkHash, Uint8Array>;

export interface Proposal {
  readonly epoch: Epoch;
  readonly operation: Operation;
  /** Bytes of the small chunks that the operation brings. */
  readonly payload: OperationPayload;
  readonly tag: OperationTag | null;
}

/** One entry that was applied, own or of another node. */
export interface Applied extends Proposal {
  readonly version: Version;
  readonly outcome: OperationOutcome;
}

export interface Snapshot {
  readonly position: LogPosition;
  /** A file that belongs to the caller until `release`. */
  readonly path: string;
  readonly size: number;
  release(): Promise<void>;
}

export interface StateMachine {
  /** The last entry that is applied. */
  position(): LogPosition;
  /** Leaderships by their first entry, oldest first; reaches back at least as far as the log. */
  epochs(): readonly EpochStart[];
  /** The members and settings as of the last applied entry. The same array or object until they change. */
  members(): readonly Member[];
  settings(): ClusterSettings;
  /** Everything up to here is durable on this node. */
  durableVersion(): Version;
  /**
   * Applies a new entry at once and adds it to the log; `written` resolves when it survives the death of this process
   * (end of the turn). Errors: FsError of the operation: nothing was changed and no entry made; EROFS, EIO, ENOSPC of
   * the disk.
   */
  propose(proposal: Proposal): {
    readonly entry: EncodedEntry;
    readonly outcome: OperationOutcome;
    readonly written: Promise<void>;
  };
  /**
   * Applies entries of the leader, the next versions in order; resolves when all are applied and written. Nothing is
   * proposed or appended meanwhile. The bodies are views that stay unchanged; what is kept of them is copied. Errors:
   * those of the disk; a WarrenError STATE_DIVERGED when an entry cannot be applied here, which a snapshot mends.
   */
  append(entries: readonly EncodedEntry[]): Promise<void>;
  /** Entries after `version` up to about `bytesMax`; undefined when the log does not reach back so far. */
  entriesAfter(version: Version, bytesMax: number): readonly EncodedEntry[] | undefined;
  /** The entries up to here are on every in-sync node: they may be checkpointed. Grows. */
  setCommitted(version: Version): void;
  /** Resolves when every entry that is applied now is durable. Errors: EIO of the disk. */
  barrier(): Promise<void>;
  /**
   * Takes every entry after `version` back. Answers them (in order, decoded), or undefined when they are in the
   * database file already and only a snapshot helps; then nothing has changed.
   */
  takeBack(version: Version): Promise<readonly Applied[] | undefined>;
  /** A copy of the state, made off the event loop. */
  snapshot(): Promise<Snapshot>;
  /** Replaces the whole state by that of a file made by `snapshot` (moved away). Atomic at a crash. */
  restore(file: string, position: LogPosition): Promise<void>;
  /** Called for each entry right after it was applied, in order. Answers how to stop. */
  onApplied(listener: (applied: Applied) => void): () => void;
  /** Called after `takeBack` or `restore` changed the past; `inodes` undefined: anything may have changed. */
  onRewound(listener: (change: Rewound) => void): () => void;
  /** An operation and its payload, as `forward` carries it. */
  encodeProposal(operation: Operation, payload: OperationPayload): Buffer;
  decodeProposal(bytes: Buffer): { operation: Operation; payload: OperationPayload };
}

export type Rewound =
  | { readonly kind: 'taken-back'; readonly entries: readonly Applied[] }
  | { readonly kind: 'restored'; readonly position: LogPosition };
