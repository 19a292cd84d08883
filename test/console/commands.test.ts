/** Every command as a process: what it prints where, and its exit code. */

import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { statusLines } from '../../console/status-text.ts';
import type { Finding } from '../../daemon/protocol/control-api.ts';
import { RELEASE } from '../../daemon/protocol/release.ts';
import { CLEAN_FSCK, STATUS, startFixture } from '../control/fixture.ts';
import { warren } from './warren.ts';

let root = '';
before(() => {
  root = mkdtempSync(join(tmpdir(), 'warren-cli-'));
});
after(() => rmSync(root, { recursive: true, force: true }));

test('bare warren and every --help print help that fits 80 columns, with an example', async () => {
  const commands = [
    '',
    'init',
    'status',
    'mount',
    'unmount',
    'fsck',
    'config',
    'config check',
    'config show',
  ];
  commands.push('config example', 'version', 'completion');
  for (const command of commands) {
    const words = command === '' ? [] : [...command.split(' '), '--help'];
    const run = await warren(words);
    assert.equal(run.code, 0, command);
    assert.equal(run.stderr, '');
    assert.match(run.stdout, /^Usage: warren/);
    assert.match(run.stdout, /Examples?:/, command);
    assert.ok(
      run.stdout.split('\n').every((line) => line.length <= 80),
      run.stdout,
    );
  }
});

test('wrong usage ends with 2, in words or as JSON', async () => {
  for (const line of [
    'bogus',
    'mount',
    'init',
    'status --bogus',
    'status extra',
    'config',
    'completion csh',
    'mount -m',
  ]) {
    const run = await warren(line.split(' '));
    assert.equal(run.code, 2, line);
    assert.equal(run.stdout, '');
    assert.match(run.stderr, /what to do: /);
  }
  const run = await warren(['mount', '--json']);
  assert.equal(run.code, 2);
  assert.equal(run.stderr, '');
  assert.deepEqual(Object.keys(JSON.parse(run.stdout).error), ['code', 'message', 'hint']);
  assert.match((await warren(['statsu'])).stderr, /Did you mean status\?/);
});

test('without a daemon: exit code 4 with the socket and how to start', async () => {
  for (const line of ['status', 'mount -m /x', 'unmount -m /x']) {
    const run = await warren([...line.split(' '), '--socket', '/none/c.sock']);
    assert.equal(run.code, 4, line);
    assert.match(run.stderr, /No daemon answers on \/none\/c\.sock.*\n.*warrend --config/);
  }
  const json = await warren(['status', '--json', '--socket', '/none/c.sock']);
  assert.equal(json.code, 4);
  assert.equal(JSON.parse(json.stdout).error.code, 'CONTROL_UNREACHABLE');
  const version = await warren(['version', '--socket', '/none/c.sock']);
  assert.deepEqual([version.code, version.stderr], [0, '']);
  assert.match(version.stdout, new RegExp(`^warren  ${RELEASE} .*\nwarrend is not running\n$`));
});

test('status says first whether the data is safe; degraded ends with 3', async () => {
  let status = STATUS;
  await using fixture = await startFixture({ status: () => status });
  const args = ['status', '--socket', fixture.socketPath];
  const healthy = await warren(args);
  assert.equal(healthy.code, 0);
  assert.match(healthy.stdout, /^✓ Your data is safe\. Healthy\.\n/);
  assert.ok(!healthy.stdout.includes('\u001b'));
  const json = await warren([...args, '--json']);
  assert.deepEqual(JSON.parse(json.stdout), STATUS);
  const reason = 'The disk is nearly full.';
  status = { ...STATUS, health: { state: 'degraded', dataSafe: true, reason, nextStep: 'Free space.' } };
  const degraded = await warren(args);
  assert.equal(degraded.code, 3);
  assert.match(
    degraded.stdout,
    /^! Your data is safe\. Degraded\.\n {2}why: The disk .*\n {2}what to do: Free space\.\n/,
  );
  status = { ...STATUS, health: { state: 'read-only', dataSafe: false, reason, nextStep: '' }, mounts: [] };
  const readOnly = await warren(args);
  assert.equal(readOnly.code, 3);
  assert.match(readOnly.stdout, /^✗ Your data is at risk\. Read-only/);
  assert.match(readOnly.stdout, /none; mount it with/);
});

test('status lines fit 80 columns and carry no control characters of the daemon', () => {
  const lines = statusLines({ ...STATUS, nodeId: 'a\u001b[31m\n' }, (_, text) => text);
  assert.ok(lines.every((line) => line.length <= 80 && !/\p{Cc}/u.test(line)));
});

test('mount and unmount ask the daemon with absolute paths', async () => {
  await using fixture = await startFixture();
  const socket = ['--socket', fixture.socketPath];
  const mount = await warren(['mount', '-m', 'mnt', ...socket], { cwd: root });
  assert.deepEqual([mount.code, mount.stdout], [0, `Mounted on ${root}/mnt (kernel driver).\n`]);
  const busy = await warren(['unmount', '-m', '/mnt', ...socket]);
  assert.deepEqual([busy.code, busy.stdout], [1, '']);
  assert.equal(busy.stderr, '/mnt is in use.\n  what to do: close the files\n');
  const forced = await warren(['unmount', '-m', '/mnt', '--force', '--json', ...socket]);
  assert.deepEqual([forced.code, JSON.parse(forced.stdout)], [0, { path: '/mnt' }]);
  assert.deepEqual(fixture.calls, [`mount ${root}/mnt`, 'unmount /mnt false', 'unmount /mnt true']);
});

