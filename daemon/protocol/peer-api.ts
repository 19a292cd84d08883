/**
 * What nodes say to each other: each method with its lane, the shape of its request and of its answer. Types only;
 * `peers` carries them, the rooms answer them.
 *
 * A request and an answer are a header (any value that MessagePack can carry) and raw bytes outside of it
 * (`bytes`, possibly empty), so that entries and chunks are never copied into a header.
 *
 * Lanes are connections of their own, so that a heartbeat never waits behind a chunk.
 */

import type { EncodedEntry, EpochStart, LogPosition, Member, OperationTag, Role } from './cluster.ts';
import type { ChunkHash, Epoch, Inode, MountId, NodeId, Version } from './ids.ts';

/** Raised when a message changes its meaning; a node with another one is refused with a sentence. */
export const PEER_PROTOCOL_VERSION = 1;

export type Lane = 'control' | 'log' | 'bulk';

/** Sent every HEARTBEAT_INTERVAL_MS to every member; also the answer to one ("now"). */
export interface Heartbeat {
  readonly from: NodeId;
  readonly role: Role;
  /** Changes with every start of the process. */
  readonly incarnation: string;
  /** Grows with every heartbeat of an incarnation: an older one that comes late is ignored. */
  readonly sequence: number;
  /** Whom the sender follows or, when it is itself, that it leads; null: nobody. */
  readonly leader: NodeId | null;
  /** The sender accepts entries of no older leadership than this one (its own, or the one that it follows). */
  readonly epoch: Epoch;
  /** The sender wants to lead with this epoch; who agrees accepts no older one from now on. Null: it does not. */
  readonly asks: Epoch | null;
  /** The answer to it: `to` may lead with `epoch` as far as the sender is concerned. */
  readonly grants: { readonly to: NodeId; readonly epoch: Epoch } | null;
  readonly last: LogPosition;
  /** It has the state of the cluster (false: it just joined and has never caught up). */
  readonly hasState: boolean;
  readonly inSync: readonly NodeId[];
  /** Wants no leadership any more (it is shutting down or draining). */
  readonly leaving: boolean;
  /** For `warren servers`: release, disk, chunks that should be here and are not. */
  readonly about: NodeFigures;
}

export interface NodeFigures {
  readonly release: string;
  readonly diskBytes: number;
  readonly diskFreeBytes: number;
  readonly lackingChunks: number;
  readonly lackingBytes: number;
}

export interface AppendRequest {
  readonly epoch: Epoch;
  readonly leader: NodeId;
  /** The entry before the first of `sizes`; the receiver must have exactly it. */
  readonly previous: LogPosition;
  /** Lengths of the bodies, which stand one after the other in the bytes. Empty: a probe. */
  readonly sizes: readonly number[];
  /** Leaderships that begin within these entries, so that a receiver sees where its own log parts from them. */
  readonly starts: readonly EpochStart[];
  /** The leader's log does not reach back to `previous`, the last entry of both: fetch a snapshot. */
  readonly fetch: boolean;
  /** Entries up to here are on every in-sync node. */
  readonly committed: Version;
  /** The answer waits until entries up to here are durable; 0: it does not. */
  readonly durableTo: Version;
}

export type AppendAnswer =
  /** Everything up to the request's last entry, `version`, is applied and written; up to `durable` it is durable. */
  | { readonly kind: 'appended'; readonly version: Version; readonly durable: Version }
  /** The receiver's log does not end with `previous`: where it is, and its leaderships, oldest first. */
  | { readonly kind: 'mismatch'; readonly last: LogPosition; readonly epochs: readonly EpochStart[] }
  /** The receiver accepts nothing older than `epoch`. */
  | { readonly kind: 'stale'; readonly epoch: Epoch }
  /** Not now: it rewinds, fetches a snapshot, or still follows another leader. Nothing was taken. */
  | { readonly kind: 'busy'; readonly work: 'rewind' | 'snapshot' | 'other-leader'; readonly reason: string };

export interface ForwardRequest {
  /** The leadership it is meant for; another one refuses it, so that a late message changes nothing. */
  readonly epoch: Epoch;
  readonly tag: OperationTag;
  /** Last sequence that this session forwarded in this epoch before, or 0: so that they are taken in order. */
  readonly previous: number;
  /** The oldest sequence whose answer the session still waits for: what is below it can be forgotten. */
  readonly oldest: number;
  /** Answer when it is durable on every in-sync node. */
  readonly durable: boolean;
  /** Length of the encoded operation and payload in the bytes (`metadata/entry-codec`). */
  readonly size: number;
}

export type ForwardAnswer =
  /** It is on every in-sync node, as this version. */
  | { readonly kind: 'accepted'; readonly version: Version }
  /** The operation was refused and has changed nothing: errno code and reason, seen in the state of `version`. */
  | { readonly kind: 'refused'; readonly code: string; readonly message: string; readonly version: Version }
  /** `previous` has not arrived: send it again, then this one. */
  | { readonly kind: 'out-of-order' }
  | { readonly kind: 'not-leader'; readonly leader: NodeId | null; readonly epoch: Epoch };

/** Which lock table: fcntl byte ranges or flock. */
export type LockTableName = 'range' | 'flock';

/** `owner`, `start` and `end` are 64-bit numbers in decimal; `mount` is unique in the cluster. */
export interface LockSpan {
  readonly table: LockTableName;
  readonly inode: Inode;
  readonly mount: MountId;
  readonly owner: string;
  readonly start: string;
  readonly end: string;
  readonly type: 'read' | 'write' | 'unlock';
  readonly pid: number;
}

