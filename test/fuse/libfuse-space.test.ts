/** The libfuse driver over a real data directory: what is removed is freed while the mount lives. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { connectControl } from '../../console/control-client.ts';
import { prepareHere } from '../../daemon/protocol/initialise.ts';
import { eventually } from '../faults/helpers.ts';
import { startDaemon } from '../support/target.ts';

const TEST_TIMEOUT_MS = 120_000;
const FILES = 8;
const LARGE_BYTES = 200_000;
const SMALL_BYTES = 100;

const directory = fs.mkdtempSync(join(tmpdir(), 'warren-test-'));
const stack = new AsyncDisposableStack();
after(() => stack.disposeAsync());
stack.defer(() => fs.rmSync(directory, { recursive: true, force: true }));
const { configFile } = prepareHere(directory);
const config = fs.readFileSync(configFile, 'utf8');
fs.writeFileSync(configFile, config.replace(/^#? ?driver = .*$/m, 'driver = "libfuse"'));
const daemon = stack.use(await startDaemon({ directory }));
const client = await connectControl({ socket: daemon.socket });
stack.defer(() => client.close());

test('space of removed files is freed while mounted, and an open one is readable until it is closed', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  const { mounts, usage: before } = await client.call('status', {});
  assert.deepEqual(
    mounts.map(({ driver }) => driver),
    ['libfuse'],
  );
  const at = (name: string) => join(daemon.mount, name);
  const held = randomBytes(LARGE_BYTES);
  fs.mkdirSync(at('folder'));
  fs.writeFileSync(at('held'), held);
  for (let number = 0; number < FILES; number++) {
    fs.writeFileSync(at(`large-${number}`), randomBytes(LARGE_BYTES));
    fs.writeFileSync(at(`small-${number}`), randomBytes(SMALL_BYTES));
    fs.writeFileSync(at(`over-${number}`), randomBytes(LARGE_BYTES));
  }
  const { usage: full } = await client.call('status', {});
  assert.equal(full.files - before.files, 2 + 3 * FILES);
  assert.equal(full.chunks - before.chunks, 1 + 3 * FILES);
  assert.equal(chunkFiles(), 1 + 2 * FILES);

  const descriptor = fs.openSync(at('held'), 'r');
  fs.rmSync(at('held'));
  fs.rmdirSync(at('folder'));
  for (let number = 0; number < FILES; number++) {
    fs.rmSync(at(`large-${number}`));
    // A rename over a file removes it too.
    fs.renameSync(at(`small-${number}`), at(`over-${number}`));
    fs.rmSync(at(`over-${number}`));
  }
  await eventually(async () => {
    const { usage } = await client.call('status', {});
    return usage.files === before.files + 1 && usage.chunks === before.chunks + 1;
  });
  // Chunks go a little later than the last that named them.
  await eventually(() => chunkFiles() === 1);
  const read = Buffer.alloc(LARGE_BYTES);
  assert.equal(fs.readSync(descriptor, read, 0, LARGE_BYTES, 0), LARGE_BYTES);
  assert.ok(read.equals(held));

  fs.closeSync(descriptor);
  await eventually(async () => (await client.call('status', {})).usage.files === before.files);
  await eventually(() => chunkFiles() === 0);
});

function chunkFiles(): number {
  return fs
    .readdirSync(join(daemon.dataDirectory, 'chunks'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile()).length;
}
