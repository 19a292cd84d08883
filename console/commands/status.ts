/** `warren status`: is my data safe, what is wrong, what do I do. */

import type { Command } from 'commander';
import { EXIT } from '../../daemon/protocol/release.ts';
import { withControl } from '../control-client.ts';
import { locateSocket } from '../locate.ts';
import type { Act } from '../command-context.ts';
import { statusLines } from '../status-text.ts';

const STATUS_TIMEOUT_MS = 10_000;

export function addStatusCommand(program: Command, act: Act): void {
  program
    .command('status')
    .description('say whether the data is safe, what is wrong and what to do')
    .addHelpText(
      'after',
      '\nEnds with 3 when degraded and with 4 when no daemon answers.\n\nExample: warren status --json',
    )
    .action(
      act(async ({ options, output }) => {
        const status = await withControl(locateSocket(options), (client) =>
          client.call('status', {}, { timeoutMs: STATUS_TIMEOUT_MS }),
        );
        output.text(...statusLines(status, output.paint));
        output.data(status);
        return status.health.state === 'healthy' ? EXIT.ok : EXIT.degraded;
      }),
    );
}
