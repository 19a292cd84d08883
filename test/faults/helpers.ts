/** What the fault tests share: refusals of a start, damage to files, waiting for a condition. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { connectControl } from '../../console/control-client.ts';
import type { Health } from '../../daemon/protocol/control-api.ts';
import { DAEMON_MAIN, type Daemon, NODE } from '../support/target.ts';

const TIMEOUT_MS = 120_000;
const REFUSAL_TIMEOUT_MS = 30_000;
const EVENTUALLY_TIMEOUT_MS = 30_000;

export function fault(name: string, body: () => Promise<void> | void): void {
  test(name, { timeout: TIMEOUT_MS }, body);
}

/** A start that must fail soon, say why in words that match, say what to do, and mount nothing. */
export function expectRefusal(directory: string, words: RegExp, more: readonly string[] = []): void {
  expectRefusedWords(['--here', directory, ...more], words);
}

export function expectRefusedWords(words: readonly string[], expected: RegExp): void {
  const result = spawnSync(NODE, [DAEMON_MAIN, ...words], {
    encoding: 'utf8',
    timeout: REFUSAL_TIMEOUT_MS,
  });
  assert.equal(result.signal, null, `a refusal must not hang:\n${result.stdout}${result.stderr}`);
  assert.notEqual(result.status, 0, `a refusal has an exit code:\n${result.stdout}`);
  assert.match(result.stderr, expected);
  assert.match(result.stderr, /what to do:/);
  assert.doesNotMatch(result.stderr, /^\s+at .*\(.*:\d+:\d+\)$/m, 'a person wants no stack trace');
}

export function flip(path: string, offset: number): void {
  const fd = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, offset);
  byte[0]! ^= 0xff;
  writeSync(fd, byte, 0, 1, offset);
  closeSync(fd);
}

export function writeDurably(path: string, data: Buffer): void {
  const fd = openSync(path, 'w');
  writeSync(fd, data);
  fsyncSync(fd);
  closeSync(fd);
}

export async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  const limit = performance.now() + EVENTUALLY_TIMEOUT_MS;
  while (!(await holds())) {
    if (performance.now() > limit) assert.fail(`did not come true in ${EVENTUALLY_TIMEOUT_MS} ms`);
    await new Promise((resolve) => void setTimeout(resolve, 50));
  }
}

/** What `warren status` says of a running daemon. */
export async function health(daemon: Daemon): Promise<Health> {
  const client = await connectControl({ socket: daemon.socket });
  try {
    return (await client.call('status', {})).health;
  } finally {
    client.close();
  }
}
