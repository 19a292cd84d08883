/**
 * warrend's own arguments. Only reads them: nothing is opened, printed or ended here.
 */

import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { systemErrorCode } from './protocol/errors.ts';

export interface LogOverrides {
  readonly format?: 'text' | 'json';
  readonly level?: 'debug' | 'info' | 'warn' | 'error';
}

export type DaemonOptions =
  /** Serve with the configuration `configFile`. */
  | { readonly kind: 'run'; readonly configFile: string; readonly log: LogOverrides }
  /** `npm start`: everything lies in `directory` and is made at first use (`prepareHere`). */
  | { readonly kind: 'here'; readonly directory: string; readonly log: LogOverrides }
  | {
      readonly kind: 'fsck';
      readonly source:
        | { readonly kind: 'config'; readonly file: string }
        | { readonly kind: 'directory'; readonly path: string };
      readonly repair: boolean;
      readonly data: boolean;
      readonly json: boolean;
    }
  /** Be admitted to a cluster with the token in $WARREN_TOKEN. */
  | { readonly kind: 'join'; readonly configFile: string; readonly json: boolean }
  | { readonly kind: 'help' }
  | { readonly kind: 'version' }
  /** Print both on standard error and end with exit code 2. */
  | { readonly kind: 'usage-error'; readonly message: string; readonly hint: string };

export const DAEMON_HELP = `warrend: the Warren daemon. It runs in the foreground.

usage:
  warrend --config FILE          serve with this configuration
  warrend --here DIR             keep everything in DIR, mount on DIR/mnt
  warrend fsck --config FILE     check the data of a stopped daemon
  warrend fsck -d DIR            the same, by data directory
  warrend join --config FILE     join a cluster with the token in $WARREN_TOKEN

options:
  --log-format text|json         readable lines, or one JSON object a line
  --log-level LEVEL              debug, info, warn or error
  --help, --version

options of fsck:
  --repair                       put right what is safe to put right
  --data                         also read every chunk and compare its hash
  --json                         the result as JSON

example:
  warrend --config /etc/warren/config.toml --log-format json

SIGTERM and SIGINT drain, unmount and stop it.
`;

const HINT = '`warrend --help` shows what there is';
const LOG_FORMATS = ['text', 'json'] as const;
const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;

/** `argv` without the program and the script (`process.argv.slice(2)`). Paths come out absolute. */
export function parseDaemonOptions(argv: readonly string[]): DaemonOptions {
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        config: { type: 'string' },
        here: { type: 'string' },
        directory: { type: 'string', short: 'd' },
        'log-format': { type: 'string' },
        'log-level': { type: 'string' },
        repair: { type: 'boolean', default: false },
        data: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
        version: { type: 'boolean', short: 'V', default: false },
      },
    });
    if (values.help) return { kind: 'help' };
    if (values.version) return { kind: 'version' };
    if (positionals.length === 0) return serveOptions(values);
    return positionals[0] === 'join' ? joinOptions(values, positionals) : fsckOptions(values, positionals);
  } catch (error) {
    if (systemErrorCode(error)?.startsWith('ERR_PARSE_ARGS') !== true || !(error instanceof Error))
      throw error;
    return usageError((error.message.split('. ')[0] ?? '').replace(/\.?$/, '.'));
  }
}

interface Values {
  readonly config?: string | undefined;
  readonly here?: string | undefined;
  readonly directory?: string | undefined;
  readonly 'log-format'?: string | undefined;
  readonly 'log-level'?: string | undefined;
  readonly repair: boolean;
  readonly data: boolean;
  readonly json: boolean;
}

function serveOptions(values: Values): DaemonOptions {
  if (values.repair || values.data || values.json || values.directory !== undefined) {
    return usageError('--repair, --data, --json and -d belong to `warrend fsck`.');
  }
  const format = LOG_FORMATS.find((name) => name === values['log-format']);
  const level = LOG_LEVELS.find((name) => name === values['log-level']);
  if (values['log-format'] !== undefined && format === undefined) {
    return usageError(`--log-format takes ${LOG_FORMATS.join(' or ')}, not "${values['log-format']}".`);
  }
  if (values['log-level'] !== undefined && level === undefined) {
    return usageError(`--log-level takes ${LOG_LEVELS.join(', ')}, not "${values['log-level']}".`);
  }
  const log: LogOverrides = { ...(format && { format }), ...(level && { level }) };
  if (values.config !== undefined && values.here !== undefined) {
    return usageError('--config and --here exclude each other.');
  }
  if (values.config !== undefined) return { kind: 'run', configFile: resolve(values.config), log };
  if (values.here !== undefined) return { kind: 'here', directory: resolve(values.here), log };
  return usageError('--config FILE or --here DIR is missing.');
}

function fsckOptions(values: Values, positionals: readonly string[]): DaemonOptions {
  if (positionals.length !== 1 || positionals[0] !== 'fsck') {
    return usageError(`There is no command "${positionals.join(' ')}".`);
  }
  if (values.here !== undefined || values['log-format'] !== undefined || values['log-level'] !== undefined) {
    return usageError('fsck takes --config, -d, --repair, --data and --json only.');
  }
  const { repair, data, json } = values;
  if (values.config !== undefined && values.directory === undefined) {
    return { kind: 'fsck', source: { kind: 'config', file: resolve(values.config) }, repair, data, json };
  }
  if (values.directory !== undefined && values.config === undefined) {
    return {
      kind: 'fsck',
      source: { kind: 'directory', path: resolve(values.directory) },
      repair,
      data,
      json,
    };
  }
  return usageError('fsck needs either --config FILE or -d DIR.');
}

function joinOptions(values: Values, positionals: readonly string[]): DaemonOptions {
  const { config, json, ...rest } = values;
  const others = Object.values(rest).some((value) => value !== undefined && value !== false);
  if (positionals.length !== 1 || others || config === undefined) {
    return usageError('join takes --config FILE and --json, and needs the former.');
  }
  return { kind: 'join', configFile: resolve(config), json };
}

function usageError(message: string): DaemonOptions {
  return { kind: 'usage-error', message, hint: HINT };
}
