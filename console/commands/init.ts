/** `warren init`: makes a node. Works without a daemon. */

import type { Command } from 'commander';
import { initialiseNode } from '../../daemon/protocol/initialise.ts';
import { EXIT } from '../../daemon/protocol/release.ts';
import type { Act } from '../command-context.ts';

export function addInitCommand(program: Command, act: Act): void {
  program
    .command('init')
    .description('make a data directory with a commented configuration')
    .requiredOption('-d, --directory <dir>', 'new or empty directory for the data')
    .option('--id <name>', 'name of this node (default: the host name)')
    .addHelpText('after', '\nExample: warren init -d /var/lib/warren --id alpha')
    .action(
      act(({ options, output }, { directory, id }: { directory: string; id?: string }) => {
        const node = initialiseNode({
          directory,
          ...(id === undefined ? {} : { id }),
          ...(options.socket === undefined ? {} : { socket: options.socket }),
        });
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
}
