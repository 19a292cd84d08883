/**
 * Faults of the disk under the log and the databases: failing syncs and writes, no space for a new segment, a
 * torn tail, lost files. What was acknowledged is there afterwards, or the start is refused and says why.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { FsckResult } from '../../daemon/protocol/control-api.ts';
import { outcome } from '../support/libc.ts';
import { openLoopDisk } from '../support/loop-disk.ts';
import { requirePackage } from '../support/requirements.ts';
import { DAEMON_MAIN, type Daemon, NODE, startDaemon } from '../support/target.ts';
import { eventually, expectRefusal, expectRefusedWords, fault, health, writeDurably } from './helpers.ts';

const MIB = 1 << 20;
const SEGMENT_BYTES = 16 * MIB;

function fsck(daemon: Daemon, words: readonly string[] = []): { status: number | null; result: FsckResult } {
  const run = spawnSync(NODE, [DAEMON_MAIN, 'fsck', '-d', daemon.dataDirectory, '--json', ...words], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.ok(run.stdout.startsWith('{'), `${run.stdout}${run.stderr}`);
  return { status: run.status, result: JSON.parse(run.stdout) as FsckResult };
}

function segments(daemon: Daemon): string[] {
  const directory = join(daemon.dataDirectory, 'log');
  return readdirSync(directory)
    .filter((name) => /^\d+\.log$/.test(name))
    .sort()
    .map((name) => join(directory, name));
}

/** Fills about `bytes` of the log with symbolic links of 4 KiB; answers how many there are. */
function fillLog(daemon: Daemon, prefix: string, bytes: number): number {
  const count = Math.ceil(bytes / 4096);
  for (let index = 0; index < count; index++) {
    symlinkSync(`${index}-`.padEnd(4000, 'x'), join(daemon.mount, `${prefix}-${index}`));
  }
  return count;
}

async function inject(daemon: Daemon, call: string): Promise<ChildProcess> {
  const strace = requirePackage('strace', 'strace');
  const child = spawn(
    strace,
    ['-f', '-qq', '-p', String(daemon.pid), '-e', `trace=${call}`, '-e', `inject=${call}:error=EIO:when=1+`],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  );
  const traced = (): boolean => {
    const threads = readdirSync(`/proc/${daemon.pid}/task`);
    return threads.every((thread) =>
      /^TracerPid:\s+[1-9]/m.test(readFileSync(`/proc/${daemon.pid}/task/${thread}/status`, 'utf8')),
    );
  };
  await eventually(traced);
  return child;
}

for (const call of ['fdatasync', 'pwritev']) {
  fault(
    `${call} fails: fsync says EIO, the daemon turns read-only and says so, a restart has everything`,
    async () => {
      await using daemon = await startDaemon();
      const kept: [string, Buffer][] = [];
      for (let index = 0; index < 40; index++) {
        const data = randomBytes(index % 10 === 0 ? 200_000 : 3000);
        const path = join(daemon.mount, `kept-${index}`);
        if (index % 2 === 0) writeDurably(path, data);
        else writeFileSync(path, data);
        kept.push([path, data]);
      }
      const strace = await inject(daemon, call);
      try {
        const code = outcome(() => writeDurably(join(daemon.mount, 'refused'), randomBytes(3000)));
        assert.ok(['EIO', 'EROFS'].includes(code), `a failed disk answered ${code}`);
        assert.equal(
          outcome(() => mkdirSync(join(daemon.mount, 'refused-too'))),
          'EROFS',
        );
        for (const [path, data] of kept) assert.ok(readFileSync(path).equals(data), 'reads go on');
        const state = await health(daemon);
        assert.equal(state.state, 'read-only');
        assert.match(state.reason, /log/);
        assert.notEqual(state.nextStep, '');
        assert.match(daemon.log(), /disk of the metadata failed/);
      } finally {
        strace.kill('SIGTERM');
        await once(strace, 'exit');
      }
      await daemon.stop();
      await daemon.restart();
      assert.equal((await health(daemon)).state, 'healthy');
      for (const [path, data] of kept) assert.ok(readFileSync(path).equals(data), path);
      mkdirSync(join(daemon.mount, 'again'));
      await daemon.stop();
      daemon.fsck();
    },
  );
}

