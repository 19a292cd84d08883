/** warrend's own arguments. */

import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { DAEMON_HELP, parseDaemonOptions } from '../daemon/options.ts';

const parse = (line: string) => parseDaemonOptions(line === '' ? [] : line.split(' '));

test('each way to start is understood, with absolute paths', () => {
  assert.deepEqual(parse('--config a.toml --log-format json --log-level debug'), {
    kind: 'run',
    configFile: resolve('a.toml'),
    log: { format: 'json', level: 'debug' },
  });
  assert.deepEqual(parse('--here ./x'), { kind: 'here', directory: resolve('x'), log: {} });
  assert.deepEqual(parse('fsck -d /d --repair'), {
    kind: 'fsck',
    source: { kind: 'directory', path: '/d' },
    repair: true,
    data: false,
    json: false,
  });
  assert.deepEqual(parse('fsck --config /c --data --json'), {
    kind: 'fsck',
    source: { kind: 'config', file: '/c' },
    repair: false,
    data: true,
    json: true,
  });
  assert.deepEqual(
    [parse('--help').kind, parse('fsck -h').kind, parse('--version').kind],
    ['help', 'help', 'version'],
  );
});

test('everything else is a usage error that says what is wrong', () => {
  const cases: [string, RegExp][] = [
    ['', /--config FILE or --here DIR is missing/],
    ['--config a --here b', /exclude each other/],
    ['--config', /--config/],
    ['--bogus', /--bogus/],
    ['--config a --log-format xml', /--log-format takes text or json, not "xml"/],
    ['--config a --log-level loud', /--log-level takes .*"loud"/],
    ['--config a --repair', /belong to/],
    ['fsck', /either --config FILE or -d DIR/],
    ['fsck --config a -d b', /either/],
    ['fsck -d a --log-level info', /takes --config/],
    ['serve', /no command "serve"/],
  ];
  for (const [line, message] of cases) {
    const options = parse(line);
    assert.equal(options.kind, 'usage-error', line);
    if (options.kind === 'usage-error') assert.match(options.message, message);
  }
});

test('the help fits 80 columns', () => {
  assert.ok(DAEMON_HELP.split('\n').every((line) => line.length <= 80));
});
