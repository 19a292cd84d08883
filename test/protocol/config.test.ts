/** The configuration: defaults, every value, every kind of error with its place. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ConfigError, type ConfigProblem, loadConfig, parseConfig } from '../../daemon/protocol/config.ts';
import { configTable, configValues, exampleConfig } from '../../daemon/protocol/config-example.ts';
import { CONFIG_KEYS, CONFIG_SECTIONS, type ConfigKeyName } from '../../daemon/protocol/config-keys.ts';
import { systemErrorCode } from '../../daemon/protocol/errors.ts';

const FILE = 'a.toml';

function valid(text: string) {
  const result = parseConfig(text, { file: FILE, hostName: 'alpha' });
  assert.equal(result.kind, 'ok', JSON.stringify(result));
  return result.kind === 'ok' ? result.config : assert.fail();
}

function problems(text: string, hostName = 'alpha'): readonly ConfigProblem[] {
  const result = parseConfig(text, { file: FILE, hostName });
  return result.kind === 'bad' ? result.problems : assert.fail('accepted');
}

test('an empty file gives the defaults of the design', () => {
  assert.deepEqual(valid(''), {
    node: {
      id: 'alpha',
      role: 'auto',
      bind: '0.0.0.0:9500',
      advertise: 'auto',
      dataDirectory: '/var/lib/warren',
    },
    cluster: { name: 'warren', election: 'lowest-id', discovery: 'udp://239.255.0.1:9501', peers: [] },
    replication: { mode: 'replicated', factor: 3, chunkBytes: 4_194_304 },
    mount: { path: '/mnt/warren', allowOther: true, driver: 'auto', timeoutMs: 30_000 },
    control: { socket: '/run/warren/control.sock' },
    log: { level: 'info', format: 'text' },
  });
});

/** For each key: values that are taken (with what `config show` says of them) and values that are not. */
const SAMPLES: Record<ConfigKeyName, { good: [toml: string, shown?: unknown][]; bad: string[] }> = {
  'node.id': { good: [['"b-2.lan"', 'b-2.lan']], bad: ['""', '"-a"', '"a/b"', '5', `"${'x'.repeat(64)}"`] },
  'node.role': { good: [['"client"', 'client']], bad: ['"master"', 'true'] },
  'node.bind': { good: [['"[::]:1"', '[::]:1']], bad: ['"0.0.0.0"', '"a:0"', '"a:65536"', '9500'] },
  'node.advertise': { good: [['"10.0.0.1:1"', '10.0.0.1:1']], bad: ['"10.0.0.1"', '9500'] },
  'node.data_dir': { good: [['"/a/b/"', '/a/b']], bad: ['"a/b"', '""', '"/a\\u0000b"'] },
  'cluster.name': { good: [['"home lab"', 'home lab']], bad: ['""', '" a"'] },
  'cluster.election': { good: [['"etcd"', 'etcd']], bad: ['"raft"'] },
  'cluster.discovery': { good: [['"none"', 'none']], bad: ['"tcp://1.2.3.4:5"', '"udp://1.2.3.4"'] },
  'cluster.peers': { good: [['["b:1", "c:2"]', ['b:1', 'c:2']]], bad: ['"b:1"', '["b"]', '[1]'] },
  'replication.mode': { good: [['"shared"', 'shared']], bad: ['"none"'] },
  'replication.factor': { good: [['20', 20]], bad: ['0', '21', '1.5', '"3"'] },
  'replication.chunk_size': {
    good: [
      ['65536', 65_536],
      ['"1 MiB"', 1_048_576],
      ['"64K"', 65_536],
    ],
    bad: ['32768', '8388608', '100000', '"1 mile"', 'true'],
  },
  'mount.path': { good: [['"/srv/w"', '/srv/w']], bad: ['"w"', '3'] },
  'mount.allow_other': { good: [['false', false]], bad: ['"yes"', '1'] },
  'mount.driver': { good: [['"libfuse"', 'libfuse']], bad: ['"fuse3"'] },
  'mount.timeout': {
    good: [
      ['"1500ms"', '1500ms'],
      ['"2m"', '120s'],
    ],
    bad: ['30', '"30"', '"3 weeks"', '"999ms"', '"2h"'],
  },
  'control.socket': { good: [['"/tmp/c"', '/tmp/c']], bad: ['"c"', `"/${'x'.repeat(107)}"`] },
  'log.level': { good: [['"debug"', 'debug']], bad: ['"loud"'] },
  'log.format': { good: [['"json"', 'json']], bad: ['"xml"'] },
};

for (const { key, type } of CONFIG_KEYS) {
  const [section, name] = key.split('.');
  test(`${key} takes what it should and refuses the rest by line and column`, () => {
    for (const [toml, shown] of SAMPLES[key].good) {
      assert.deepEqual(configValues(valid(`[${section}]\n${name} = ${toml}\n`))[key], shown, toml);
    }
    for (const toml of SAMPLES[key].bad) {
      const found = problems(`# comment\n[${section}]\n  ${name} = ${toml}\n`);
      assert.equal(found.length, 1, toml);
      assert.deepEqual(
        { key: found[0]!.key, line: found[0]!.line, column: found[0]!.column, expected: found[0]!.expected },
        { key, line: 3, column: 3, expected: type },
      );
      assert.ok(
        found[0]!.message.startsWith(`${FILE}:3:3: ${key}: expected ${type}, found `),
        found[0]!.message,
      );
    }
  });
}

