/** What two sides of a partition changed differently, as the replicated state lists it until somebody decides. */

import type { Inode, Name, NodeId, Timestamp } from './ids.ts';

/**
 * content: both changed the file. name: both gave the name to different things. deleted: deleted by the side that stays,
 * changed by the other; kept. removed: the other way round; kept. directory: the side that stays removed a directory
 * in which the other made something; it is there again.
 */
export const CONFLICT_KINDS = ['content', 'name', 'deleted', 'removed', 'directory'] as const;
export type ConflictKind = (typeof CONFLICT_KINDS)[number];

export interface Conflict {
  readonly id: number;
  readonly kind: ConflictKind;
  /** The node that led the side whose version was put aside. */
  readonly node: NodeId;
  /** When the two histories met again. */
  readonly time: Timestamp;
  readonly parent: Inode;
  readonly name: Name;
  /** Where the version that was put aside lies; null: there is one version only, at the name itself. */
  readonly copy: { readonly parent: Inode; readonly name: Name; readonly inode: Inode } | null;
}

/** Which version stays: `mine` is at the name, `theirs` beside it. */
export const KEEPS = ['mine', 'theirs', 'both'] as const;
export type Keep = (typeof KEEPS)[number];
