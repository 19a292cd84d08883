/**
 * Faults and bad input: a full, read-only or failing disk, damaged files, a wrong data directory, a wrong mount
 * point. Each gives a clear error (what, where, what to do) or EIO on what is damaged, and loses nothing else.
 */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { outcome } from '../support/libc.ts';
import { openLoopDisk } from '../support/loop-disk.ts';
import { type Daemon, isMounted, startDaemon } from '../support/target.ts';
import { eventually, expectRefusal, fault, flip, health, writeDurably } from './helpers.ts';

const MIB = 1 << 20;

const chunkFiles = (daemon: Daemon): string[] =>
  globSync('chunks/*/*/*', { cwd: daemon.dataDirectory }).map((file) => join(daemon.dataDirectory, file));

/** A daemon that was stopped after it took two files: `damaged` (one large chunk) and `sound`. */
async function prepared(): Promise<{ daemon: Daemon; sound: Buffer; chunk: string }> {
  const daemon = await startDaemon();
  writeDurably(join(daemon.mount, 'damaged'), randomBytes(3 * MIB));
  const [chunk] = chunkFiles(daemon);
  const sound = randomBytes(MIB);
  writeDurably(join(daemon.mount, 'sound'), sound);
  writeDurably(join(daemon.mount, 'small'), Buffer.from('small and sound'));
  await daemon.stop();
  assert.ok(chunk !== undefined, 'a file of 3 MiB is a chunk file');
  return { daemon, sound, chunk };
}

for (const [name, damage] of [
  ['a flipped byte', (chunk: string) => flip(chunk, 1_234_567)],
  ['a truncated end', (chunk: string) => truncateSync(chunk, MIB)],
  ['no file at all', (chunk: string) => unlinkSync(chunk)],
] as const) {
  fault(`a chunk with ${name} reads as EIO, is reported, and harms no other file`, async () => {
    const { daemon: stopped, sound, chunk } = await prepared();
    await using daemon = stopped;
    damage(chunk);
    assert.throws(() => daemon.fsck(), /damaged|missing|bad/i);
    await daemon.restart();
    assert.equal(
      outcome(() => readFileSync(join(daemon.mount, 'damaged'))),
      'EIO',
    );
    assert.ok(readFileSync(join(daemon.mount, 'sound')).equals(sound));
    assert.equal(readFileSync(join(daemon.mount, 'small'), 'utf8'), 'small and sound');
    await eventually(() => /chunk/i.test(daemon.log()));
    writeDurably(join(daemon.mount, 'damaged'), Buffer.from('written anew'));
    assert.equal(readFileSync(join(daemon.mount, 'damaged'), 'utf8'), 'written anew');
    await daemon.stop();
  });
}

fault('flipped bytes in every page of meta.db are healed by the start, and told', async () => {
  const { daemon: stopped, sound } = await prepared();
  await using daemon = stopped;
  const path = join(daemon.dataDirectory, 'meta.db');
  const right = readFileSync(path);
  for (let offset = 0; offset < right.length; offset += 4096)
    flip(path, offset + (((offset / 4096) * 97) % 4096));
  await daemon.restart();
  assert.ok(readFileSync(join(daemon.mount, 'sound')).equals(sound));
  assert.equal(readFileSync(join(daemon.mount, 'small'), 'utf8'), 'small and sound');
  assert.match(daemon.log(), /damaged pages were put back from meta\.copy/);
  const { state, dataSafe, reason } = await health(daemon);
  assert.deepEqual([state, dataSafe], ['degraded', true]);
  assert.match(reason, /put back from meta\.copy/);
  await daemon.stop();
  daemon.fsck();
});

fault('bytes flipped in both copies of meta.db are found, and never answered as data', async () => {
  const { daemon: stopped } = await prepared();
  await using daemon = stopped;
  for (const name of ['meta.db', 'meta.copy']) {
    const path = join(daemon.dataDirectory, name);
    // Every page's header: SQLite sees at least the b-tree damage.
    for (let offset = 100; offset < statSync(path).size; offset += 4096) flip(path, offset);
  }
  expectRefusal(daemon.directory, /meta\.db/);
});

fault('flipped bytes in small.db: EIO for what they hit, never other bytes, all else goes on', async () => {
  await using daemon = await startDaemon();
  const contents = new Map<string, Buffer>();
  for (let index = 0; index < 60; index++) {
    const data = randomBytes(2000);
    contents.set(join(daemon.mount, `file-${index}`), data);
    writeDurably(join(daemon.mount, `file-${index}`), data);
  }
  await daemon.stop();
  // In the bytes of three rows.
  const path = join(daemon.dataDirectory, 'small.db');
  const database = readFileSync(path);
  const names = [...contents.keys()];
  for (const name of [7, 20, 41].map((index) => names[index] ?? '')) {
    const at = database.indexOf(contents.get(name)?.subarray(0, 100) ?? '');
    assert.ok(at > 0, 'its bytes are in small.db');
    flip(path, at + 50);
  }
  assert.throws(() => daemon.fsck(), /chunk-damaged.*belongs to \/file-7/s);
  await daemon.restart();
  const damaged = names.filter((name) => {
    const code = outcome(() => readFileSync(name));
    if (code === 'ok') assert.ok(readFileSync(name).equals(contents.get(name) ?? Buffer.alloc(0)), name);
    else assert.equal(code, 'EIO');
    return code !== 'ok';
  });
  assert.equal(damaged.length, 3);
  const { dataSafe, reason } = await health(daemon);
  assert.equal(dataSafe, false);
  assert.match(reason, /3 chunks are missing or damaged/);
  for (const name of damaged) writeDurably(name, Buffer.from('written anew'));
  for (const name of damaged) assert.equal(readFileSync(name, 'utf8'), 'written anew');
  await daemon.stop();
  daemon.fsck();
});

