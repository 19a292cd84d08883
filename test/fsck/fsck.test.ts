/** fsck: beside a running daemon without being felt, on a stopped one's directory, and what `--repair` does. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  globSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { connectControl } from '../../console/control-client.ts';
import type { FsckResult } from '../../daemon/protocol/control-api.ts';
import { DAEMON_MAIN, type Daemon, NODE, startDaemon } from '../support/target.ts';

const TIMEOUT_MS = 180_000;
const FILES = 50_000;
const FILES_IN_DIRECTORY = 1000;
const CHECKS = 10;
const ATTEMPTS = 3;
/** What a request may wait beside a check, 99 of 100. */
const STAT_P99_MS_MAX = 20;

function fsck(daemon: Daemon, words: readonly string[] = []): { status: number | null; result: FsckResult } {
  const run = spawnSync(NODE, [DAEMON_MAIN, 'fsck', '-d', daemon.dataDirectory, '--json', ...words], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.notEqual(run.stdout, '', run.stderr);
  return { status: run.status, result: JSON.parse(run.stdout) as FsckResult };
}

test(`${FILES} files are checked beside a running daemon, and it answers meanwhile`, {
  timeout: TIMEOUT_MS,
}, async (context) => {
  await using daemon = await startDaemon();
  for (let index = 0; index < FILES; index++) {
    const directory = join(daemon.mount, `d${Math.floor(index / FILES_IN_DIRECTORY)}`);
    if (index % FILES_IN_DIRECTORY === 0) mkdirSync(directory);
    closeSync(openSync(join(directory, `f${index}`), 'w'));
  }
  const client = await connectControl({ socket: daemon.socket });
  try {
    // A busy machine makes everybody wait now and then; a check that blocks the daemon does so each time.
    let p99 = Number.NaN;
    let name = 0;
    for (let attempt = 0; attempt < ATTEMPTS && !(p99 < STAT_P99_MS_MAX); attempt++) {
      const waits: number[] = [];
      for (let round = 0; round < CHECKS; round++) {
        let result: FsckResult | undefined;
        const check = client.call('fsck', { data: false }, { timeoutMs: TIMEOUT_MS }).then((answer) => {
          result = answer;
        });
        while (result === undefined) {
          const started = performance.now();
          // A name that nobody asked for yet: the kernel's caches cannot answer.
          await assert.rejects(lstat(join(daemon.mount, 'd7', `unknown-${name++}`)), { code: 'ENOENT' });
          waits.push(performance.now() - started);
          await new Promise((resolve) => void setTimeout(resolve, 1));
        }
        await check;
        assert.ok(result.clean, JSON.stringify(result.findings));
        assert.equal(result.checked.inodes, FILES + FILES / FILES_IN_DIRECTORY + 1);
      }
      waits.sort((a, b) => a - b);
      p99 = waits[Math.floor(waits.length * 0.99)] ?? Number.NaN;
      context.diagnostic(
        `${waits.length} stats: p99 ${p99.toFixed(1)} ms, longest ${waits.at(-1)?.toFixed(1)} ms`,
      );
    }
    assert.ok(p99 < STAT_P99_MS_MAX, `p99 was ${p99.toFixed(1)} ms`);
  } finally {
    client.close();
  }
  await daemon.stop();
});

test('files that are written and removed during a check are no findings', {
  timeout: TIMEOUT_MS,
}, async () => {
  await using daemon = await startDaemon();
  const client = await connectControl({ socket: daemon.socket });
  try {
    for (let round = 0; round < 5; round++) {
      let result: FsckResult | undefined;
      const check = client.call('fsck', { data: true }, { timeoutMs: TIMEOUT_MS }).then((answer) => {
        result = answer;
      });
      for (let index = 0; result === undefined || index < 20; index++) {
        const path = join(daemon.mount, `file-${index % 7}`);
        if (index % 3 === 2) rmSync(path, { force: true });
        else writeFileSync(path, randomBytes(index % 2 === 0 ? 5000 : 200_000));
        await new Promise(setImmediate);
      }
      await check;
      assert.deepEqual(result?.findings, []);
    }
  } finally {
    client.close();
  }
  await daemon.stop();
});

test('a byte of a row that is flipped in both copies of meta.db is found after the start, told by status and by fsck', {
  timeout: TIMEOUT_MS,
}, async () => {
  await using daemon = await startDaemon();
  for (let index = 0; index < 500; index++)
    writeFileSync(join(daemon.mount, `file-${index}`), `text ${index}`);
  await daemon.stop();
  const file = join(daemon.dataDirectory, 'meta.db');
  const database = new DatabaseSync(file, { readOnly: true });
  const leaf = database
    .prepare(
      "SELECT pageno FROM dbstat WHERE name = 'inode' AND pagetype = 'leaf' ORDER BY pageno LIMIT 1 OFFSET 3",
    )
    .get();
  database.close();
  const page = Number(leaf?.['pageno']);
  // A time stamp in the middle of the page's last row: SQLite takes it as it is.
  flip(file, page * 4096 - 20);
  flip(join(daemon.dataDirectory, 'meta.copy'), page * 4096 - 20);

  await daemon.restart();
  const client = await connectControl({ socket: daemon.socket });
  try {
    const limit = performance.now() + 20_000;
    let status = await client.call('status', {});
    while (status.health.state === 'healthy' && performance.now() < limit) {
      await new Promise((resolve) => void setTimeout(resolve, 50));
      status = await client.call('status', {});
    }
    assert.equal(status.health.state, 'degraded');
    assert.equal(status.health.dataSafe, false);
    assert.match(status.health.reason, /1 page of meta\.db is damaged/);
    assert.match(daemon.log(), /meta\.db is damaged/);
    const online = await client.call('fsck', { data: false }, { timeoutMs: TIMEOUT_MS });
    assert.ok(online.findings.some((finding) => finding.code === 'page-damaged' && finding.state === 'loss'));
  } finally {
    client.close();
  }
  await daemon.stop();

  const stopped = fsck(daemon);
  assert.equal(stopped.status, 1);
  const finding = stopped.result.findings.find(({ code }) => code === 'page-damaged');
  assert.match(finding?.message ?? '', new RegExp(`page ${page} \\(of inode\\).*meta\\.db`));
  const repaired = fsck(daemon, ['--repair']);
  assert.ok(repaired.result.findings.some(({ code }) => code === 'page-damaged'));
  assert.ok(
    !fsck(daemon).result.findings.some(({ code }) => code === 'page-damaged'),
    'told once, then it counts',
  );
});

test('--repair removes chunks that belong to no file, and nothing else', {
  timeout: TIMEOUT_MS,
}, async () => {
  await using daemon = await startDaemon();
  const large = randomBytes(2 << 20);
  writeDurably(join(daemon.mount, 'large'), large);
  writeDurably(join(daemon.mount, 'small'), Buffer.from('small'));
  await daemon.stop();
  const strays = [randomBytes(100_000), randomBytes(300_000)].map((data) => {
    const hash = createHash('sha256').update(data).digest('hex');
    const directory = join(daemon.dataDirectory, 'chunks', hash.slice(0, 2), hash.slice(2, 4));
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, hash), data);
    return { hash, file: join(directory, hash) };
  });

  const plain = fsck(daemon, ['--data']);
  assert.equal(plain.status, 0);
  assert.deepEqual(plain.result.findings, [], 'waste harms nothing');
  assert.ok(
    strays.every(({ file }) => existsSync(file)),
    'a check without --repair changes nothing',
  );

  const repaired = fsck(daemon, ['--repair', '--data']);
  assert.equal(repaired.status, 0);
  assert.deepEqual(
    repaired.result.findings.map(({ code, state, message }) => `${code} ${state}: ${message}`).sort(),
    strays.map(({ hash }) => `chunk-unused repaired: chunk ${hash} belongs to no file`).sort(),
  );
  assert.ok(strays.every(({ file }) => !existsSync(file)));
  assert.equal(globSync('chunks/*/*/*', { cwd: daemon.dataDirectory }).length, 1);
  assert.deepEqual(fsck(daemon, ['--repair', '--data']).result.findings, []);
  await daemon.restart();
  assert.ok(readFileSync(join(daemon.mount, 'large')).equals(large));
  assert.equal(readFileSync(join(daemon.mount, 'small'), 'utf8'), 'small');
  await daemon.stop();
});

function writeDurably(path: string, data: Buffer): void {
  const descriptor = openSync(path, 'w');
  writeSync(descriptor, data);
  fsyncSync(descriptor);
  closeSync(descriptor);
}

function flip(path: string, offset: number): void {
  const descriptor = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(descriptor, byte, 0, 1, offset);
  byte[0]! ^= 1;
  writeSync(descriptor, byte, 0, 1, offset);
  closeSync(descriptor);
}