test('the socket is found by option, environment, configuration, place', async () => {
  await using fixture = await startFixture();
  const config = join(root, 'socket.toml');
  writeFileSync(config, `[control]\nsocket = "${fixture.socketPath}"\n`);
  const environment = { WARREN_SOCKET: fixture.socketPath };
  assert.equal((await warren(['status'], { environment })).code, 0);
  assert.equal((await warren(['status', '--socket', '/none'], { environment })).code, 4);
  assert.equal((await warren(['status', '--config', config])).code, 0);
  assert.equal(
    (await warren(['--config', config, 'status'], { environment: { WARREN_SOCKET: '/none' } })).code,
    4,
  );
  const place = join(root, 'place');
  mkdirSync(join(place, '.warren'), { recursive: true });
  symlinkSync(fixture.socketPath, join(place, '.warren/control.sock'));
  assert.equal((await warren(['status'], { cwd: place })).code, 0);
});

test('fsck asks a running daemon, refuses to repair under it, and reports findings', async () => {
  let findings: Finding[] = [];
  await using fixture = await startFixture({
    fsck: () => ({ ...CLEAN_FSCK, clean: findings.length === 0, findings }),
  });
  const args = ['fsck', '--socket', fixture.socketPath];
  const clean = await warren(args);
  assert.equal(clean.code, 0);
  assert.match(clean.stdout, /^✓ Everything is whole\.\n {2}checked 5 inodes/);
  const repair = await warren([...args, '--repair']);
  assert.equal(repair.code, 1);
  assert.match(repair.stderr, /Nothing was changed\.\n {2}what to do: stop the daemon/);
  findings = [
    { code: 'link-count', message: 'inode 5 has 2 names and says 3', state: 'safe' },
    { code: 'chunk-missing', message: '/a\u001b needs a chunk that is gone', state: 'loss' },
  ];
  const bad = await warren(args);
  assert.equal(bad.code, 1);
  assert.match(
    bad.stdout,
    /2 findings:\n {2}link-count: .*can be repaired\)\n {2}chunk-missing: .*DATA LOST\)/,
  );
  assert.match(bad.stdout, /warren fsck --repair/);
  assert.ok(!bad.stdout.includes('\u001b'));
  findings = [{ code: 'link-count', message: 'x', state: 'repaired' }];
  assert.equal((await warren(args)).code, 0);
});

test('fsck of a stopped daemon runs warrend and hands output and exit code through', async () => {
  const fake = join(root, 'warrend');
  writeFileSync(fake, '#!/bin/sh\necho "$@"\nexit 3\n', { mode: 0o755 });
  const environment = { WARREND: fake };
  const config = join(root, 'stopped.toml');
  writeFileSync(config, '[control]\nsocket = "/none/c.sock"\n');
  const run = await warren(['fsck', '--repair', '--data', '--json', '--config', config], { environment });
  assert.deepEqual([run.code, run.stdout], [3, `fsck --config ${config} --repair --data --json\n`]);
  const directory = await warren(['fsck', '-d', 'data'], { environment, cwd: root });
  assert.deepEqual([directory.code, directory.stdout], [3, `fsck -d ${root}/data\n`]);
  const missing = await warren(['fsck', '-d', '/x'], { environment: { WARREND: '/none/warrend' } });
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /\/none\/warrend could not be started/);
});

test('init makes a node once; config check and show understand what it made', async () => {
  const directory = join(root, 'data');
  const made = await warren(['init', '-d', 'data', '--id', 'beta'], { cwd: root });
  assert.equal(made.code, 0, made.stderr);
  assert.match(made.stdout, /^Made node beta in .*\/data\.\n/);
  assert.deepEqual(readdirSync(directory).sort(), ['config.toml', 'format.json']);
  const config = join(directory, 'config.toml');
  const text = readFileSync(config, 'utf8');
  const again = await warren(['init', '-d', directory, '--id', 'gamma']);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /already; nothing was changed/);
  assert.equal(readFileSync(config, 'utf8'), text);
  assert.equal((await warren(['init', '-d', join(root, 'x'), '--id', 'a/b'])).code, 1);

  assert.equal((await warren(['config', 'check', config])).stdout, `${config} is valid.\n`);
  const shown = await warren(['config', 'show', '--json', '--config', config]);
  const { config: values } = JSON.parse(shown.stdout);
  assert.deepEqual([values.node.id, values.node.data_dir, values.mount.timeout], ['beta', directory, '30s']);
  const again2 = await warren(['config', 'show', '--config', config]);
  const copy = join(root, 'copy.toml');
  writeFileSync(copy, again2.stdout);
  assert.equal((await warren(['config', 'check', copy])).code, 0);
});

test('config check names every problem; config example is valid', async () => {
  const config = join(root, 'bad.toml');
  writeFileSync(config, '[node]\nroel = "auto"\n[mount]\ntimeout = 3\n');
  const run = await warren(['config', 'check', config]);
  assert.deepEqual([run.code, run.stdout], [1, '']);
  assert.match(
    run.stderr,
    /bad\.toml:2:1: unknown key "node\.roel"; did you mean "node\.role"\?\n.*bad\.toml:4:1: mount/,
  );
  const json = JSON.parse((await warren(['config', 'check', '--json', config])).stdout);
  assert.equal(json.error.code, 'CONFIG_INVALID');
  assert.deepEqual(
    json.error.problems.map((problem: { line: number }) => problem.line),
    [2, 4],
  );
  const missing = await warren(['config', 'check', '/none.toml']);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /no configuration at \/none\.toml/);
  const example = join(root, 'example.toml');
  writeFileSync(example, (await warren(['config', 'example'])).stdout);
  assert.equal((await warren(['config', 'check', example])).code, 0);
});

test('a reader that goes away ends the command quietly', async () => {
  const run = await warren(['config', 'example'], { closeStdout: true });
  assert.deepEqual([run.code, run.stderr], [0, '']);
});
