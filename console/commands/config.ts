/** `warren config check|show|example`. Works without a daemon. */

import { resolve } from 'node:path';
import type { Command } from 'commander';
import { loadConfig } from '../../daemon/protocol/config.ts';
import { configValues, exampleConfig, tomlValue } from '../../daemon/protocol/config-example.ts';
import { CONFIG_KEYS, CONFIG_SECTIONS } from '../../daemon/protocol/config-keys.ts';
import { EXIT } from '../../daemon/protocol/release.ts';
import { locateConfig } from '../locate.ts';
import type { Act } from '../command-context.ts';

export function addConfigCommand(program: Command, act: Act): void {
  const config = program
    .command('config')
    .description('check and show the configuration')
    .addHelpText('after', '\nExample: warren config check /etc/warren/config.toml');
  config
    .command('check')
    .description('say what is wrong with a configuration, by line and key')
    .argument('[file]', 'default: --config, ./.warren/config.toml, /etc/warren/config.toml')
    .addHelpText('after', '\nExample: warren config check /var/lib/warren/config.toml')
    .action(
      act(({ options, output }, named: string | undefined) => {
        const file = named === undefined ? locateConfig(options) : resolve(named);
        loadConfig(file);
        output.text(`${file} is valid.`);
        output.data({ valid: true, file });
        return EXIT.ok;
      }),
    );
  config
    .command('show')
    .description('print every key with the value in use')
    .addHelpText('after', '\nExample: warren config show --config /etc/warren/config.toml')
    .action(
      act(({ options, output }) => {
        const file = locateConfig(options);
        const values = configValues(loadConfig(file));
        const lines = [`# ${file}`];
        const sections: Record<string, Record<string, unknown>> = {};
        for (const section of Object.keys(CONFIG_SECTIONS)) {
          lines.push('', `[${section}]`);
          const table: Record<string, unknown> = {};
          sections[section] = table;
          for (const { key } of CONFIG_KEYS) {
            const [owner, name = ''] = key.split('.');
            if (owner !== section) continue;
            table[name] = values[key];
            lines.push(`${name} = ${tomlValue(values[key])}`);
          }
        }
        output.text(...lines);
        output.data({ file, config: sections });
        return EXIT.ok;
      }),
    );
  config
    .command('example')
    .description('print a configuration with every key, its meaning and its default')
    .addHelpText('after', '\nExample: warren config example > config.toml')
    .action(
      act(({ output }) => {
        output.text(exampleConfig().trimEnd());
        output.data({
          keys: CONFIG_KEYS.map(({ key, type, meaning, change, default: value }) => ({
            key,
            type,
            default: value ?? null,
            meaning,
            change,
          })),
        });
        return EXIT.ok;
      }),
    );
}
