/**
 * The configuration as text: the commented example, and the table for the README. Both are made from
 * CONFIG_KEYS. In the example a key that is left at its default is commented out, so that a later release may
 * change the default for those who never chose.
 */

import type { Config } from './config.ts';
import { CONFIG_KEYS, CONFIG_SECTIONS, type ConfigKey, type ConfigKeyName } from './config-keys.ts';
import { formatDuration } from './units.ts';

type Value = string | number | boolean | readonly string[];
/** Keys to write with these values; all others stand there as comments with their defaults. */
export type ConfigValues = Partial<Record<ConfigKeyName, Value>>;

const COMMENT_WIDTH = 96;

export function exampleConfig(values: ConfigValues = {}): string {
  const lines = [
    '# Configuration of Warren. A line that starts with "#" and a key shows the default.',
    '# Check it with `warren config check FILE`.',
  ];
  for (const [section, meaning] of Object.entries(CONFIG_SECTIONS)) {
    lines.push('', ...comment(meaning), `[${section}]`);
    for (const definition of CONFIG_KEYS as readonly ConfigKey[]) {
      const [owner, name] = definition.key.split('.');
      if (owner !== section) continue;
      const given = values[definition.key as ConfigKeyName];
      const shown = given ?? definition.default ?? 'HOST-NAME';
      const assignment = `${name} = ${tomlValue(shown)}`;
      lines.push(
        '',
        ...comment(definition.meaning),
        ...comment(`Value: ${definition.type}.`),
        given === undefined ? `# ${assignment}` : assignment,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

/** The keys as a Markdown table. */
export function configTable(): string {
  const rows = (CONFIG_KEYS as readonly ConfigKey[]).map((definition) => {
    const [section, name] = definition.key.split('.');
    const value = definition.default === undefined ? 'host name' : `\`${tomlValue(definition.default)}\``;
    return `| \`[${section}] ${name}\` | ${value} | ${definition.meaning} |`;
  });
  return ['| key | default | meaning |', '|---|---|---|', ...rows].join('\n');
}

/** A configuration as keys and values, in the words of the file (`warren config show`). */
export function configValues(config: Config): Record<ConfigKeyName, Value> {
  return {
    'node.id': config.node.id,
    'node.role': config.node.role,
    'node.bind': config.node.bind,
    'node.advertise': config.node.advertise,
    'node.data_dir': config.node.dataDirectory,
    'cluster.name': config.cluster.name,
    'cluster.election': config.cluster.election,
    'cluster.discovery': config.cluster.discovery,
    'cluster.peers': config.cluster.peers,
    'replication.mode': config.replication.mode,
    'replication.factor': config.replication.factor,
    'replication.chunk_size': config.replication.chunkBytes,
    'mount.path': config.mount.path,
    'mount.allow_other': config.mount.allowOther,
    'mount.driver': config.mount.driver,
    'mount.timeout': durationText(config.mount.timeoutMs),
    'control.socket': config.control.socket,
    'log.level': config.log.level,
    'log.format': config.log.format,
  };
}

/** A value in TOML's spelling. JSON's strings, numbers, booleans and lists of strings are TOML's too. */
export function tomlValue(value: Value): string {
  return Array.isArray(value)
    ? `[${value.map((item) => JSON.stringify(item)).join(', ')}]`
    : JSON.stringify(value);
}

function durationText(ms: number): string {
  if (ms % 1000 !== 0) return `${ms}ms`;
  return ms < 60_000 ? formatDuration(ms).replace(' ', '') : `${ms / 1000}s`;
}

function comment(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + 1 + word.length > COMMENT_WIDTH) {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