test('an unknown key names the nearest valid one', () => {
  const cases: [string, string, number, string | undefined][] = [
    ['[node]\nroel = "auto"', 'node.roel', 2, 'node.role'],
    ['[mont]\npath = "/x"', 'mont', 1, 'mount'],
    ['[node]\nchunk_size = 65536', 'node.chunk_size', 2, 'replication.chunk_size'],
    ['data_dri = "/x"', 'data_dri', 1, 'node.data_dir'],
    ['[node]\nzzzzzzzzzzzz = 1', 'node.zzzzzzzzzzzz', 2, undefined],
    ['[node]\n"__proto__" = 1', 'node.__proto__', 2, undefined],
  ];
  for (const [text, key, line, nearest] of cases) {
    const found = problems(text);
    assert.equal(found.length, 1, text);
    assert.deepEqual([found[0]!.key, found[0]!.line, found[0]!.nearest], [key, line, nearest]);
    if (nearest !== undefined) assert.match(found[0]!.message, new RegExp(`did you mean "${nearest}"`));
  }
});

test('all problems are reported at once, in the order of the file', () => {
  const found = problems(
    '[mount]\ntimeout = 3\npaht = "/x"\n[node]\nrole = "boss"\n[replication]\nfactor = 0\n',
  );
  assert.deepEqual(
    found.map((problem) => [problem.line, problem.key]),
    [
      [2, 'mount.timeout'],
      [3, 'mount.paht'],
      [5, 'node.role'],
      [7, 'replication.factor'],
    ],
  );
});

test('places are right after multi-line strings, lists, comments, dotted keys and inline tables', () => {
  const text = [
    'cluster.peers = [ # a comment with [ and "',
    '  "b:1",',
    ']',
    'cluster.name = """',
    'two',
    'lines"""',
    'node = { id = "ok", role = "boss" }',
    '[log] # x',
    "'level' = 'loud'",
  ].join('\n');
  assert.deepEqual(
    problems(text).map((problem) => [problem.key, problem.line]),
    [
      ['cluster.name', 4],
      ['node.role', 7],
      ['log.level', 9],
    ],
  );
});

test('what is not TOML, a section that is a value, and contradictions are named', () => {
  assert.match(problems('[node\nid = 1')[0]!.message, /^a\.toml:1:\d+: this is not TOML: /);
  assert.equal(problems('node = 5')[0]!.expected, 'a section [node]');
  assert.equal(problems('[[node]]\nid = "a"')[0]!.expected, 'a section [node]');
  const hidden = problems('[node]\ndata_dir = "/srv/w/data"\n[mount]\npath = "/srv/w"\n');
  assert.deepEqual([hidden[0]!.key, hidden[0]!.line], ['node.data_dir', 2]);
  assert.equal(valid('[node]\ndata_dir = "/srv/w"\n[mount]\npath = "/srv/w/mnt"\n').mount.path, '/srv/w/mnt');
});

test('a host name that cannot name a node is a problem only while node.id is missing', () => {
  assert.match(problems('', '_x_')[0]!.message, /node\.id: .* found the host name "_x_"/);
  assert.equal(parseConfig('[node]\nid = "a"', { file: FILE, hostName: '_x_' }).kind, 'ok');
});

test('terminal control characters in a file do not reach the message', () => {
  const message = problems('[node]\n"a\\u001b[2J" = 1')[0]!.message;
  assert.ok(!message.includes('\u001b'), JSON.stringify(message));
});

test('the example and the table name every key, and the example is valid with and without its comments', () => {
  const example = exampleConfig({ 'node.id': 'beta', 'cluster.peers': ['b:1'], 'mount.allow_other': false });
  const config = valid(example);
  assert.deepEqual([config.node.id, config.cluster.peers, config.mount.allowOther], ['beta', ['b:1'], false]);
  const uncommented = exampleConfig().replaceAll(/^# (\w+ = )/gm, '$1');
  assert.deepEqual(configValues(valid(uncommented)), { ...configValues(valid('')), 'node.id': 'HOST-NAME' });
  for (const { key } of CONFIG_KEYS) {
    const [section, name] = key.split('.');
    assert.ok(Object.hasOwn(CONFIG_SECTIONS, section!));
    assert.ok(configTable().includes(`\`[${section}] ${name}\``), key);
  }
  assert.ok(example.split('\n').every((line) => line.length <= 100));
});

test('files that are missing, unreadable, too long or wrong fail with their own codes', () => {
  const directory = mkdtempSync(join(tmpdir(), 'warren-config-'));
  try {
    const file = join(directory, 'c.toml');
    const code = (path: string): string | undefined => {
      try {
        loadConfig(path);
      } catch (error) {
        return systemErrorCode(error);
      }
      return undefined;
    };
    assert.equal(code(file), 'CONFIG_NOT_FOUND');
    assert.equal(code(directory), 'CONFIG_UNREADABLE');
    writeFileSync(file, '#'.repeat(1024 * 1024 + 1));
    assert.equal(code(file), 'CONFIG_UNREADABLE');
    writeFileSync(file, '[node]\nid = 5\nx = 1\n');
    assert.throws(
      () => loadConfig(file),
      (error) =>
        error instanceof ConfigError && error.problems.length === 2 && error.message.includes(`${file}:2:1`),
    );
    writeFileSync(file, '[node]\nid = "a"\n');
    assert.equal(loadConfig(file).node.id, 'a');
  } finally {
    rmSync(directory, { recursive: true });
  }
});
