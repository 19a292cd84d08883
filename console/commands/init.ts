/** `warren init` and `warren join`: make a node. Both work without a daemon. */

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { ROLES, type Role } from '../../daemon/protocol/cluster.ts';
import { readDataDirectoryFormat } from '../../daemon/protocol/data-directory-format.ts';
import { WarrenError } from '../../daemon/protocol/errors.ts';
import { initialiseNode, type NodeChoices } from '../../daemon/protocol/initialise.ts';
import { EXIT } from '../../daemon/protocol/release.ts';
import type { Act } from '../command-context.ts';
import { runWarrend } from '../run-warrend.ts';

export function addInitCommands(program: Command, act: Act): void {
  withChoices(program.command('init'))
    .description('make a data directory with a commented configuration')
    .addHelpText('after', '\nExample: warren init -d /var/lib/warren --id alpha')
    .action(
      act(({ options, output }, choices: Choices) => {
        const node = initialiseNode(nodeChoices(choices, options.socket));
        output.text(
          `Made node ${node.nodeId} in ${node.dataDirectory}.`,
          `  configuration: ${node.configFile}`,
          `  next step: set [mount] path there, then start it with`,
          `    warrend --config ${node.configFile}`,
        );
        output.data(node);
        return EXIT.ok;
      }),
    );
  addJoinCommand(program, act);
}

interface Choices {
  readonly directory: string;
  readonly id?: string;
  readonly mount?: string;
  readonly bind?: string;
  readonly advertise?: string;
  readonly role?: string;
  readonly discovery?: string;
  readonly peers?: readonly string[];
}

function withChoices(command: Command): Command {
  return command
    .requiredOption('-d, --directory <dir>', 'new or empty directory for the data')
    .option('--id <name>', 'name of this node (default: the host name)')
    .option('--role <role>', `${ROLES.join(', ')} (default: auto)`)
    .option('--mount <path>', 'where to mount (default: /mnt/warren)')
    .option('--bind <address>', 'where to listen for other nodes (default: 0.0.0.0:9500)')
    .option('--advertise <address>', 'where others reach this node (default: found out)')
    .option('--discovery <address>', 'udp://ADDRESS:PORT or none')
    .option('--peers <address...>', 'other nodes by address');
}

function nodeChoices(choices: Choices, socket: string | undefined): NodeChoices {
  const { role, ...rest } = choices;
  const known = ROLES.find((name) => name === role);
  if (role !== undefined && known === undefined) {
    throw new WarrenError({
      code: 'USAGE',
      message: `There is no role "${role}".`,
      hint: `the roles are ${ROLES.join(', ')}`,
    });
  }
  return {
    ...rest,
    ...(known === undefined ? {} : { role: known satisfies Role }),
    ...(socket === undefined ? {} : { socket }),
  };
}

/** Makes the data directory, and lets `warrend join` ask the cluster; a failed try can be repeated as it is. */
function addJoinCommand(program: Command, act: Act): void {
  withChoices(
    program.command('join').argument('<token>', 'what `warren token` printed on a node of the cluster'),
  )
    .description('make a node that belongs to an existing cluster')
    .addHelpText('after', '\nExample: warren join wtk1… -d /var/lib/warren --id beta')
    .action(
      act(async ({ options, output }, token: string, choices: Choices) => {
        const directory = resolve(choices.directory);
        const configFile = join(directory, 'config.toml');
        const before = existsSync(directory) ? readDataDirectoryFormat(directory) : undefined;
        // A try that was not admitted left the directory as this one would make it.
        if (before?.origin !== 'joining')
          initialiseNode({ ...nodeChoices(choices, options.socket), joins: true });
        const args = ['join', '--config', configFile, ...(output.json ? ['--json'] : [])];
        const code = await runWarrend(args, { WARREN_TOKEN: token });
        if (code !== EXIT.ok) return code;
        output.text(`  next step: start it with`, `    warrend --config ${configFile}`);
        return EXIT.ok;
      }),
    );
}
