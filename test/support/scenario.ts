/**
 * A scenario is a test with a directory of its own in the file system under test. The directory is open to every
 * user, is the working root of the scenario's names, and goes away afterwards.
 */

import assert from 'node:assert/strict';
import { chmodSync, lstatSync, mkdtempSync, rmSync, type BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { outcome, type Path } from './libc.ts';
import { openTarget } from './target.ts';

const SCENARIO_TIMEOUT_MS = 60_000;

export interface Place {
  readonly root: string;
  /** The path of a name in the scenario's directory. */
  (name: string): string;
}

export type Scenario = (name: string, body: (at: Place) => void | Promise<void>) => void;

/** Opens the file system under test for this file; call it once at the top of a test file. */
export async function openScenarios(): Promise<Scenario> {
  const target = await openTarget();
  process.umask(0o022);
  chmodSync(target.directory, 0o755);
  return (name, body) => {
    test(name, { timeout: SCENARIO_TIMEOUT_MS }, async () => {
      const root = mkdtempSync(join(target.directory, 'scenario-'));
      chmodSync(root, 0o777);
      const at: Place = Object.assign((leaf: string) => `${root}/${leaf}`, { root });
      try {
        await body(at);
      } finally {
        rmSync(root, { recursive: true, force: true });
      }
    });
  };
}

export function expect(code: string, action: () => unknown, detail = ''): void {
  assert.equal(outcome(action), code, detail);
}

/** lstat with nanoseconds. */
export function stat(path: Path): BigIntStats {
  return lstatSync(path, { bigint: true });
}

export function mode(path: Path): number {
  return Number(stat(path).mode) & 0o7777;
}

const CLOCK_WAIT_LIMIT_MS = 1000;
/** Asserts which of the times `action` moves on; `then` is the object's path afterwards. */
export function expectTimes(
  path: string,
  moved: { mtime: boolean; ctime: boolean },
  action: () => unknown,
  then = path,
): void {
  const before = stat(path);
  const young = before.ctimeNs > before.mtimeNs ? before.ctimeNs : before.mtimeNs;
  const limit = performance.now() + CLOCK_WAIT_LIMIT_MS;
  // ext4 stamps with the kernel's coarse clock (up to 10 ms): an action in the same tick would not show.
  const coarseNs = 12_000_000n;
  while (BigInt(Date.now()) * 1_000_000n < young + coarseNs) if (performance.now() > limit) break;
  action();
  const later = stat(then);
  assert.equal(later.mtimeNs > before.mtimeNs, moved.mtime, `mtime of ${path} moved`);
  assert.equal(later.ctimeNs > before.ctimeNs, moved.ctime, `ctime of ${path} moved`);
}
