/**
 * The command tree of `warren`. Help, shell completion and the README's table are made from it.
 *
 * A command is registered by a file in commands/; its action answers an exit code. Errors end here, in one
 * place, so that every command fails in the same way: a sentence and a next step, or JSON.
 */

import { Command, CommanderError } from 'commander';
import { WarrenError } from '../daemon/protocol/errors.ts';
import { EXIT, RELEASE } from '../daemon/protocol/release.ts';
import { addClusterCommands } from './commands/cluster.ts';
import { addCompletionCommand } from './commands/completion.ts';
import { addConflictCommands } from './commands/conflicts.ts';
import { addConfigCommand } from './commands/config.ts';
import { addFsckCommand } from './commands/fsck.ts';
import { addInitCommands } from './commands/init.ts';
import { addMountCommands } from './commands/mount.ts';
import { addStatusCommand } from './commands/status.ts';
import { addVersionCommand } from './commands/version.ts';
import type { Act } from './command-context.ts';
import type { GlobalOptions } from './locate.ts';
import { type ExitCode, openOutput, printError } from './output.ts';

/** Runs one command line (without program and script); answers the exit code. */
export async function runCommandLine(argv: readonly string[]): Promise<number> {
  // Commander complains before it has read all options.
  const asksJson = argv.includes('--json');
  let exitCode: number = EXIT.ok;
  const program = buildProgram((code) => {
    exitCode = code;
  });
  let complaint = '';
  configureAll(program, (command) => {
    command.exitOverride().configureOutput({
      writeOut: (text) => openOutput({ json: false }).text(text.replace(/\n$/, '')),
      writeErr: (text) => {
        complaint += text;
      },
    });
  });
  if (argv.filter((word) => !word.startsWith('--json')).length === 0) {
    program.outputHelp();
    return EXIT.ok;
  }
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (error) {
    const output = openOutput({ json: asksJson });
    if (!(error instanceof CommanderError)) return printError(output, error);
    if (error.exitCode === 0) return EXIT.ok;
    return printError(output, usageError(error, complaint));
  }
}

/** The tree; `finish` takes the exit code of the command that ran. */
export function buildProgram(finish: (code: ExitCode) => void): Command {
  const program = new Command('warren')
    .description('Warren: one file system from the disks of a few Linux machines.')
    .option('--json', 'print the result as JSON (messages stay on standard error)')
    .option('--socket <path>', 'control socket of the daemon')
    .option('--config <file>', 'configuration file')
    .version(RELEASE, '-V, --version', 'print the release of warren')
    .helpCommand('help [command]', 'show help for a command')
    .showHelpAfterError(false)
    .configureHelp({ showGlobalOptions: true, helpWidth: 80 })
    .addHelpText(
      'after',
      '\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 degraded, 4 daemon unreachable.' +
        '\nThe socket is the first of: --socket, $WARREN_SOCKET, the one in --config,' +
        '\n./.warren/control.sock, /run/warren/control.sock.' +
        '\n\nExample: warren status',
    );
  const act: Act = (run) => {
    return async (...args) => {
      const command = args.at(-1) as Command;
      const options: GlobalOptions = command.optsWithGlobals();
      const output = openOutput({ json: options.json === true });
      // Commander ends the arguments with the command itself.
      finish(await run({ options, output }, ...(args.slice(0, -1) as never)));
    };
  };
  addInitCommands(program, act);
  addStatusCommand(program, act);
  addClusterCommands(program, act);
  addConflictCommands(program, act);
  addMountCommands(program, act);
  addFsckCommand(program, act);
  addConfigCommand(program, act);
  addVersionCommand(program, act);
  addCompletionCommand(program, act);
  return program;
}

/** Every command of the tree: subcommands inherit settings only where commander made them by itself. */
function configureAll(command: Command, apply: (command: Command) => void): void {
  apply(command);
  for (const child of command.commands) configureAll(child, apply);
}

function usageError(error: CommanderError, complaint: string): WarrenError {
  // A group without its subcommand prints its help as a complaint.
  const isHelp = error.code === 'commander.help';
  const message = isHelp ? complaint.trimEnd() : error.message.replace(/^error: /, '').replace(/\n/g, ' ');
  return new WarrenError({
    code: 'USAGE',
    message,
    hint: '`warren help` shows every command, `--help` each one',
  });
}
