/**
 * The control channel: which methods there are, what they take and answer. Types and schemas only; the server
 * (daemon/control) and the client (console) share them.
 *
 * Wire format: JSON-RPC 2.0, one message a line, over a Unix socket; parameters by name. Progress is the
 * notification `$/progress` with the token that the caller put into `progressToken`; `$/cancelRequest` ends a
 * request. An error of Warren's has code WARREN_ERROR_CODE and `data: { code, hint }`.
 *
 * Schemas of results are not strict: a newer daemon may answer more than an older console knows.
 */

import { z } from 'zod';
import { CLUSTER_METHODS } from './control-cluster.ts';
import { CONFLICT_METHODS } from './control-conflicts.ts';

/** Raised when a method changes its meaning; new methods and new result fields do not raise it. */
export const CONTROL_API_VERSION = 1;
export const WARREN_ERROR_CODE = -32_000;

const none = z.strictObject({}).optional();
const count = z.number().min(0);
const progressToken = z.union([z.string().max(64), z.number()]).optional();

export const healthSchema = z.object({
  state: z.enum(['healthy', 'degraded', 'read-only']),
  /** Everything that was acknowledged is there and readable. */
  dataSafe: z.boolean(),
  /** A sentence; empty when healthy. */
  reason: z.string(),
  /** What to do; empty when there is nothing to do. */
  nextStep: z.string(),
});
export type Health = z.output<typeof healthSchema>;

export const mountStatusSchema = z.object({
  path: z.string(),
  driver: z.enum(['kernel', 'libfuse']),
  openFiles: count,
});
export type MountStatus = z.output<typeof mountStatusSchema>;

export const statusSchema = z.object({
  nodeId: z.string(),
  clusterName: z.string(),
  role: z.enum(['auto', 'leader', 'follower', 'client']),
  /** Release of the daemon. */
  version: z.string(),
  health: healthSchema,
  uptimeMs: count,
  mounts: z.array(mountStatusSchema),
  usage: z.object({
    /** Of the disk that holds the data directory. */
    diskBytes: count,
    diskFreeBytes: count,
    /** What files and directories add up to, as `du --apparent-size` would say. */
    fileBytes: count,
    files: count,
    chunks: count,
    /** What the chunks take on disk; less than `fileBytes` where content repeats or files have holes. */
    chunkBytes: count,
  }),
  /** Version of the newest entry of the log. */
  logVersion: count,
  pid: z.number(),
  dataDirectory: z.string(),
  /** Empty when the daemon was started without one. */
  configFile: z.string(),
  memory: z.object({ residentBytes: count, heapBytes: count }),
  /** Of a client: calls to storing nodes so far. */
  clientCalls: count.optional(),
});
export type Status = z.output<typeof statusSchema>;

export const versionSchema = z.object({ version: z.string(), api: z.number(), node: z.string() });
export type VersionInfo = z.output<typeof versionSchema>;

export const findingSchema = z.object({
  /** Stable name of the broken invariant, as `link-count`. */
  code: z.string(),
  message: z.string(),
  /** `repaired`: put right. `safe`: --repair can put it right. `loss`: data is missing. */
  state: z.enum(['repaired', 'safe', 'loss']),
});
export type Finding = z.output<typeof findingSchema>;

export const fsckSchema = z.object({
  clean: z.boolean(),
  findings: z.array(findingSchema),
  /** Findings beyond the list, which is cut at FINDINGS_MAX. */
  findingsLeftOut: count,
  checked: z.object({ inodes: count, entries: count, extents: count, chunks: count, chunkBytes: count }),
  durationMs: count,
});
export type FsckResult = z.output<typeof fsckSchema>;

export const FINDINGS_MAX = 1000;

export const progressSchema = z.object({
  /** What is being done, as "checking chunks". */
  phase: z.string(),
  done: count,
  /** 0 when it is not known. */
  total: count,
});
export type Progress = z.output<typeof progressSchema>;

export const CONTROL_METHODS = {
  ...CLUSTER_METHODS,
  ...CONFLICT_METHODS,
  /** Release and API version; the first call of a client. */
  version: { params: none, result: versionSchema },
  status: { params: none, result: statusSchema },
  /** Mounts the file system at `path` (absolute); answers when it can be used. */
  mount: {
    params: z.strictObject({ path: z.string().min(1).max(4095) }),
    result: mountStatusSchema,
  },
  /** `force`: also with files open; they get errors from then on. */
  unmount: {
    params: z.strictObject({ path: z.string().min(1).max(4095), force: z.boolean().default(false) }),
    result: z.object({ path: z.string() }),
  },
  /** Checks without changing anything. `data`: also reads every chunk. Reports progress. */
  fsck: {
    params: z.strictObject({ data: z.boolean().default(false), progressToken }),
    result: fsckSchema,
  },
  /** Everything written so far is durable when it answers. */
  barrier: { params: none, result: z.object({ logVersion: count }) },
  /** Drains, unmounts and ends the daemon; answers before it ends. */
  shutdown: { params: none, result: z.object({ pid: z.number() }) },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;

export type ControlMethod = keyof typeof CONTROL_METHODS;
/** What a caller may leave out has its default. */
export type ControlParams<M extends ControlMethod> = z.input<(typeof CONTROL_METHODS)[M]['params']>;
export type ControlResult<M extends ControlMethod> = z.output<(typeof CONTROL_METHODS)[M]['result']>;

/** What a handler gets beside its parameters. */
export interface ControlContext {
  /** Aborted when the caller cancels, goes away, or the server closes. */
  readonly signal: AbortSignal;
  /** Tells the caller how far it is; free to call often (the server drops what is too much). */
  readonly progress: (progress: Progress) => void;
}

export type ControlHandlers = {
  readonly [M in ControlMethod]: (
    params: z.output<(typeof CONTROL_METHODS)[M]['params']>,
    context: ControlContext,
  ) => ControlResult<M> | Promise<ControlResult<M>>;
};
