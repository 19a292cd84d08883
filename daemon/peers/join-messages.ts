/**
 * What a machine without a certificate says, and what it is answered. It can say one thing: a request to join, with the
 * secret of a token. Both messages are checked, because each side talks to somebody it does not know yet.
 */

import { z } from 'zod';
import { type Member, ROLES } from '../protocol/cluster.ts';
import { nodeIdSchema } from '../protocol/config-keys.ts';
import type { NodeId } from '../protocol/ids.ts';

const PEM_LENGTH_MAX = 8192;
const MEMBERS_MAX = 256;
const pemSchema = z.string().max(PEM_LENGTH_MAX);
const idSchema = nodeIdSchema.transform((id) => id as NodeId);

const memberSchema = z.object({
  id: idSchema,
  number: z.number().int().min(0).max(255),
  role: z.enum(ROLES),
  address: z.string().max(300),
  state: z.enum(['active', 'draining', 'removed']),
  key: z.string().length(64),
});

export const joinRequestSchema = z.object({
  protocol: z.number().int(),
  release: z.string().max(64),
  secret: z.string().max(128),
  node: idSchema,
  /** PKCS #10, PEM. */
  request: pemSchema,
  role: z.enum(ROLES),
  /** Where the others shall reach it; a host of "0.0.0.0" or "::" stands for the address it comes from. */
  address: z.string().max(300),
});

export const joinAnswerSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('admitted'),
    certificate: pemSchema,
    authority: pemSchema,
    /** Only for nodes that store. */
    authorityKey: pemSchema.nullable(),
    clusterId: z.string().max(100),
    clusterName: z.string().max(100),
    number: z.number().int().min(0).max(255),
    members: z.array(memberSchema).max(MEMBERS_MAX),
    /** Where `members` stands in the log. */
    membersVersion: z.number().int().min(0),
  }),
  /** Another node decides; null: nobody at the moment. */
  z.object({ kind: z.literal('elsewhere'), address: z.string().max(300).nullable() }),
  z.object({
    kind: z.literal('refused'),
    code: z.string().max(64),
    message: z.string().max(500),
    hint: z.string().max(500),
  }),
]);

export type JoinRequestMessage = z.infer<typeof joinRequestSchema>;
export type JoinAnswer = z.infer<typeof joinAnswerSchema>;
export type Admission = Extract<JoinAnswer, { kind: 'admitted' }>;

/** A request to join whose certificate request was checked. */
export interface JoinRequest {
  readonly secret: string;
  readonly node: NodeId;
  readonly request: string;
  /** SHA-256 of its public key, as `Member.key` has it. */
  readonly key: string;
  readonly role: Member['role'];
  /** A complete `host:port`. */
  readonly address: string;
  readonly release: string;
}

/** Decides about a request; a WarrenError is told to the one who asks, with its code and hint. */
export type JoinHandler = (request: JoinRequest) => Promise<JoinAnswer>;