fault('a missing small.db is told at the start and does not become an empty one', async () => {
  const { daemon: stopped } = await prepared();
  await using daemon = stopped;
  unlinkSync(join(daemon.dataDirectory, 'small.db'));
  expectRefusal(daemon.directory, /small\.db/);
  assert.ok(!existsSync(join(daemon.dataDirectory, 'small.db')), 'a refusal changes nothing');
});

fault('a data directory of a newer version is left alone', async () => {
  const { daemon: stopped } = await prepared();
  await using daemon = stopped;
  const path = join(daemon.dataDirectory, 'format.json');
  const format = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  const newer = JSON.stringify({ ...format, version: 9999 });
  writeFileSync(path, newer);
  expectRefusal(daemon.directory, /newer|version/i);
  assert.equal(readFileSync(path, 'utf8'), newer);
});

fault('a second daemon on one data directory is refused and the first goes on', async () => {
  await using daemon = await startDaemon();
  writeFileSync(join(daemon.mount, 'x'), 'kept');
  expectRefusal(daemon.directory, /already|in use|another/i);
  assert.equal(readFileSync(join(daemon.mount, 'x'), 'utf8'), 'kept');
  await daemon.stop();
});

fault('a mount point that is a file is refused', () =>
  inFolder((folder) => {
    writeFileSync(join(folder, 'mnt'), 'a file');
    expectRefusal(folder, /mnt.*not a directory|is a file/i);
    assert.equal(readFileSync(join(folder, 'mnt'), 'utf8'), 'a file');
  }),
);

fault('a mount point that is not empty is refused', () =>
  inFolder((folder) => {
    mkdirSync(join(folder, 'mnt'));
    writeFileSync(join(folder, 'mnt', 'mine'), 'hidden by a mount');
    expectRefusal(folder, /not empty/i);
    assert.equal(readFileSync(join(folder, 'mnt', 'mine'), 'utf8'), 'hidden by a mount');
  }),
);

function inFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'warren-fault-'));
  try {
    body(folder);
    assert.ok(!isMounted(join(folder, 'mnt')), 'a refusal leaves no mount');
  } finally {
    spawnSync('umount', ['-l', join(folder, 'mnt')]);
    rmSync(folder, { recursive: true, force: true });
  }
}

fault(
  'a full disk answers ENOSPC, keeps what was acknowledged, and takes writes again after a delete',
  async () => {
    using disk = openLoopDisk('ext4', 400);
    await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
    const kept: [string, Buffer][] = [];
    let code = 'ok';
    for (let index = 0; index < 600 && code === 'ok'; index += 1) {
      const data = randomBytes(MIB);
      const path = join(daemon.mount, `file-${index}`);
      code = outcome(() => writeDurably(path, data));
      if (code === 'ok') kept.push([path, data]);
    }
    assert.equal(code, 'ENOSPC');
    assert.ok(kept.length > 50, `only ${kept.length} MiB fitted on 400`);
    for (const [path, data] of kept) assert.ok(readFileSync(path).equals(data), path);
    for (const [path] of kept.splice(0, kept.length / 2)) unlinkSync(path);
    await eventually(
      () => outcome(() => writeDurably(join(daemon.mount, 'again'), randomBytes(MIB))) === 'ok',
    );
    await daemon.stop();
    daemon.fsck();
  },
);

fault('a read-only disk is told at the start', async () => {
  using disk = openLoopDisk('ext4', 300);
  {
    await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
    writeFileSync(join(daemon.mount, 'x'), 'kept');
    await daemon.stop();
  }
  disk.remount('ro');
  expectRefusal(join(disk.directory, 'warren'), /read-only/i);
  disk.remount();
  await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
  assert.equal(readFileSync(join(daemon.mount, 'x'), 'utf8'), 'kept');
});

fault(
  'a disk that fails answers EIO to fsync, never success, and all is there after it came back',
  async () => {
    using disk = openLoopDisk('ext4', 300);
    await using daemon = await startDaemon({ directory: join(disk.directory, 'warren') });
    const data = randomBytes(2 * MIB);
    writeDurably(join(daemon.mount, 'before'), data);
    disk.cutPower();
    const code = outcome(() => writeDurably(join(daemon.mount, 'after'), data));
    assert.ok(['EIO', 'EROFS', 'ENOTCONN', 'ECONNABORTED'].includes(code), `a failed disk answered ${code}`);
    await daemon.kill().catch(() => undefined);
    daemon.detach();
    disk.remount();
    await daemon.restart();
    assert.ok(readFileSync(join(daemon.mount, 'before')).equals(data));
    await daemon.stop();
    daemon.fsck();
  },
);

fault('a data directory that cannot be made is told', () =>
  inFolder((folder) => {
    writeFileSync(join(folder, 'file'), '');
    expectRefusal(join(folder, 'file', 'below'), /not a directory|is a file/i);
    chmodSync(folder, 0o755);
  }),
);
