/**
 * Which daemon and which configuration a command means. The first that is given or exists counts.
 */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { loadConfig } from '../daemon/protocol/config.ts';
import { DEFAULT_CONFIG_FILE, DEFAULT_CONTROL_SOCKET } from '../daemon/protocol/config-keys.ts';

export interface GlobalOptions {
  readonly json?: boolean;
  readonly socket?: string;
  readonly config?: string;
}

/** --socket, $WARREN_SOCKET, [control] socket of --config, ./.warren/control.sock, the default. */
export function locateSocket(options: GlobalOptions): string {
  if (options.socket !== undefined) return resolve(options.socket);
  const fromEnvironment = process.env['WARREN_SOCKET'];
  if (fromEnvironment !== undefined && fromEnvironment !== '') return resolve(fromEnvironment);
  if (options.config !== undefined) return loadConfig(resolve(options.config)).control.socket;
  const here = resolve('.warren/control.sock');
  return existsSync(here) ? here : DEFAULT_CONTROL_SOCKET;
}

/** --config, ./.warren/config.toml, the default. */
export function locateConfig(options: GlobalOptions): string {
  if (options.config !== undefined) return resolve(options.config);
  const here = resolve('.warren/config.toml');
  return existsSync(here) ? here : DEFAULT_CONFIG_FILE;
}
