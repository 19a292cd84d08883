/**
 * Every key of the configuration, once: how it is checked, what it means, what it is when left out. The
 * loader (config.ts), the commented example and the table in the README are all made from CONFIG_KEYS, so
 * that they cannot disagree.
 *
 * A schema takes what TOML gives and answers what the program uses (a duration becomes milliseconds, a size
 * becomes bytes). `type` is both the documentation and the "expected …" of an error message.
 */

import { isAbsolute, normalize } from 'node:path';
import { z } from 'zod';
import { parseAddress } from './addresses.ts';
import { CHUNK_BYTES_MAX } from './ids.ts';
import { parseDurationMs, parseSizeBytes } from './units.ts';

/** Longest path of a Unix socket on Linux (`sun_path` less its NUL). */
export const SOCKET_PATH_BYTES_MAX = 107;
export const CHUNK_SIZE_BYTES_MIN = 64 * 1024;
export const PEERS_MAX = 100;
export const FACTOR_MAX = 20;
export const DEFAULT_CONTROL_SOCKET = '/run/warren/control.sock';
export const DEFAULT_CONFIG_FILE = '/etc/warren/config.toml';

const DURATION_MIN_MS = 1000;
const DURATION_MAX_MS = 3_600_000;

export interface ConfigKey {
  /** `section.key`, as in the file. */
  readonly key: string;
  /** For people: what the value must be. */
  readonly type: string;
  /** As TOML would spell it after parsing; undefined: found at start (the host name). */
  readonly default: string | number | boolean | readonly string[] | undefined;
  readonly meaning: string;
  /** `live`: a change is taken up by the running daemon; `restart`: at its next start. */
  readonly change: 'live' | 'restart';
  readonly schema: z.ZodType;
}

/** A node's name: what a host name may be, so that it is safe in file names and certificates. */
export const nodeIdSchema = z.string().regex(/^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/);
const labelSchema = z.string().regex(/^[A-Za-z0-9]([A-Za-z0-9._ -]{0,61}[A-Za-z0-9])?$/);
const absolutePathSchema = z
  .string()
  .refine((path) => isAbsolute(path) && !path.includes('\0') && Buffer.byteLength(path) <= 4095)
  .transform((path) => (path === '/' ? path : normalize(path).replace(/\/$/, '')));
const addressSchema = z.string().refine(isHostAndPort);
const durationSchema = z.string().transform((text, context) => {
  const ms = parseDurationMs(text);
  if (ms !== undefined && ms >= DURATION_MIN_MS && ms <= DURATION_MAX_MS) return ms;
  context.addIssue('not a duration in range');
  return z.NEVER;
});
const chunkSizeSchema = z.union([z.number(), z.string()]).transform((size, context) => {
  const bytes = typeof size === 'number' ? size : parseSizeBytes(size);
  if (bytes !== undefined && isChunkSize(bytes)) return bytes;
  context.addIssue('not a power of two in range');
  return z.NEVER;
});

export const CONFIG_SECTIONS: Readonly<Record<string, string>> = {
  node: 'This machine.',
  cluster: 'The machines that belong together, and how they find each other.',
  replication: 'How data is cut into chunks and how many copies there are.',
  mount: 'Where people see the files.',
  control: 'How the command line reaches the daemon.',
  log: 'What the daemon writes to standard error.',
};

