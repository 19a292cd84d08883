/** `warren mount` and `warren unmount`: ask the running daemon. */

import { resolve } from 'node:path';
import type { Command } from 'commander';
import { EXIT } from '../../daemon/protocol/release.ts';
import { withControl } from '../control-client.ts';
import { locateSocket } from '../locate.ts';
import type { Act } from '../command-context.ts';

export function addMountCommands(program: Command, act: Act): void {
  program
    .command('mount')
    .description('mount the file system at a further place')
    .requiredOption('-m, --mount <path>', 'an empty directory')
    .addHelpText('after', '\nExample: warren mount -m /mnt/warren')
    .action(
      act(async ({ options, output }, { mount: path }: { mount: string }) => {
        const mount = await withControl(locateSocket(options), (client) =>
          client.call('mount', { path: resolve(path) }),
        );
        output.text(`Mounted on ${mount.path} (${mount.driver} driver).`);
        output.data(mount);
        return EXIT.ok;
      }),
    );
  program
    .command('unmount')
    .description('unmount one place; the daemon goes on')
    .requiredOption('-m, --mount <path>', 'where it is mounted')
    .option('--force', 'also while files are open: their programs get errors')
    .addHelpText('after', '\nExample: warren unmount -m /mnt/warren')
    .action(
      act(async ({ options, output }, { mount: path, force }: { mount: string; force?: boolean }) => {
        const result = await withControl(locateSocket(options), (client) =>
          client.call('unmount', { path: resolve(path), force: force === true }),
        );
        output.text(`Unmounted ${result.path}.`);
        output.data(result);
        return EXIT.ok;
      }),
    );
}
