/**
 * What a test needs of the machine. A missing part fails the test with a sentence that says what to install:
 * a test that skips itself proves nothing and nobody notices.
 */

import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

export function requireRoot(): void {
  if (process.getuid?.() !== 0)
    throw new Error('This test needs root (it mounts and changes owners): run it with sudo.');
}

export function requireFuse(): void {
  if (!existsSync('/dev/fuse')) {
    throw new Error(
      'This test needs /dev/fuse: run "modprobe fuse", or give it to the container (LXC: features fuse=1).',
    );
  }
}

const EXTRA_PLACES = [
  '/usr/sbin',
  '/sbin',
  '/usr/lib/postgresql/15/bin',
  '/usr/lib/postgresql/16/bin',
  '/usr/lib/postgresql/17/bin',
];

/** The full path of `binary`; Debian package `packageName` brings it. */
export function requirePackage(binary: string, packageName: string): string {
  for (const place of [...(process.env['PATH'] ?? '').split(delimiter), ...EXTRA_PLACES]) {
    const path = join(place, binary);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      continue;
    }
  }
  throw new Error(`This test needs the program "${binary}": run "apt-get install ${packageName}".`);
}

/** Runs a program and answers its standard output; a failure shows both its streams. */
export function run(
  program: string,
  words: readonly string[],
  options: { cwd?: string; timeoutMs?: number; input?: string; env?: Record<string, string> } = {},
): string {
  try {
    return execFileSync(program, words, {
      encoding: 'utf8',
      timeout: options.timeoutMs ?? 120_000,
      maxBuffer: 256 << 20,
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.input === undefined ? {} : { input: options.input }),
      env: { ...process.env, LC_ALL: 'C', ...options.env },
    });
  } catch (error) {
    const failed = error as { stdout?: string; stderr?: string; message: string };
    throw new Error(
      `${program} ${words.join(' ')}: ${failed.message}\n${failed.stdout ?? ''}\n${failed.stderr ?? ''}`,
      {
        cause: error,
      },
    );
  }
}
