/** The part of the control API about conflicts between two sides of a partition. */

import { z } from 'zod';
import { CONFLICT_KINDS, KEEPS } from './conflict.ts';

/** Conflicts in one answer. */
export const CONFLICTS_MAX = 1000;

const count = z.number().min(0);

const versionSchema = z.object({
  path: z.string(),
  /** Somebody may have moved or removed it since. */
  exists: z.boolean(),
  bytes: count,
  /** ISO 8601; empty when it does not exist. */
  modified: z.string(),
});
export type ConflictVersion = z.output<typeof versionSchema>;

export const conflictsSchema = z.object({
  /** Histories of a partition that the node that answers has still to merge. */
  merging: count,
  /** All of them; the list ends at CONFLICTS_MAX. */
  count,
  conflicts: z.array(
    z.object({
      id: count,
      kind: z.enum(CONFLICT_KINDS),
      /** Led the side whose version was put aside. */
      node: z.string(),
      time: z.string(),
      mine: versionSchema,
      /** The version that was put aside; null: there is only the one at `mine`. */
      theirs: versionSchema.nullable(),
    }),
  ),
});
export type ConflictList = z.output<typeof conflictsSchema>;

export const CONFLICT_METHODS = {
  /** What two sides of a partition changed differently. */
  conflicts: { params: z.strictObject({}).optional(), result: conflictsSchema },
  'conflict-resolve': {
    params: z.strictObject({ id: z.number().int().min(1), keep: z.enum(KEEPS) }),
    result: z.object({ id: count, kept: z.enum(KEEPS) }),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
