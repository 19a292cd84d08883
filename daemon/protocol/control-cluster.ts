/** The part of the control API that is about the cluster: shapes of its requests and answers. */

import { z } from 'zod';
import { ROLES } from './cluster.ts';
import { FACTOR_MAX, nodeIdSchema } from './config-keys.ts';

const count = z.number().min(0);
const none = z.strictObject({}).optional();
const node = z.strictObject({ node: nodeIdSchema });

/** A token is valid this long when nothing else is asked for. */
export const TOKEN_TTL_MS = 24 * 60 * 60 * 1000;
const TOKEN_TTL_MIN_MS = 60_000;
const TOKEN_TTL_MAX_MS = 30 * TOKEN_TTL_MS;

export const serverSchema = z.object({
  id: z.string(),
  role: z.enum(ROLES),
  /** `leader` and `in-sync` hold everything acknowledged; of the others `reason` says why not. */
  state: z.enum(['leader', 'in-sync', 'catching-up', 'lost', 'gone', 'draining', 'client']),
  reason: z.string(),
  address: z.string(),
  /** Release of its daemon; empty while it was never heard. */
  release: z.string(),
  /** Last entry of its log, and how many it is behind the leader. */
  logVersion: count,
  lag: count,
  diskBytes: count,
  diskFreeBytes: count,
  /** Chunks that should be on it and are not yet. */
  lackingChunks: count,
  lackingBytes: count,
  /** Since its last word; null: never heard. 0 for the node that answers. */
  lastSeenMs: count.nullable(),
  isSelf: z.boolean(),
});
export type Server = z.output<typeof serverSchema>;

export const serversSchema = z.object({
  clusterName: z.string(),
  leader: z.string().nullable(),
  epoch: count,
  servers: z.array(serverSchema),
});
export type Servers = z.output<typeof serversSchema>;

export const replicationSchema = z.object({
  mode: z.enum(['shared', 'replicated']),
  factor: count,
  inSync: z.array(z.string()),
  logVersion: count,
  /** Of all nodes together, as far as they were heard. */
  lackingChunks: count,
  lackingBytes: count,
  /** This node's own repair. */
  repair: z.object({
    paused: z.boolean(),
    queuedChunks: count,
    queuedBytes: count,
    bytesPerSecond: count,
    /** Null: not known. */
    secondsLeft: count.nullable(),
    lastError: z.string(),
  }),
  /** Chunks that this node lacks (the first of them), with how many files use them and some of their paths. */
  lacking: z.array(z.object({ chunk: z.string(), bytes: count, files: count, paths: z.array(z.string()) })),
});
export type ReplicationStatus = z.output<typeof replicationSchema>;

const changed = z.object({ node: z.string(), result: z.string() });

export const CLUSTER_METHODS = {
  /** Every node with its state. */
  servers: { params: none, result: serversSchema },
  /** A token that lets one new node join. */
  token: {
    params: z.strictObject({
      ttlMs: z.number().int().min(TOKEN_TTL_MIN_MS).max(TOKEN_TTL_MAX_MS).default(TOKEN_TTL_MS),
    }),
    result: z.object({ token: z.string(), expires: z.string() }),
  },
  /** Hands leadership over in order, and keeps it there while the node can lead. Answers when it leads. */
  promote: { params: node, result: changed },
  role: { params: z.strictObject({ node: nodeIdSchema, role: z.enum(ROLES) }), result: changed },
  /** Its chunks move away, then it is no member any more. Refused while that would lose the last copy. */
  'node-remove': { params: node, result: changed },
  /** For a node that is gone for good. */
  'node-forget': { params: node, result: changed },
  replication: { params: none, result: replicationSchema },
  'replication-set': {
    params: z.strictObject({
      mode: z.enum(['shared', 'replicated']).optional(),
      factor: z.number().int().min(1).max(FACTOR_MAX).optional(),
    }),
    result: z.object({ mode: z.enum(['shared', 'replicated']), factor: count }),
  },
  'repair-pause': {
    params: z.strictObject({ paused: z.boolean() }),
    result: z.object({ paused: z.boolean() }),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