fault(
  'no space for the log and the metadata: an error, reads go on, a restart with space has everything',
  async () => {
    using disk = openLoopDisk('ext4', 300);
    await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
    writeDurably(join(daemon.mount, 'before'), Buffer.from('before'));
    const ballast = join(disk.directory, 'ballast');
    spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=1M'], { stdio: 'ignore' });
    const kept: number[] = [];
    let code = 'ok';
    for (let index = 0; index < 20_000 && code === 'ok'; index++) {
      code = outcome(() => symlinkSync(`${index}-`.padEnd(4000, 'x'), join(daemon.mount, `link-${index}`)));
      if (code === 'ok') kept.push(index);
    }
    assert.ok(['ENOSPC', 'EROFS'].includes(code), code);
    const check = (): void => {
      assert.equal(readFileSync(join(daemon.mount, 'before'), 'utf8'), 'before');
      for (const index of kept) {
        assert.ok(readlinkSync(join(daemon.mount, `link-${index}`)).startsWith(`${index}-x`));
      }
    };
    check();
    assert.equal((await health(daemon)).state, 'read-only');
    await daemon.stop();
    expectRefusal(daemon.directory, /no space on the disk of .*data/);
    rmSync(ballast);
    await daemon.restart();
    check();
    symlinkSync('more', join(daemon.mount, 'more'));
    await daemon.stop();
    daemon.fsck();
  },
);

for (const [name, damage] of [
  ['cut off', (file: string, end: number) => cut(file, end - 7)],
  ['scribbled over', (file: string, end: number) => scribble(file, end - 7, 5)],
] as const) {
  fault(`a torn last write of the log (${name}): a start has everything before it`, async () => {
    await using daemon = await startDaemon();
    for (let index = 0; index < 50; index++)
      writeDurably(join(daemon.mount, `file-${index}`), Buffer.from(`text ${index}`));
    await daemon.kill();
    daemon.detach();
    const newest = segments(daemon).at(-1) ?? '';
    damage(newest, endOfEntries(newest));
    // meta.db may have followed already: without it the log alone decides.
    await daemon.restart();
    for (let index = 0; index < 49; index++) {
      assert.equal(readFileSync(join(daemon.mount, `file-${index}`), 'utf8'), `text ${index}`);
    }
    writeDurably(join(daemon.mount, 'after'), Buffer.from('after'));
    await daemon.stop();
    await daemon.restart();
    assert.equal(readFileSync(join(daemon.mount, 'after'), 'utf8'), 'after');
    await daemon.stop();
    daemon.fsck();
  });
}

fault('a lost segment in the middle of the log is told, and nothing behind it is thrown away', async () => {
  await using daemon = await startDaemon();
  // Stopped by a kill while meta.db is kept from following: its state is taken from before.
  await daemon.stop();
  const before = readFileSync(join(daemon.dataDirectory, 'meta.db'));
  const sums = readFileSync(join(daemon.dataDirectory, 'meta.sums'));
  await daemon.restart();
  for (const part of ['a', 'b', 'c']) {
    fillLog(daemon, part, SEGMENT_BYTES);
    writeDurably(join(daemon.mount, `file-${part}`), Buffer.from(part));
  }
  await daemon.kill();
  daemon.detach();
  writeFileSync(join(daemon.dataDirectory, 'meta.db'), before);
  writeFileSync(join(daemon.dataDirectory, 'meta.sums'), sums);
  for (const ending of ['-wal', '-shm'])
    rmSync(join(daemon.dataDirectory, `meta.db${ending}`), { force: true });
  const all = segments(daemon);
  assert.ok(all.length >= 4, `only ${all.length} segments`);
  const lost = all[2] ?? '';
  renameSync(lost, `${daemon.directory}/lost`);
  const left = segments(daemon);
  expectRefusal(daemon.directory, /log.*lacks a file.*operations \d+ to \d+/s);
  assert.deepEqual(segments(daemon), left, 'a refusal throws nothing away');
  renameSync(`${daemon.directory}/lost`, lost);
  await daemon.restart();
  for (const part of ['a', 'b', 'c'])
    assert.equal(readFileSync(join(daemon.mount, `file-${part}`), 'utf8'), part);
  assert.ok(existsSync(join(daemon.mount, 'b-100')) || readlinkSync(join(daemon.mount, 'b-100')) !== '');
  await daemon.stop();
  daemon.fsck();
});

fault('a lost log is told; --repair goes on with what meta.db has', async () => {
  await using daemon = await startDaemon();
  const large = randomBytes(MIB);
  writeDurably(join(daemon.mount, 'large'), large);
  writeDurably(join(daemon.mount, 'small'), Buffer.from('small'));
  await daemon.stop();
  rmSync(join(daemon.dataDirectory, 'log'), { recursive: true });
  expectRefusal(daemon.directory, /log is gone/);
  assert.ok(!existsSync(join(daemon.dataDirectory, 'log')), 'a refusal changes nothing');
  assert.equal(fsck(daemon, ['--repair']).status, 0);
  await daemon.restart();
  assert.ok(readFileSync(join(daemon.mount, 'large')).equals(large));
  assert.equal(readFileSync(join(daemon.mount, 'small'), 'utf8'), 'small');
  await daemon.stop();
  daemon.fsck();
});

