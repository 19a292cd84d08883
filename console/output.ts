/**
 * What a command prints. Data goes to standard output, messages to standard error; with `--json` standard
 * output gets exactly one JSON document, which is the error when the command failed.
 */

import { writeSync } from 'node:fs';
import { styleText } from 'node:util';
import { ConfigError } from '../daemon/protocol/config.ts';
import { WarrenError } from '../daemon/protocol/errors.ts';
import { EXIT } from '../daemon/protocol/release.ts';

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];
export type Tone = 'good' | 'warning' | 'bad' | 'quiet';

export interface Output {
  readonly json: boolean;
  /** Lines for people; nothing with `--json`. */
  text(...lines: string[]): void;
  /** The result for programs; nothing without `--json`. */
  data(value: unknown): void;
  /** One line about what is going on, on standard error. */
  message(line: string): void;
  /** Overwrites one line of a terminal on standard error; nothing elsewhere. Empty: removes it. */
  progress(line: string): void;
  /** Colours for a terminal (not with NO_COLOR); plain elsewhere. Colour never carries meaning alone. */
  readonly paint: (tone: Tone, text: string) => string;
}

const STYLES = { good: 'green', warning: 'yellow', bad: 'red', quiet: 'dim' } as const;

export function openOutput(options: { json: boolean }): Output {
  const isTerminal = process.stderr.isTTY && process.env['TERM'] !== 'dumb';
  const columns = process.stderr.columns ?? 80;
  return {
    json: options.json,
    text: (...lines) => {
      if (!options.json) write(process.stdout.fd, `${lines.join('\n')}\n`);
    },
    data: (value) => {
      if (options.json) write(process.stdout.fd, `${JSON.stringify(value, null, 2)}\n`);
    },
    message: (line) => write(process.stderr.fd, `${line}\n`),
    progress: (line) => {
      if (isTerminal) write(process.stderr.fd, `\r\u001B[K${line.slice(0, columns - 1)}`);
    },
    paint: (tone, text) => styleText(STYLES[tone], text, { stream: process.stdout }),
  };
}

/** Prints an error as the format asks and answers the exit code that belongs to it. */
export function printError(output: Output, error: unknown): ExitCode {
  const known = error instanceof WarrenError ? error : undefined;
  const message = error instanceof Error ? error.message : String(error);
  const code = known?.code ?? 'INTERNAL';
  const hint = known?.hint ?? 'this is a defect of Warren; please report it with the command you used';
  if (output.json) {
    const problems = error instanceof ConfigError ? { problems: error.problems } : {};
    output.data({ error: { code, message, hint, ...problems } });
  } else {
    output.message(`${message}${hint === '' ? '' : `\n  what to do: ${hint}`}`);
    if (known === undefined && error instanceof Error) output.message(error.stack ?? '');
  }
  if (code === 'CONTROL_UNREACHABLE' || code === 'CONTROL_TIMEOUT') return EXIT.unreachable;
  return code === 'USAGE' ? EXIT.usage : EXIT.failed;
}

/**
 * Synchronous, so that the order of lines is the order of calls and nothing is lost at exit. A reader that is
 * gone (`warren … | head -1`) wants no more: the process ends quietly.
 */
function write(descriptor: number, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(descriptor, rest));
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code === 'EPIPE') process.exit(EXIT.ok);
      // A pipe that another program made non-blocking and that is full: try again in a moment.
      if (code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}
