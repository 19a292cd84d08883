/**
 * The members as a client last heard of them, in `members.json` of its data directory: so that it finds a storing node
 * also when the one that it joined through is away. A storing node has them in its metadata.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type Member, ROLES } from './protocol/cluster.ts';
import { writeDurably } from './protocol/durable-files.ts';
import { WarrenError } from './protocol/errors.ts';
import type { NodeId, Version } from './protocol/ids.ts';

const FILE = 'members.json';

const schema = z.object({
  clusterName: z.string().default(''),
  membersVersion: z
    .number()
    .int()
    .transform((version) => version as Version),
  members: z.array(
    z.object({
      id: z.string().transform((id) => id as NodeId),
      number: z.number().int(),
      role: z.enum(ROLES),
      address: z.string(),
      state: z.enum(['active', 'draining', 'removed']),
      key: z.string(),
    }),
  ),
});

export interface KnownMembers {
  readonly clusterName: string;
  readonly members: readonly Member[];
  readonly membersVersion: Version;
}

export function saveMembers(dataDirectory: string, known: KnownMembers): void {
  const { clusterName, members, membersVersion } = known;
  writeDurably(
    join(dataDirectory, FILE),
    `${JSON.stringify({ clusterName, membersVersion, members }, null, 1)}\n`,
  );
}

/** Errors: MEMBERS_UNKNOWN. */
export function loadMembers(dataDirectory: string): KnownMembers {
  const file = join(dataDirectory, FILE);
  try {
    return schema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    throw new WarrenError({
      code: 'MEMBERS_UNKNOWN',
      message: `${file} does not tell where the nodes of the cluster are.`,
      hint: 'restore the file from a backup, or remove this node and let it join again',
      cause: error,
    });
  }
}
