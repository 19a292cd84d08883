/** What the files in commands/ are given; program.ts makes it. */

import type { Command } from 'commander';
import type { GlobalOptions } from './locate.ts';
import type { ExitCode, Output } from './output.ts';

/** What an action works with. */
export interface CommandContext {
  readonly options: GlobalOptions;
  readonly output: Output;
}

/** Wraps an action: `run` gets the context and commander's arguments (operands, then options). */
export type Act = <Arguments extends unknown[]>(
  run: (context: CommandContext, ...args: Arguments) => ExitCode | Promise<ExitCode>,
) => (...args: [...Arguments, Command]) => Promise<void>;