/** What a node asks the leader, which keeps the lock tables of the cluster. */
export type LockCall =
  | { readonly call: 'get'; readonly span: LockSpan }
  /** With `wait` the answer comes when the lock is there. `id` names the call for a `cancel`. */
  | { readonly call: 'set'; readonly span: LockSpan; readonly wait: boolean; readonly id: number }
  | { readonly call: 'cancel'; readonly id: number }
  /** All that the node holds: replaces what the leader knew of it. */
  | { readonly call: 'assert'; readonly spans: readonly LockSpan[] };

export type LockAnswer =
  | { readonly kind: 'done' }
  | { readonly kind: 'conflict'; readonly span: LockSpan | null }
  | { readonly kind: 'refused'; readonly code: 'EAGAIN' | 'EDEADLK' | 'EINTR' }
  | { readonly kind: 'not-leader' }
  /** The leader does not know what the node holds: assert first, then ask again. */
  | { readonly kind: 'assert-first' };

export interface PeerMethods {
  heartbeat: { readonly request: Heartbeat; readonly answer: Heartbeat };
  append: { readonly request: AppendRequest; readonly answer: AppendAnswer };
  forward: { readonly request: ForwardRequest; readonly answer: ForwardAnswer };
  /** Everything up to `version` (or all, when null) is durable on every in-sync node when it answers. */
  barrier: {
    readonly request: { readonly epoch: Epoch; readonly version: Version | null };
    readonly answer: { readonly kind: 'durable' } | { readonly kind: 'not-leader' };
  };
  /** The leader hands over in order: the receiver has every entry and leads from now on. */
  'take-over': {
    readonly request: { readonly from: NodeId; readonly last: LogPosition };
    /** `epoch`: of the new leadership, when `ok`. */
    readonly answer: { readonly ok: boolean; readonly reason: string; readonly epoch: Epoch };
  };
  /** What became of these operations: versions by tag, null where no entry after `since` has it. */
  'find-tags': {
    readonly request: { readonly tags: readonly OperationTag[] };
    readonly answer: { readonly versions: readonly (Version | null)[]; readonly since: Version };
  };
  /** Entries after `after`, about `bytesMax`, as the bytes of the answer; null: the log does not reach back so far. */
  entries: {
    readonly request: { readonly after: Version; readonly bytesMax: number };
    readonly answer: { readonly sizes: readonly number[] | null };
  };
  /** A whole copy of the metadata at one version; then its bytes piece by piece; then its end. */
  'snapshot-open': {
    readonly request: Record<string, never>;
    readonly answer: {
      readonly id: string;
      readonly size: number;
      readonly position: LogPosition;
      readonly sha256: string;
    };
  };
  'snapshot-read': {
    readonly request: { readonly id: string; readonly offset: number; readonly length: number };
    readonly answer: Record<string, never>;
  };
  'snapshot-close': { readonly request: { readonly id: string }; readonly answer: Record<string, never> };
  /** The bytes are the chunk; answered when it is durable. */
  'chunk-put': { readonly request: { readonly hash: ChunkHash }; readonly answer: { readonly stored: true } };
  /** The answer's bytes are the chunk, whole; verified by who asks. `size` -1: not here. */
  'chunk-get': {
    readonly request: { readonly hash: ChunkHash };
    readonly answer: { readonly size: number };
  };
  /** Which of these the node holds; `verify` reads and checks each. */
  'chunk-have': {
    readonly request: { readonly hashes: readonly ChunkHash[]; readonly verify: boolean };
    readonly answer: { readonly have: readonly boolean[] };
  };
  /** Which of these inodes without a name the node has open. */
  'held-inodes': {
    readonly request: { readonly inodes: readonly Inode[] };
    readonly answer: { readonly held: readonly Inode[] };
  };
  lock: { readonly request: LockCall; readonly answer: LockAnswer };
  /** One call of a client's mount on the file system of a storing node; the shapes are in `filesystem/remote-protocol`. */
  'file-call': { readonly request: unknown; readonly answer: unknown };
  /** A client begins with a server; it fetches what it must be told of. */
  'file-session': { readonly request: unknown; readonly answer: unknown };
  'file-events': { readonly request: unknown; readonly answer: unknown };
  /** A request of the control channel, carried to another node. */
  control: {
    readonly request: { readonly method: string; readonly params: unknown };
    readonly answer:
      | { readonly result: unknown }
      | { readonly error: { code: string; message: string; hint: string } };
  };
  /** Asks the leader to change a member: role, draining, removal, address. */
  member: {
    readonly request: { readonly change: Partial<Member> & { readonly id: NodeId } };
    readonly answer: { readonly ok: boolean; readonly reason: string };
  };
}

export type PeerMethod = keyof PeerMethods;
export type PeerRequest<M extends PeerMethod> = PeerMethods[M]['request'];
export type PeerAnswer<M extends PeerMethod> = PeerMethods[M]['answer'];

export const LANES: { readonly [M in PeerMethod]: Lane } = {
  heartbeat: 'control',
  'take-over': 'control',
  control: 'control',
  'file-events': 'control',
  member: 'control',
  append: 'log',
  forward: 'log',
  barrier: 'log',
  'find-tags': 'log',
  'held-inodes': 'log',
  lock: 'log',
  'file-call': 'log',
  'file-session': 'log',
  entries: 'bulk',
  'snapshot-open': 'bulk',
  'snapshot-read': 'bulk',
  'snapshot-close': 'bulk',
  'chunk-put': 'bulk',
  'chunk-get': 'bulk',
  'chunk-have': 'bulk',
};

/** Joins the bodies of entries for an append; `sizes` goes into its header. */
export function joinEntries(entries: readonly EncodedEntry[]): { sizes: number[]; bytes: Buffer[] } {
  return { sizes: entries.map(({ body }) => body.length), bytes: entries.map(({ body }) => body) };
}
