/** `warren version`: of this program and of the daemon. */

import type { Command } from 'commander';
import { systemErrorCode, WarrenError } from '../../daemon/protocol/errors.ts';
import { EXIT, RELEASE } from '../../daemon/protocol/release.ts';
import { withControl } from '../control-client.ts';
import { type GlobalOptions, locateSocket } from '../locate.ts';
import type { Act } from '../command-context.ts';

const VERSION_TIMEOUT_MS = 3000;

export function addVersionCommand(program: Command, act: Act): void {
  program
    .command('version')
    .description('print the release of warren and of the running daemon')
    .addHelpText('after', '\nExample: warren version')
    .action(
      act(async ({ options, output }) => {
        const daemon = await daemonVersion(options);
        output.text(
          `warren  ${RELEASE} (Node.js ${process.versions.node})`,
          daemon === undefined
            ? 'warrend is not running'
            : `warrend ${daemon.version} (Node.js ${daemon.node})`,
        );
        if (daemon !== undefined && daemon.version !== RELEASE) {
          output.message(
            `warren ${RELEASE} talks to warrend ${daemon.version}: restart the daemon after an upgrade`,
          );
        }
        output.data({ version: RELEASE, node: process.versions.node, daemon: daemon ?? null });
        return EXIT.ok;
      }),
    );
}

async function daemonVersion(
  options: GlobalOptions,
): Promise<{ version: string; node: string; api: number } | undefined> {
  try {
    return await withControl(locateSocket(options), (client) =>
      client.call('version', {}, { timeoutMs: VERSION_TIMEOUT_MS }),
    );
  } catch (error) {
    if (error instanceof WarrenError && systemErrorCode(error) === 'CONTROL_UNREACHABLE') return undefined;
    throw error;
  }
}
