/**
 * Runs mount, umount and the like. Never synchronously: such a program may ask the very mount that this
 * process serves.
 */

import { type IOType, spawn } from 'node:child_process';

export interface CommandResult {
  /** Exit code; -1 when it could not start or was ended by the time limit. */
  readonly code: number;
  readonly timedOut: boolean;
  /** What it wrote to standard error, trimmed. */
  readonly message: string;
}

export function runCommand(
  command: string,
  args: string[],
  options: { timeoutMs: number; descriptor?: number },
): Promise<CommandResult> {
  return new Promise((resolve) => {
    const stdio: (IOType | number)[] = ['ignore', 'ignore', 'pipe'];
    if (options.descriptor !== undefined) stdio.push(options.descriptor);
    const child = spawn(command, args, { stdio, env: { ...process.env, LC_ALL: 'C' } });
    let message = '';
    let timedOut = false;
    const finish = (code: number): void => {
      clearTimeout(timer);
      resolve({ code, timedOut, message: message.trim() });
    };
    // A program that hangs in the kernel may not even die: do not wait for its end.
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
      child.unref();
      finish(-1);
    }, options.timeoutMs);
    child.stderr?.on('data', (chunk: Buffer) => {
      message += chunk.toString();
    });
    child.on('error', (error) => {
      message = error.message;
      finish(-1);
    });
    child.on('close', (code) => finish(code ?? -1));
  });
}
