/**
 * Reads and checks the configuration (TOML).
 *
 * What can go wrong: a file that is missing, unreadable, too long or not TOML; unknown sections and keys;
 * values of the wrong kind or out of range. All problems are collected before anything is said, and each names
 * file, line, column and key, what was expected and what was found, and for an unknown key the nearest valid
 * one. A wrong configuration is never half used.
 */

import { readFileSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import { parse, TomlError } from 'smol-toml';
import {
  CONFIG_KEYS,
  CONFIG_SECTIONS,
  type ConfigKey,
  type ConfigKeyName,
  type ConfigValue,
} from './config-keys.ts';
import { systemErrorCode, WarrenError } from './errors.ts';
import type { NodeId } from './ids.ts';
import { nearestWord, printable } from './text.ts';
import { positionOf, tomlPositions } from './toml-positions.ts';

/** A configuration is a page of text; anything longer is the wrong file. */
export const CONFIG_FILE_BYTES_MAX = 1024 * 1024;

export interface Config {
  readonly node: {
    readonly id: NodeId;
    readonly role: 'auto' | 'leader' | 'follower' | 'client';
    readonly bind: string;
    /** `host:port`, or `auto`. */
    readonly advertise: string;
    readonly dataDirectory: string;
  };
  readonly cluster: {
    readonly name: string;
    readonly election: 'lowest-id' | 'etcd';
    /** `udp://address:port` or `none`. */
    readonly discovery: string;
    readonly peers: readonly string[];
  };
  readonly replication: {
    readonly mode: 'shared' | 'replicated';
    readonly factor: number;
    readonly chunkBytes: number;
  };
  readonly mount: {
    readonly path: string;
    readonly allowOther: boolean;
    readonly driver: 'auto' | 'kernel' | 'libfuse';
    readonly timeoutMs: number;
  };
  readonly control: { readonly socket: string };
  readonly log: { readonly level: 'debug' | 'info' | 'warn' | 'error'; readonly format: 'text' | 'json' };
}

export interface ConfigProblem {
  readonly file: string;
  /** Both from 1. */
  readonly line: number;
  readonly column: number;
  /** Empty when the file as a whole is wrong. */
  readonly key: string;
  readonly expected: string;
  readonly found: string;
  /** The valid key that was probably meant. */
  readonly nearest?: string;
  /** The whole of it as one sentence. */
  readonly message: string;
}

export type ConfigResult =
  | { readonly kind: 'ok'; readonly config: Config }
  | { readonly kind: 'bad'; readonly problems: readonly ConfigProblem[] };

/** Thrown by `loadConfig`; `problems` holds every finding. */
export class ConfigError extends WarrenError {
  readonly problems: readonly ConfigProblem[];

  constructor(file: string, problems: readonly ConfigProblem[]) {
    super({
      code: 'CONFIG_INVALID',
      message: problems.map((problem) => problem.message).join('\n'),
      hint: `correct ${file}; \`warren config example\` prints every key with its meaning`,
    });
    this.problems = problems;
  }
}

/** Reads `file`. Errors: CONFIG_NOT_FOUND, CONFIG_UNREADABLE, CONFIG_INVALID (a `ConfigError`). */
export function loadConfig(file: string): Config {
  const result = parseConfig(readConfigText(file), { file });
  if (result.kind === 'bad') throw new ConfigError(file, result.problems);
  return result.config;
}

/** Checks `text`; `file` is only for messages, `hostName` is the default of `node.id`. */
export function parseConfig(text: string, options: { file: string; hostName?: string }): ConfigResult {
  const { file } = options;
  let document: Record<string, unknown>;
  try {
    document = parse(text, { unsafeKeyBehaviour: 'keep' });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '');
    const place = { file, line: error.line, column: error.column, key: '' };
    const message = `${file}:${error.line}:${error.column}: this is not TOML: ${reason}`;
    return { kind: 'bad', problems: [{ ...place, expected: 'TOML', found: reason, message }] };
  }

  const problems: ConfigProblem[] = [];
  const positions = tomlPositions(text);
  const report = (key: string, expected: string, found: string, nearest?: string): void => {
    const position = positionOf(positions, key);
    const shown = printable(key);
    const isUnknown = expected.startsWith('a known ');
    const what = isUnknown
      ? `unknown ${expected.split(' ')[2]} "${shown}"`
      : `${shown}: expected ${expected}, found ${found}`;
    const suggestion = nearest === undefined ? '' : `; did you mean "${nearest}"?`;
    const message = `${file}:${position.line}:${position.column}: ${what}${suggestion}`;
    const problem = { file, ...position, key, expected, found, message };
    problems.push(nearest === undefined ? problem : { ...problem, nearest });
  };

  reportUnknownKeys(document, report);
  const values = new Map<string, unknown>();
  for (const definition of CONFIG_KEYS) {
    values.set(definition.key, readValue(definition, document, options.hostName ?? hostname(), report));
  }
  if (problems.length === 0) reportContradictions(values, report);
  problems.sort((left, right) => left.line - right.line || left.column - right.column);
  return problems.length > 0 ? { kind: 'bad', problems } : { kind: 'ok', config: toConfig(values) };
}

