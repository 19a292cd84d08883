/** What nodes know of each other: members, roles, positions in the log. Types and limits only. */

import type { Epoch, Inode, NodeId, Version } from './ids.ts';

export const ROLES = ['auto', 'leader', 'follower', 'client'] as const;
/** auto: stores, may lead. leader: preferred. follower: stores, never leads. client: stores nothing. */
export type Role = (typeof ROLES)[number];

/** Members have numbers from 0 to this; the first node of a cluster is 0. */
export const MEMBER_NUMBER_MAX = 255;
/** Inode numbers that one member may give: `number * this` and up, so that two nodes never give the same. */
export const INODES_PER_MEMBER = 2 ** 44;

/** One machine of the cluster, as every node's metadata has it. */
export interface Member {
  readonly id: NodeId;
  /** Small number for life: never given to another node. */
  readonly number: number;
  readonly role: Role;
  /** Where the others reach it, `host:port`. */
  readonly address: string;
  /** `draining`: its chunks move away before it is removed. `removed`: its certificate is refused. */
  readonly state: 'active' | 'draining' | 'removed';
  /** SHA-256 of its certificate's public key (SPKI), hexadecimal. */
  readonly key: string;
}

/** The last entry of a log: which leadership wrote it, and its place. */
export interface LogPosition {
  readonly epoch: Epoch;
  readonly version: Version;
}

/** Where a leadership begins in the log; the list of these tells where two histories part. */
export interface EpochStart {
  readonly epoch: Epoch;
  readonly first: Version;
}

/**
 * Names one proposed operation for ever: a repeat is recognised by it. `session` is one life of one proposer (a
 * daemon, a client), `sequence` grows by one.
 */
export interface OperationTag {
  readonly session: string;
  readonly sequence: number;
}

/** One entry of the log as it travels: `body` is what the log file holds, opaque to all but the metadata. */
export interface EncodedEntry {
  readonly version: Version;
  readonly body: Buffer;
}

export type ReplicationMode = 'shared' | 'replicated';

/** Settings that all nodes share; they are part of the replicated state. */
export interface ClusterSettings {
  readonly mode: ReplicationMode;
  readonly factor: number;
  /** Who should lead while it can (`warren promote`), or null for the lowest id. */
  readonly preferred: NodeId | null;
  /** The nodes that have acknowledged every committed entry. Empty: not a cluster yet. */
  readonly inSync: readonly NodeId[];
}

/** An epoch grows with every leadership and is unique: `counter * 256 + member number of the leader`. */
export function nextEpoch(highest: Epoch, memberNumber: number): Epoch {
  return ((Math.floor(highest / 256) + 1) * 256 + memberNumber) as Epoch;
}

/** Negative, zero or positive as `a` is older than, equal to or newer than `b`. */
export function comparePositions(a: LogPosition, b: LogPosition): number {
  return a.epoch - b.epoch || a.version - b.version;
}

/** First inode number of a member's range. */
export function firstInode(memberNumber: number): Inode {
  return (memberNumber * INODES_PER_MEMBER + (memberNumber === 0 ? 2 : 0)) as Inode;
}
