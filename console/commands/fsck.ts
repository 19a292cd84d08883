/**
 * `warren fsck`. A running daemon holds its data directory, so it is asked to check itself; a stopped one's
 * data is checked by `warrend fsck`, a process of its own, because the console does not contain the daemon.
 */

import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Progress } from '../../daemon/protocol/control-api.ts';
import { WarrenError } from '../../daemon/protocol/errors.ts';
import { fsckLines } from '../../daemon/protocol/fsck-report.ts';
import { EXIT } from '../../daemon/protocol/release.ts';
import { printable } from '../../daemon/protocol/text.ts';
import { formatCount } from '../../daemon/protocol/units.ts';
import { type ControlClient, connectControl } from '../control-client.ts';
import { locateConfig, locateSocket } from '../locate.ts';
import type { ExitCode, Output } from '../output.ts';
import { runWarrend } from '../run-warrend.ts';
import type { Act, CommandContext } from '../command-context.ts';

interface FsckOptions {
  readonly repair?: boolean;
  readonly data?: boolean;
  readonly directory?: string;
}

export function addFsckCommand(program: Command, act: Act): void {
  program
    .command('fsck')
    .description('check that everything stored is whole')
    .option('--repair', 'put right what is safe to put right (stop the daemon first)')
    .option('--data', 'also read every chunk and compare its hash (takes long)')
    .option(
      '-d, --directory <dir>',
      'data directory of a stopped daemon (default: the one in the configuration)',
    )
    .addHelpText(
      'after',
      '\nEnds with 1 when something is wrong and was not repaired.\n\nExample: warren fsck --data',
    )
    .action(act((context, options: FsckOptions) => fsck(context, options)));
}

async function fsck(context: CommandContext, options: FsckOptions): Promise<ExitCode> {
  if (options.directory !== undefined) return checkStopped(context, options);
  const socket = locateSocket(context.options);
  const client = await connectIfRunning(socket);
  if (client === undefined) return checkStopped(context, options);
  try {
    if (options.repair === true) {
      throw new WarrenError({
        code: 'FSCK_DAEMON_RUNNING',
        message: `A daemon answers on ${socket}; repairs need its data to be at rest. Nothing was changed.`,
        hint: 'stop the daemon (Ctrl+C or SIGTERM), run `warren fsck --repair`, and start it again',
      });
    }
    return await checkRunning(client, context.output, options.data === true);
  } finally {
    client.close();
  }
}

async function connectIfRunning(socket: string): Promise<ControlClient | undefined> {
  try {
    return await connectControl({ socket });
  } catch (error) {
    if (error instanceof WarrenError && error.code === 'CONTROL_UNREACHABLE') return undefined;
    throw error;
  }
}

async function checkRunning(client: ControlClient, output: Output, data: boolean): Promise<ExitCode> {
  const interrupted = new AbortController();
  const onInterrupt = (): void => interrupted.abort();
  process.once('SIGINT', onInterrupt);
  try {
    const result = await client.call(
      'fsck',
      { data },
      {
        timeoutMs: Number.POSITIVE_INFINITY,
        signal: interrupted.signal,
        onProgress: (progress) => output.progress(progressLine(progress)),
      },
    );
    output.progress('');
    output.text(...fsckLines(result));
    output.data(result);
    return result.clean || result.findings.every((finding) => finding.state === 'repaired')
      ? EXIT.ok
      : EXIT.failed;
  } finally {
    output.progress('');
    process.off('SIGINT', onInterrupt);
  }
}

async function checkStopped(context: CommandContext, options: FsckOptions): Promise<ExitCode> {
  const source =
    options.directory === undefined
      ? ['--config', locateConfig(context.options)]
      : ['-d', resolve(options.directory)];
  const args = ['fsck', ...source];
  if (options.repair === true) args.push('--repair');
  if (options.data === true) args.push('--data');
  if (context.output.json) args.push('--json');
  return runWarrend(args, {});
}

function progressLine(progress: Progress): string {
  const share = progress.total === 0 ? '' : ` ${Math.floor((100 * progress.done) / progress.total)} %`;
  return `${printable(progress.phase)}: ${formatCount(progress.done)}${share}`;
}
