import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { requirePackage } from '../support/requirements.ts';
import { hashOf, openFixture } from './harness.ts';

interface Report {
  readonly before?: number;
  readonly failure: string;
  readonly afterFailure?: number;
  readonly afterSuccess?: number;
}

/** Stores the file's content in another process, where each thread's first fdatasync answers EIO. */
async function storeWithFailingSync(directory: string, source: string): Promise<Report> {
  const script = new URL('./store-under-fault.ts', import.meta.url).pathname;
  const inject = [
    '-f',
    '-qq',
    '-o',
    '/dev/null',
    '-e',
    'trace=fdatasync',
    '-e',
    'inject=fdatasync:error=EIO:when=1',
  ];
  const options = { timeout: 30_000 };
  const run = promisify(execFile)(
    requirePackage('strace', 'strace'),
    [...inject, process.execPath, script, directory, source],
    options,
  );
  return JSON.parse((await run).stdout) as Report;
}

test('a chunk whose fdatasync failed is refused and thrown away; storing it again writes it anew', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(100_000);
  const source = join(f.directory, 'body');
  writeFileSync(source, body);
  const report = await storeWithFailingSync(f.directory, source);
  assert.match(report.failure, /^EIO/);
  assert.equal(report.afterFailure, undefined);
  assert.ok(readFileSync(f.path(hashOf(body))).equals(body));
  assert.deepEqual(f.leftovers(), []);
});

test('a chunk that was there and failed to sync is not believed at the next try but written anew', async (t) => {
  const f = await openFixture(t);
  const body = randomBytes(100_000);
  const source = join(f.directory, 'body');
  writeFileSync(source, body);
  await f.store.store(body);
  const report = await storeWithFailingSync(f.directory, source);
  assert.match(report.failure, /^EIO/);
  assert.equal(report.afterFailure, report.before);
  assert.notEqual(report.afterSuccess, report.before);
  assert.ok(readFileSync(f.path(hashOf(body))).equals(body));
  assert.deepEqual(f.leftovers(), []);
});