type Report = (key: string, expected: string, found: string, nearest?: string) => void;

function reportUnknownKeys(document: Record<string, unknown>, report: Report): void {
  const names = CONFIG_KEYS.map((definition) => definition.key as string);
  for (const [section, content] of Object.entries(document)) {
    if (!Object.hasOwn(CONFIG_SECTIONS, section)) {
      const isTable = isRecord(content);
      const candidates = isTable
        ? Object.keys(CONFIG_SECTIONS)
        : names.map((name) => name.split('.')[1] ?? '');
      const word = nearestWord(section, candidates);
      const nearest = isTable ? word : names.find((name) => name.endsWith(`.${word}`));
      report(
        section,
        isTable ? 'a known section' : 'a known key in a section',
        `"${printable(section)}"`,
        nearest,
      );
    } else if (!isRecord(content)) {
      report(section, `a section [${section}]`, describe(content));
    } else {
      for (const key of Object.keys(content)) {
        if (names.includes(`${section}.${key}`)) continue;
        const elsewhere = names.find((name) => name.endsWith(`.${key}`));
        const own = names
          .filter((name) => name.startsWith(`${section}.`))
          .map((name) => name.split('.')[1] ?? '');
        const near = nearestWord(key, own);
        const nearest = elsewhere ?? (near === undefined ? undefined : `${section}.${near}`);
        report(`${section}.${key}`, 'a known key', `"${printable(key)}"`, nearest);
      }
    }
  }
}

function readValue(
  definition: ConfigKey,
  document: Record<string, unknown>,
  hostName: string,
  report: Report,
): unknown {
  const [section = '', key = ''] = definition.key.split('.');
  const table = document[section];
  const isWritten = isRecord(table) && Object.hasOwn(table, key);
  const given = isWritten ? table[key] : (definition.default ?? hostName);
  const result = definition.schema.safeParse(given);
  if (result.success) return result.data;
  if (isWritten) report(definition.key, definition.type, describe(given));
  else report(definition.key, definition.type, `the host name ${describe(given)}; write the key`);
  return undefined;
}

/** What two keys together must fulfil. */
function reportContradictions(values: ReadonlyMap<string, unknown>, report: Report): void {
  const data = String(values.get('node.data_dir'));
  const mount = String(values.get('mount.path'));
  if (data === mount || data.startsWith(mount === '/' ? mount : `${mount}/`)) {
    report('node.data_dir', 'a path outside mount.path', `"${data}" in "${mount}": the mount would hide it`);
  }
}

function toConfig(values: ReadonlyMap<string, unknown>): Config {
  // Each value is what the schema of its key answered.
  const get = <K extends ConfigKeyName>(key: K): ConfigValue<K> => values.get(key) as ConfigValue<K>;
  return {
    node: {
      id: get('node.id') as NodeId,
      role: get('node.role'),
      bind: get('node.bind'),
      advertise: get('node.advertise'),
      dataDirectory: get('node.data_dir'),
    },
    cluster: {
      name: get('cluster.name'),
      election: get('cluster.election'),
      discovery: get('cluster.discovery'),
      peers: get('cluster.peers'),
    },
    replication: {
      mode: get('replication.mode'),
      factor: get('replication.factor'),
      chunkBytes: get('replication.chunk_size'),
    },
    mount: {
      path: get('mount.path'),
      allowOther: get('mount.allow_other'),
      driver: get('mount.driver'),
      timeoutMs: get('mount.timeout'),
    },
    control: { socket: get('control.socket') },
    log: { level: get('log.level'), format: get('log.format') },
  };
}

function readConfigText(file: string): string {
  try {
    const status = statSync(file);
    if (!status.isFile() || status.size > CONFIG_FILE_BYTES_MAX) {
      throw new WarrenError({
        code: 'CONFIG_UNREADABLE',
        message: `${file} is not a configuration: ${status.isFile() ? `it has ${status.size} bytes` : 'it is not a file'}.`,
        hint: 'name the config.toml that `warren init` made',
      });
    }
    return readFileSync(file, 'utf8');
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new WarrenError({
        code: 'CONFIG_NOT_FOUND',
        message: `There is no configuration at ${file}.`,
        hint: 'make one with `warren init -d DIR`, or name yours with `--config FILE`',
        cause: error,
      });
    }
    if (error instanceof WarrenError) throw error;
    throw new WarrenError({
      code: 'CONFIG_UNREADABLE',
      message: `The configuration ${file} cannot be read (${code ?? String(error)}).`,
      hint: 'check its permissions, or run as the user that the daemon runs as',
      cause: error,
    });
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function describe(value: unknown): string {
  if (value instanceof Date) return `the date ${value.toISOString()}`;
  const text = printable(JSON.stringify(value) ?? String(value));
  const short = text.length > 60 ? `${text.slice(0, 57)}...` : text;
  if (Array.isArray(value)) return `the list ${short}`;
  if (isRecord(value)) return `the table ${short}`;
  return short;
}
