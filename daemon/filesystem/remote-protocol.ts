/**
 * What a client's mount and the storing node that serves it say to each other. Types only; `remote.ts` asks,
 * `remote-server.ts` answers, the peers carry it (`file-call`, `file-session`, `file-events`).
 *
 * Coherence. The server numbers what it has to tell a client of (events), for each client by itself. The client fetches
 * events with a call that waits for some, so that it works from behind a firewall, and says how far its kernels have
 * been told; a change anywhere is answered only then (bounded). An answer carries the number of the last event when it
 * was made. Two rules keep old answers out of caches, whatever arrives first:
 *  - An answer is used only once the events up to its number are handled: no new size beside old pages.
 *  - An event that was handled between the sending of a call and its answer may be newer than the answer: where it
 *    concerns an inode of the answer, the call is made again. What comes later drops the answer from the caches again.
 *
 * Exactly once. A change carries the client's session and a sequence; one that is repeated at another node keeps them,
 * and the leader knows it by them.
 */

import type { Member } from '../protocol/cluster.ts';
import type { Epoch, Inode, MountId, Name, NodeId, Version } from '../protocol/ids.ts';
import type {
  AllocateMode,
  AttributeChanges,
  Attributes,
  DirectoryEntry,
  FileSystemStatistics,
  Invalidation,
  ListedEntry,
  NewNode,
  OpenFlags,
  OpenResult,
  RenameFlags,
  XattrMode,
} from './interface.ts';

type Bytes = Uint8Array;

/** Arguments and answer of each call; the bytes of `read` and `write` travel beside them. */
export interface FileCalls {
  lookup: { args: [parent: Inode, name: Name]; value: Attributes | null };
  getattr: { args: [inode: Inode]; value: Attributes };
  setattr: { args: [inode: Inode, changes: AttributeChanges]; value: Attributes };
  mknod: { args: [parent: Inode, name: Name, node: NewNode]; value: Attributes };
  symlink: { args: [parent: Inode, name: Name, target: Bytes]; value: Attributes };
  readlink: { args: [inode: Inode]; value: Bytes };
  link: { args: [inode: Inode, parent: Inode, name: Name]; value: Attributes };
  unlink: { args: [parent: Inode, name: Name]; value: null };
  rmdir: { args: [parent: Inode, name: Name]; value: null };
  rename: {
    args: [from: { parent: Inode; name: Name }, to: { parent: Inode; name: Name }, flags: RenameFlags];
    value: null;
  };
  create: { args: [parent: Inode, name: Name, node: NewNode]; value: Attributes };
  tmpfile: { args: [parent: Inode, node: NewNode]; value: Attributes };
  open: { args: [inode: Inode, flags: OpenFlags]; value: OpenResult };
  release: { args: [inode: Inode]; value: null };
  /** Answered when everything written is on every in-sync node. */
  flush: { args: [inode: Inode]; value: null };
  fsync: { args: [inode: Inode, dataOnly: boolean]; value: null };
  /** Answers how many bytes; they stand beside. */
  read: { args: [inode: Inode, offset: number, length: number]; value: number };
  /** Answers where the bytes went: with `append`, to the end of the file. */
  write: {
    args: [inode: Inode, offset: number, options: { append: boolean; killPrivileges: boolean }];
    value: { offset: number; written: number };
  };
  allocate: {
    args: [inode: Inode, mode: AllocateMode, range: { offset: number; length: number }];
    value: null;
  };
  seek: { args: [inode: Inode, offset: number, whence: 'data' | 'hole']; value: number };
  copyRange: {
    args: [from: { inode: Inode; offset: number }, to: { inode: Inode; offset: number }, length: number];
    value: number;
  };
  readdir: { args: [inode: Inode, cookie: number, limit: number]; value: DirectoryEntry[] };
  readdirPlus: { args: [inode: Inode, cookie: number, limit: number]; value: WireEntry[] };
  statfs: { args: []; value: FileSystemStatistics };
  getxattr: { args: [inode: Inode, name: Bytes]; value: Bytes | null };
  listxattr: { args: [inode: Inode]; value: Bytes[] };
  setxattr: { args: [inode: Inode, name: Bytes, value: Bytes, mode: XattrMode]; value: null };
  removexattr: { args: [inode: Inode, name: Bytes]; value: null };
}

export type FileMethod = keyof FileCalls;
export type FileArguments<M extends FileMethod> = FileCalls[M]['args'];
export type FileValue<M extends FileMethod> = FileCalls[M]['value'];

export interface WireEntry {
  readonly entry: ListedEntry['entry'];
  readonly attributes: Attributes | null;
}

export interface FileRequest<M extends FileMethod = FileMethod> {
  readonly session: string;
  /** Names a change within the session; 0: no change, or one that may be done twice. */
  readonly sequence: number;
  /** It was sent before, and the answer was lost. */
  readonly repeated: boolean;
  readonly mount: MountId;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly method: M;
  readonly args: FileArguments<M>;
}

export type FileAnswer<M extends FileMethod = FileMethod> =
  | { readonly kind: 'done'; readonly event: number; readonly value: FileValue<M> }
  /** As a program sees it. */
  | { readonly kind: 'failed'; readonly event: number; readonly code: string; readonly message: string }
  /** The server was restarted, or has given the client up: begin again. */
  | { readonly kind: 'no-session' };

/** The first call to a server: what the client has open. Replaces what the server knew of it. */
export interface SessionRequest {
  readonly session: string;
  readonly opens: readonly { readonly mount: MountId; readonly inode: Inode; readonly count: number }[];
}

export type SessionAnswer =
  | { readonly kind: 'open'; readonly standing: Standing }
  /** Not this node, not now. */
  | { readonly kind: 'refused'; readonly reason: string; readonly standing: Standing };

export interface EventsRequest {
  readonly session: string;
  /** The client's kernels were told of the events up to this one. */
  readonly told: number;
  /** Answer when there is an event, or after a while; false: only listen. */
  readonly wait: boolean;
  /** The client has more than one mount: its own changes are events, too. */
  readonly several: boolean;
}

export type EventsAnswer =
  | {
      readonly kind: 'events';
      readonly last: number;
      readonly events: readonly Invalidation[];
      readonly standing: Standing;
    }
  | { readonly kind: 'no-session' };

/** The cluster, as the server sees it. */
export interface Standing {
  readonly leader: NodeId | null;
  readonly epoch: Epoch;
  readonly inSync: readonly NodeId[];
  readonly members: readonly Member[];
  readonly version: Version;
}