fault('a lost small.db: --repair takes what the log still has', async () => {
  await using daemon = await lostSmallDb();
  expectRefusal(daemon.directory, /small\.db/);
  const { status, result } = fsck(daemon, ['--repair']);
  assert.equal(status, 0);
  assert.deepEqual(result.findings, []);
  await daemon.restart();
  assert.equal(readFileSync(join(daemon.mount, 'small'), 'utf8'), 'small');
  await daemon.stop();
  daemon.fsck();
});

fault(
  'a lost small.db and a lost log: --repair names the files that lost data, the others are whole',
  async () => {
    await using daemon = await lostSmallDb();
    rmSync(join(daemon.dataDirectory, 'log'), { recursive: true });
    const { status, result } = fsck(daemon, ['--repair']);
    assert.equal(status, 1);
    assert.deepEqual(
      result.findings.map(({ code, state }) => [code, state]),
      [['chunk-missing', 'loss']],
    );
    assert.match(result.findings[0]?.message ?? '', /belongs to \/small/);
    await daemon.restart();
    assert.equal(statSync(join(daemon.mount, 'large')).size, MIB);
    assert.equal(readFileSync(join(daemon.mount, 'large')).length, MIB);
    assert.equal(
      outcome(() => readFileSync(join(daemon.mount, 'small'))),
      'EIO',
    );
    rmSync(join(daemon.mount, 'small'));
    writeDurably(join(daemon.mount, 'small'), Buffer.from('small again'));
    await daemon.stop();
    daemon.fsck();
  },
);

async function lostSmallDb(): Promise<Daemon> {
  const daemon = await startDaemon();
  writeDurably(join(daemon.mount, 'large'), randomBytes(MIB));
  writeDurably(join(daemon.mount, 'small'), Buffer.from('small'));
  await daemon.stop();
  for (const ending of ['', '-wal', '-shm']) {
    rmSync(join(daemon.dataDirectory, `small.db${ending}`), { force: true });
  }
  return daemon;
}

fault(
  'a data directory that others may enter, or of another owner, is refused with the command that helps',
  async () => {
    await using daemon = await startDaemon();
    writeDurably(join(daemon.mount, 'x'), Buffer.from('kept'));
    await daemon.stop();
    chmodSync(daemon.dataDirectory, 0o755);
    expectRefusal(daemon.directory, /mode 0755.*must be 0700/);
    chmodSync(daemon.dataDirectory, 0o700);
    chownSync(daemon.dataDirectory, 12_345, 12_345);
    expectRefusal(daemon.directory, /owner 12345/);
    assert.equal(statSync(daemon.dataDirectory).uid, 12_345, 'a refusal changes nothing');
    chownSync(daemon.dataDirectory, process.getuid?.() ?? 0, 0);
    await daemon.restart();
    assert.equal(readFileSync(join(daemon.mount, 'x'), 'utf8'), 'kept');
    await daemon.stop();
  },
);

fault("another node's data directory is refused", async () => {
  await using daemon = await startDaemon();
  await daemon.stop();
  const config = join(daemon.directory, 'config.toml');
  const text = readFileSync(config, 'utf8');
  const other = text.replace(/^(\s*)id = ".*"$/m, '$1id = "another"');
  assert.notEqual(other, text);
  writeFileSync(config, other);
  expectRefusal(daemon.directory, /belongs to node ".*", and this node is "another"/);
});

fault('a mount point that is missing, or a file, is refused or made, never hidden', async () => {
  await using daemon = await startDaemon();
  writeDurably(join(daemon.mount, 'x'), Buffer.from('kept'));
  await daemon.stop();
  const config = join(daemon.directory, 'config.toml');
  rmSync(daemon.mount, { recursive: true });
  expectRefusedWords(['--config', config], /mnt.*does not exist/s);
  writeFileSync(daemon.mount, 'a file');
  expectRefusedWords(['--config', config], /mnt.*not a directory/s);
  assert.equal(readFileSync(daemon.mount, 'utf8'), 'a file');
  rmSync(daemon.mount);
  await daemon.restart();
  assert.equal(readFileSync(join(daemon.mount, 'x'), 'utf8'), 'kept');
  await daemon.stop();
});

/** Where the zeros behind the last entry begin. */
function endOfEntries(file: string): number {
  const content = readFileSync(file);
  let at = 32;
  while (at + 8 <= content.length && content.readUInt32LE(at) > 0) at += 8 + content.readUInt32LE(at);
  return at;
}

function cut(file: string, length: number): void {
  const descriptor = openSync(file, 'r+');
  ftruncateSync(descriptor, length);
  closeSync(descriptor);
}

function scribble(file: string, at: number, length: number): void {
  const descriptor = openSync(file, 'r+');
  writeSync(descriptor, Buffer.alloc(length, 0xaa), 0, length, at);
  closeSync(descriptor);
}