export const CONFIG_KEYS = [
  {
    key: 'node.id',
    type: 'a name of 1 to 63 letters, digits, ".", "_" or "-"',
    default: undefined,
    meaning: 'Name of this node. Default: the host name. Fixed once the data directory is made.',
    change: 'restart',
    schema: nodeIdSchema,
  },
  {
    key: 'node.role',
    type: 'one of "auto", "leader", "follower", "client"',
    default: 'auto',
    meaning: 'auto: stores, may lead. leader: preferred. follower: never leads. client: stores nothing.',
    change: 'restart',
    schema: z.enum(['auto', 'leader', 'follower', 'client']),
  },
  {
    key: 'node.bind',
    type: 'an address and port, as "0.0.0.0:9500" or "[::]:9500"',
    default: '0.0.0.0:9500',
    meaning: 'Where this node listens for the others: mutual TLS, nothing else is answered.',
    change: 'restart',
    schema: addressSchema,
  },
  {
    key: 'node.advertise',
    type: 'an address and port, as "10.0.0.1:9500", or "auto"',
    default: 'auto',
    meaning:
      'Where the others reach this node. auto: the address of `bind`, or the first one of this machine.',
    change: 'restart',
    schema: z.string().refine((text) => text === 'auto' || isHostAndPort(text)),
  },
  {
    key: 'node.data_dir',
    type: 'an absolute path',
    default: '/var/lib/warren',
    meaning: 'Directory that holds the metadata and the chunks. `warren init` makes it.',
    change: 'restart',
    schema: absolutePathSchema,
  },
  {
    key: 'cluster.name',
    type: 'a name of 1 to 63 letters, digits, spaces, ".", "_" or "-"',
    default: 'warren',
    meaning: 'Name of the cluster, for people.',
    change: 'restart',
    schema: labelSchema,
  },
  {
    key: 'cluster.election',
    type: 'one of "lowest-id", "etcd"',
    default: 'lowest-id',
    meaning: 'Who decides which node leads.',
    change: 'restart',
    schema: z.enum(['lowest-id', 'etcd']),
  },
  {
    key: 'cluster.discovery',
    type: '"none" or an address, as "udp://239.255.0.1:9501"',
    default: 'udp://239.255.0.1:9501',
    meaning: 'How nodes find each other on the local network.',
    change: 'restart',
    schema: z
      .string()
      .refine((text) => text === 'none' || (text.startsWith('udp://') && isHostAndPort(text.slice(6)))),
  },
  {
    key: 'cluster.peers',
    type: `a list of up to ${PEERS_MAX} addresses, as ["10.0.0.2:9500"]`,
    default: [],
    meaning: 'Other nodes by address, for where discovery cannot reach.',
    change: 'restart',
    schema: z.array(addressSchema).max(PEERS_MAX),
  },
  {
    key: 'replication.mode',
    type: 'one of "shared", "replicated"',
    default: 'replicated',
    meaning: 'Of a new cluster. shared: data stays on the leader. replicated: `factor` copies of each chunk.',
    change: 'restart',
    schema: z.enum(['shared', 'replicated']),
  },
  {
    key: 'replication.factor',
    type: `a whole number from 1 to ${FACTOR_MAX}`,
    default: 3,
    meaning:
      'Of a new cluster: copies of each chunk, as far as there are nodes. Later: `warren replication set`.',
    change: 'restart',
    schema: z.number().int().min(1).max(FACTOR_MAX),
  },
  {
    key: 'replication.chunk_size',
    type: 'a power of two from 65536 (64 KiB) to 4194304 (4 MiB), as a number or "1 MiB"',
    default: CHUNK_BYTES_MAX,
    meaning: 'Largest chunk, in bytes. Applies to what is written from then on.',
    change: 'restart',
    schema: chunkSizeSchema,
  },
  {
    key: 'mount.path',
    type: 'an absolute path',
    default: '/mnt/warren',
    meaning: 'Where the file system is mounted; an empty directory.',
    change: 'restart',
    schema: absolutePathSchema,
  },
  {
    key: 'mount.allow_other',
    type: 'true or false',
    default: true,
    meaning: 'Let every user of this machine in, each with their own permissions.',
    change: 'restart',
    schema: z.boolean(),
  },
  {
    key: 'mount.driver',
    type: 'one of "auto", "kernel", "libfuse"',
    default: 'auto',
    meaning: 'kernel: fast, needs root. libfuse: without root. auto: kernel where it is allowed.',
    change: 'restart',
    schema: z.enum(['auto', 'kernel', 'libfuse']),
  },
  {
    key: 'mount.timeout',
    type: 'a duration from "1s" to "1h", as "30s"',
    default: '30s',
    meaning: 'Longest wait of a file operation while no node leads; then it fails.',
    change: 'restart',
    schema: durationSchema,
  },
  {
    key: 'control.socket',
    type: `an absolute path of at most ${SOCKET_PATH_BYTES_MAX} bytes`,
    default: DEFAULT_CONTROL_SOCKET,
    meaning: 'Unix socket of the control channel. Several daemons on one machine need one each.',
    change: 'restart',
    schema: absolutePathSchema.refine((path) => Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX),
  },
  {
    key: 'log.level',
    type: 'one of "debug", "info", "warn", "error"',
    default: 'info',
    meaning: 'How much is logged. `warrend --log-level` overrides it.',
    change: 'restart',
    schema: z.enum(['debug', 'info', 'warn', 'error']),
  },
  {
    key: 'log.format',
    type: 'one of "text", "json"',
    default: 'text',
    meaning: 'text for people, json for machines. `warrend --log-format` overrides it.',
    change: 'restart',
    schema: z.enum(['text', 'json']),
  },
] as const satisfies readonly ConfigKey[];

/** The exact keys, `section.key`. */
export type ConfigKeyName = (typeof CONFIG_KEYS)[number]['key'];

/** What the program uses for a key: the output of its schema. */
export type ConfigValue<K extends ConfigKeyName> = z.output<
  Extract<(typeof CONFIG_KEYS)[number], { key: K }>['schema']
>;

function isHostAndPort(text: string): boolean {
  const address = parseAddress(text);
  return address !== undefined && address.port >= 1;
}

function isChunkSize(bytes: number): boolean {
  return (
    Number.isInteger(bytes) &&
    bytes >= CHUNK_SIZE_BYTES_MIN &&
    bytes <= CHUNK_BYTES_MAX &&
    Number.isInteger(Math.log2(bytes))
  );
}
