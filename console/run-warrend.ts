/** Runs `warrend` for what the console does not contain: checks of stopped data, joining a cluster. */

import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { WarrenError } from '../daemon/protocol/errors.ts';
import { EXIT } from '../daemon/protocol/release.ts';
import type { ExitCode } from './output.ts';

/** Hands terminal and exit code through. $WARREND names a warrend that lies elsewhere. Errors: WARREND_NOT_FOUND. */
export async function runWarrend(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<ExitCode> {
  const ending = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
  const main = fileURLToPath(new URL(`../daemon/main${ending}`, import.meta.url));
  const named = process.env['WARREND'];
  const [program, ...programArgs] = named === undefined || named === '' ? [process.execPath, main] : [named];
  const child = spawn(program ?? process.execPath, [...programArgs, ...args], {
    stdio: 'inherit',
    env: { ...process.env, ...environment },
  });
  // The terminal sends Ctrl+C to both; the child decides, and its exit code is ours.
  const ignore = (): void => {};
  process.on('SIGINT', ignore);
  try {
    return await new Promise<ExitCode>((resolve, reject) => {
      child.once('error', (error) => reject(startError(program ?? '', error)));
      child.once('exit', (code, signal) => {
        resolve((signal === null ? (code ?? EXIT.failed) : 128 + constants.signals[signal]) as ExitCode);
      });
    });
  } finally {
    process.off('SIGINT', ignore);
  }
}

function startError(program: string, error: Error): WarrenError {
  return new WarrenError({
    code: 'WARREND_NOT_FOUND',
    message: `${program} could not be started: ${error.message}.`,
    hint: 'install the whole release, or name the program in $WARREND',
    cause: error,
  });
}
