/** Data directories: made, opened, locked between processes, refused where they must be. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { requireRoot } from '../support/requirements.ts';
import { createDataDirectory } from '../../daemon/protocol/data-directory-format.ts';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import { initialiseNode, prepareHere } from '../../daemon/protocol/initialise.ts';
import { openDataDirectory } from '../../daemon/storage/data-directory.ts';

const nodeId = 'alpha' as NodeId;
let root = '';
let directory = '';

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'warren-data-'));
  directory = join(root, 'deep', 'data');
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

test('a new directory is private, whole, and opens with its node id', () => {
  const made = createDataDirectory(directory, { nodeId });
  assert.equal(statSync(directory).mode & 0o7777, 0o700);
  assert.equal(statSync(join(root, 'deep')).mode & 0o7777, 0o755 & ~process.umask());
  const opened = openDataDirectory(directory, { nodeId });
  assert.deepEqual(opened.format, made);
  assert.match(made.clusterId, /^[0-9a-f-]{36}$/);
  opened.close();
  openDataDirectory(directory).close();
});

test('making it twice, or over other files, changes nothing', () => {
  createDataDirectory(directory, { nodeId });
  const before = readFileSync(join(directory, 'format.json'), 'utf8');
  assert.throws(() => createDataDirectory(directory, { nodeId }), { code: 'DATA_DIRECTORY_EXISTS' });
  assert.equal(readFileSync(join(directory, 'format.json'), 'utf8'), before);
  writeFileSync(join(root, 'mine'), 'x');
  assert.throws(() => createDataDirectory(root, { nodeId }), {
    code: 'DATA_DIRECTORY_NOT_EMPTY',
    message: /mine/,
  });
  assert.ok(!existsSync(join(root, 'format.json')));
  assert.throws(() => createDataDirectory(join(root, 'mine'), { nodeId }), {
    code: 'DATA_DIRECTORY_NOT_WARREN',
  });
});

test('what a crash left of an earlier try is finished', () => {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  writeFileSync(join(directory, 'format.json.new'), '{"for');
  writeFileSync(join(directory, 'config.toml'), '[node]\nid = "kept"\n');
  initialiseNode({ directory, id: 'kept' });
  assert.equal(readFileSync(join(directory, 'config.toml'), 'utf8'), '[node]\nid = "kept"\n');
  openDataDirectory(directory, { nodeId: 'kept' as NodeId }).close();
});

test('a directory that is missing, foreign, damaged, newer or of another node is refused with its own code', () => {
  assert.throws(() => openDataDirectory(directory), { code: 'DATA_DIRECTORY_MISSING' });
  assert.throws(() => openDataDirectory(root), { code: 'DATA_DIRECTORY_NOT_WARREN' });
  const format = createDataDirectory(directory, { nodeId });
  assert.throws(() => openDataDirectory(directory, { nodeId: 'beta' as NodeId }), {
    code: 'DATA_DIRECTORY_OTHER_NODE',
    message: /"alpha".*"beta"/,
  });
  const file = join(directory, 'format.json');
  writeFileSync(file, JSON.stringify({ ...format, version: 2 }));
  assert.throws(() => openDataDirectory(directory), {
    code: 'DATA_DIRECTORY_NEWER',
    message: /data format 2/,
  });
  for (const text of ['', '{', '{"format":"other","version":1}']) {
    writeFileSync(file, text);
    assert.throws(() => openDataDirectory(directory), { code: 'DATA_DIRECTORY_DAMAGED' }, text);
  }
});

test('wrong permissions are refused with the command that puts them right', () => {
  createDataDirectory(directory, { nodeId });
  chmodSync(directory, 0o755);
  assert.throws(() => openDataDirectory(directory), {
    code: 'DATA_DIRECTORY_PERMISSIONS',
    hint: /chmod 700/,
  });
  chmodSync(directory, 0o700);
  if (process.getuid?.() === 0) {
    chownSync(directory, 12_345, -1);
    assert.throws(() => openDataDirectory(directory), {
      code: 'DATA_DIRECTORY_PERMISSIONS',
      message: /owner 12345/,
    });
  }
});

test('a read-only disk is named as such, for opening and for making', () => {
  requireRoot();
  createDataDirectory(directory, { nodeId });
  execFileSync('mount', ['--bind', root, root]);
  try {
    execFileSync('mount', ['-o', 'remount,bind,ro', root]);
    assert.throws(() => openDataDirectory(directory), { code: 'DATA_DIRECTORY_READ_ONLY', hint: /dmesg/ });
    const other = join(root, 'other');
    assert.throws(() => createDataDirectory(other, { nodeId }), { code: 'DATA_DIRECTORY_READ_ONLY' });
  } finally {
    execFileSync('umount', [root]);
  }
});

test('a second opening fails and names the holder; a killed holder frees the lock', async () => {
  createDataDirectory(directory, { nodeId });
  const module = new URL('../../daemon/storage/data-directory.ts', import.meta.url).href;
  const script = `import { openDataDirectory } from ${JSON.stringify(module)};
    openDataDirectory(process.argv[1]); console.log('held'); setInterval(() => {}, 1000);`;
  const holder = spawn(process.execPath, ['--input-type=module', '-e', script, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(holder.stdout, 'data');
    assert.throws(() => openDataDirectory(directory), {
      code: 'DATA_DIRECTORY_IN_USE',
      message: new RegExp(`process ${holder.pid}`),
    });
  } finally {
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  }
  const opened = openDataDirectory(directory);
  assert.throws(() => openDataDirectory(directory), { code: 'DATA_DIRECTORY_IN_USE' });
  opened.close();
  openDataDirectory(directory).close();
});

test('the place of `npm start` is made once and found again', () => {
  const here = join(root, 'here');
  const first = prepareHere(here);
  assert.equal(first.isNew, true);
  assert.equal(first.config.node.dataDirectory, join(here, 'data'));
  assert.equal(first.config.mount.path, join(here, 'mnt'));
  assert.equal(first.config.control.socket, join(here, 'control.sock'));
  assert.equal(statSync(here).mode & 0o777, 0o755 & ~process.umask());
  const second = prepareHere(here);
  assert.deepEqual([second.isNew, second.config], [false, first.config]);
  // Without its configuration, the data keeps its name.
  rmSync(join(here, 'config.toml'));
  assert.deepEqual(prepareHere(here).config, first.config);
  openDataDirectory(first.config.node.dataDirectory, { nodeId: first.config.node.id }).close();
});
