/** The kernel driver through real mounts and real system calls, over a file system in memory. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { deviceHint, openFuseDevice } from '../../daemon/fuse/mount-point.ts';
import { type Daemon, mountPoints, startDaemon, syscall } from './mounted.ts';

const root = process.geteuid?.() === 0 && fs.existsSync('/dev/fuse');
assert.ok(root, 'these tests need root and /dev/fuse');

function errno(call: () => unknown): string | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
}

describe('one mount', () => {
  const points = mountPoints(1);
  const [mnt] = points.paths as [string];
  let daemon: Daemon;
  const at = (...names: string[]) => join(mnt, ...names);

  before(async () => {
    daemon = startDaemon([mnt]);
    assert.deepEqual(await daemon.next(), { ready: true });
  });
  after(async () => {
    assert.deepEqual(await daemon.ask('unmount'), { closed: mnt });
    await daemon[Symbol.asyncDispose]();
    points[Symbol.dispose]();
  });

  it('makes, looks up, moves and removes names', () => {
    fs.mkdirSync(at('d'), 0o750);
    fs.writeFileSync(at('d', 'f'), 'content');
    fs.symlinkSync('some/target', at('d', 's'));
    fs.linkSync(at('d', 'f'), at('d', 'hard'));
    assert.equal(fs.readlinkSync(at('d', 's')), 'some/target');
    assert.equal(fs.statSync(at('d', 'hard')).nlink, 2);
    assert.equal(fs.statSync(at('d', 'hard')).ino, fs.statSync(at('d', 'f')).ino);
    assert.equal(fs.statSync(at('d')).mode, 0o40750);
    assert.deepEqual(fs.readdirSync(at('d')).sort(), ['f', 'hard', 's']);
    fs.renameSync(at('d', 'f'), at('moved'));
    assert.equal(
      errno(() => fs.statSync(at('d', 'f'))),
      'ENOENT',
    );
    assert.equal(
      errno(() => fs.rmdirSync(at('d'))),
      'ENOTEMPTY',
    );
    fs.unlinkSync(at('d', 'hard'));
    fs.unlinkSync(at('d', 's'));
    fs.rmdirSync(at('d'));
    assert.equal(fs.readFileSync(at('moved'), 'utf8'), 'content');
    assert.equal(
      errno(() => fs.openSync(at('moved'), 'wx')),
      'EEXIST',
    );
  });

  it('asks the file system once for a name that does not exist', async () => {
    const lookups = async () => (await daemon.ask('calls')).calls?.['lookup'] ?? 0;
    errno(() => fs.statSync(at('nothing')));
    const before = await lookups();
    for (let round = 0; round < 10; round++) errno(() => fs.statSync(at('nothing')));
    assert.equal(await lookups(), before);
    fs.writeFileSync(at('nothing'), '');
    assert.equal(fs.statSync(at('nothing')).size, 0);
  });

  it('reads back what was written, also at the end and beyond, and appends', () => {
    const data = Buffer.alloc(3 * 1024 * 1024 + 123);
    for (let index = 0; index < data.length; index += 4) data.writeUInt8((index / 4) & 255, index);
    fs.writeFileSync(at('data'), data);
    assert.ok(fs.readFileSync(at('data')).equals(data));
    const file = fs.openSync(at('data'), fs.constants.O_RDONLY | fs.constants.O_DIRECT);
    const part = Buffer.alloc(8192);
    const start = data.length - (data.length % 4096);
    assert.equal(fs.readSync(file, part, 0, 8192, start), data.length - start);
    assert.ok(part.subarray(0, data.length - start).equals(data.subarray(start)));
    assert.equal(fs.readSync(file, part, 0, 8192, 2 ** 40), 0);
    fs.closeSync(file);
    fs.appendFileSync(at('data'), 'tail');
    assert.equal(fs.readFileSync(at('data')).subarray(-4).toString(), 'tail');
    fs.writeFileSync(at('data'), 'short');
    assert.equal(fs.readFileSync(at('data'), 'utf8'), 'short');
  });

  it('changes attributes: mode, owner, size, times before 1970 and far ahead', async () => {
    fs.writeFileSync(at('attributes'), 'x');
    fs.chmodSync(at('attributes'), 0o4711);
    fs.chownSync(at('attributes'), 12, 34);
    fs.truncateSync(at('attributes'), 2 ** 33);
    const status = fs.statSync(at('attributes'));
    assert.deepEqual([status.uid, status.gid, status.size], [12, 34, 2 ** 33]);
    assert.equal(status.mode & 0o7777, 0o711, 'a change of owner clears setuid');
    assert.deepEqual(await syscall('times', at('attributes')), ['-1500000001', '4000000000123456789']);
    fs.utimesSync(at('attributes'), 0, 0);
    assert.equal(fs.statSync(at('attributes')).mtimeMs, 0);
  });

  it('keeps names that are not UTF-8, and names of 255 bytes', () => {
    const name = Buffer.from([0x66, 0xff, 0xfe, 0x80]);
    fs.writeFileSync(Buffer.concat([Buffer.from(`${mnt}/`), name]), '1');
    const long = 'n'.repeat(255);
    fs.writeFileSync(at(long), '2');
    const names = fs.readdirSync(mnt, { encoding: 'buffer' });
    assert.ok(names.some((one) => one.equals(name)));
    assert.ok(names.some((one) => one.toString() === long));
    assert.equal(
      errno(() => fs.writeFileSync(at(`${long}n`), '')),
      'ENAMETOOLONG',
    );
  });

  it('makes fifos and devices', async () => {
    const made = spawn('sh', ['-c', 'mkfifo "$0/fifo" && mknod "$0/device" c 1 300', mnt]);
    const [code] = await once(made, 'exit');
    assert.equal(code, 0);
    assert.ok(fs.statSync(at('fifo')).isFIFO());
    assert.ok(fs.statSync(at('device')).isCharacterDevice());
    assert.equal(fs.statSync(at('device')).rdev, (1 << 8) | (300 & 255) | ((300 & ~255) << 12));
  });

  it('makes nameless files and names them later', async () => {
    assert.deepEqual(await syscall('tmpfile', mnt, 'named'), [0, 1, 'nameless']);
    assert.equal(fs.readFileSync(at('named'), 'utf8'), 'nameless');
  });

  it('renames without replacing, and exchanges', async () => {
    fs.writeFileSync(at('one'), '1');
    fs.writeFileSync(at('two'), '2');
    assert.deepEqual(await syscall('rename2', at('one'), at('two'), 1), { errno: 'EEXIST' });
    assert.equal(await syscall('rename2', at('one'), at('two'), 2), null);
    assert.equal(fs.readFileSync(at('one'), 'utf8'), '2');
    assert.equal(fs.readFileSync(at('two'), 'utf8'), '1');
    assert.deepEqual(await syscall('rename2', at('one'), at('two'), 4), { errno: 'EINVAL' });
  });

  it('allocates, punches holes and finds them', async () => {
    fs.writeFileSync(at('sparse'), Buffer.alloc(64 * 1024, 1));
    assert.equal(await syscall('fallocate', at('sparse'), 0, 0, 128 * 1024), 128 * 1024);
    assert.equal(await syscall('fallocate', at('sparse'), 1, 0, 256 * 1024), 128 * 1024);
    assert.equal(await syscall('fallocate', at('sparse'), 3, 8192, 16384), 128 * 1024);
    assert.deepEqual(await syscall('seek', at('sparse'), 8192), [24576, 8192]);
    assert.deepEqual(await syscall('seek', at('sparse'), 0), [0, 8192]);
    assert.ok(
      fs
        .readFileSync(at('sparse'))
        .subarray(8192, 24576)
        .every((byte) => byte === 0),
    );
    assert.equal(await syscall('fallocate', at('sparse'), 16, 0, 4096), 128 * 1024);
    assert.equal(fs.readFileSync(at('sparse'))[0], 0);
    assert.deepEqual(await syscall('fallocate', at('sparse'), 8, 0, 4096), { errno: 'ENOTSUP' });
    assert.deepEqual(await syscall('seek', at('sparse'), 2 ** 30), { errno: 'ENXIO' });
  });

  it('copies ranges inside the file system', async () => {
    fs.writeFileSync(at('source'), 'copy me');
    assert.equal(await syscall('copy_range', at('source'), at('copied'), 100), 7);
    assert.equal(fs.readFileSync(at('copied'), 'utf8'), 'copy me');
  });

  it('stores extended attributes with the errors of ext4', async () => {
    fs.writeFileSync(at('xattrs'), '');
    assert.deepEqual(await syscall('xattrs', at('xattrs')), [
      'one',
      ['user.a', 'user.empty'],
      'EEXIST',
      'ENODATA',
      'ENODATA',
      'ERANGE',
      'ENODATA',
      3,
      60000,
      ['user.big', 'user.empty'],
    ]);
  });

  it('keeps fcntl locks and flocks apart by owner, and drops them at close', async () => {
    const expected = ['EAGAIN', 'ok', 'ok', 'ok', 'EAGAIN', 'ok'];
    assert.deepEqual(await syscall('locks', at('locked')), expected);
    assert.equal(await syscall('lock_wait', at('waited')), 'EINTR');
  });

  it('maps files shared', async () => {
    assert.equal(await syscall('mapping', at('mapped')), 'hello');
  });

  it('answers fsync of files and directories, statfs, and refuses unknown ioctls', async () => {
    const fsyncs = async () => (await daemon.ask('calls')).calls?.['fsync'] ?? 0;
    const before = await fsyncs();
    const file = fs.openSync(at('synced'), 'w');
    fs.fsyncSync(file);
    fs.fdatasyncSync(file);
    fs.closeSync(file);
    await syscall('fsync_directory', mnt);
    assert.equal(await fsyncs(), before + 3);
    const statistics = fs.statfsSync(mnt);
    assert.deepEqual([statistics.bsize, statistics.blocks, statistics.bavail], [4096, 1_000_000, 500_000]);
    const lsattr = spawn('lsattr', ['-d', mnt]);
    assert.match(await text(lsattr.stderr), /Inappropriate ioctl|not supported/);
  });

  it('lists 100,000 names, each once, and answers their attributes on the way', async () => {
    fs.mkdirSync(at('many'));
    const made = spawn('python3', [
      '-c',
      'import os,sys\nfor i in range(100000): os.mknod(f"{sys.argv[1]}/n{i}")',
      at('many'),
    ]);
    assert.deepEqual((await once(made, 'exit'))[0], 0);
    assert.deepEqual(await syscall('listing', at('many')), [100_000, 100_000]);
    assert.equal(fs.readdirSync(at('many'), { withFileTypes: true })[7]?.isFile(), true);
  });

  it('tells the file system when the kernel forgot an inode', async () => {
    const forgotten = async () => (await daemon.ask('calls')).forgotten ?? 0;
    const before = await forgotten();
    fs.writeFileSync(at('forget me'), '');
    fs.statSync(at('forget me'));
    assert.equal(await forgotten(), before);
    fs.unlinkSync(at('forget me'));
    while ((await forgotten()) === before) await sleep(5);
  });

  it('answers EIO to a defect and goes on', () => {
    assert.equal(
      errno(() => fs.statSync(at('defect'))),
      'EIO',
    );
    assert.ok(fs.statSync(mnt).isDirectory());
  });

  it('lets a program die at once that waits for a hanging request', async () => {
    await daemon.ask('hang slow');
    const reader = spawn('stat', [at('slow')]);
    await waitsInKernel(reader.pid!);
    const begin = performance.now();
    reader.kill('SIGKILL');
    await once(reader, 'exit');
    assert.ok(performance.now() - begin < 1000);
  });

  it('lets cat and dd die at once that wait for data', async () => {
    const cases = [
      ['read', `exec cat ${at('slow-data')}`],
      ['read', `exec dd if=${at('slow-data')} iflag=direct`],
      ['write', `exec dd if=/dev/zero of=${at('endless')} bs=1M`],
    ] as const;
    fs.writeFileSync(at('slow-data'), 'x'.repeat(8192));
    for (const [what, command] of cases) {
      await daemon.ask(`hang ${what}`);
      fs.writeFileSync('/proc/sys/vm/drop_caches', '1');
      const program = spawn('sh', ['-c', command], { stdio: 'ignore' });
      await waitsInKernel(program.pid!, /request_wait_answer|folio_wait/);
      const begin = performance.now();
      // dd handles SIGINT, and a handled signal does not end a read on any local file system.
      program.kill('SIGKILL');
      await once(program, 'exit');
      assert.ok(performance.now() - begin < 1000, command);
      await daemon.ask(`resume ${what}`);
    }
  });

  it('does not show a handled signal to a program that stats, yet lets it be killed later', async () => {
    await daemon.ask('hang signalled');
    const script = join(import.meta.dirname, 'syscalls.py');
    const reader = spawn('python3', [script, 'interrupted_stat', at('signalled')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await waitsInKernel(reader.pid!);
    await sleep(300);
    assert.equal(reader.exitCode, null, 'the stat outlives its alarms');
    reader.kill('SIGTERM');
    await once(reader, 'exit');
    assert.equal(reader.signalCode, 'SIGTERM');
  });
});

describe('the life of a mount', () => {
  it('refuses to unmount while a program uses it, and gives that program errors by force', async () => {
    using points = mountPoints(1);
    const [mnt] = points.paths as [string];
    await using daemon = startDaemon([mnt]);
    await daemon.next();
    fs.writeFileSync(join(mnt, 'open'), 'x');
    await using holder = await hold(join(mnt, 'open'));
    const refused = (await daemon.ask('unmount')).failed;
    assert.equal(refused?.code, 'MOUNT_BUSY');
    assert.match(refused?.hint ?? '', /fuser -vm/);
    assert.equal(fs.readFileSync(join(mnt, 'open'), 'utf8'), 'x');
    assert.deepEqual(await daemon.ask('force'), { closed: mnt });
    assert.deepEqual(await daemon.next(), { unmounted: true });
    assert.match(await holder.end(), /ENOTCONN|ECONNABORTED/);
    assert.deepEqual(fs.readdirSync(mnt), []);
  });

  it('ends when somebody else unmounts', async () => {
    using points = mountPoints(1);
    const [mnt] = points.paths as [string];
    await using daemon = startDaemon([mnt]);
    await daemon.next();
    const [code] = await once(spawn('umount', [mnt]), 'exit');
    assert.equal(code, 0);
    assert.deepEqual(await daemon.next(), { closed: mnt });
  });

  it('ends with its process, also when that leaves without unmounting', async () => {
    using points = mountPoints(1);
    const [mnt] = points.paths as [string];
    await using daemon = startDaemon([mnt]);
    await daemon.next();
    daemon.process.stdin?.write('quit\n');
    assert.equal((await once(daemon.process, 'exit'))[0], 0);
    assert.deepEqual(fs.readdirSync(mnt), []);
  });

  it('takes over the mount point of a killed daemon', async () => {
    using points = mountPoints(1);
    const [mnt] = points.paths as [string];
    await using killed = startDaemon([mnt]);
    await killed.next();
    fs.writeFileSync(join(mnt, 'lost'), '');
    await killed.kill('SIGKILL');
    assert.equal(
      errno(() => fs.readdirSync(mnt)),
      'ENOTCONN',
    );
    await using daemon = startDaemon([mnt]);
    assert.deepEqual(await daemon.next(), { ready: true });
    assert.deepEqual(fs.readdirSync(mnt), []);
    assert.deepEqual(await daemon.ask('unmount'), { closed: mnt });
  });

  it('refuses a mount point that is mounted, missing, a file or not empty, and says what to do', async () => {
    using points = mountPoints(2);
    const [mnt, other] = points.paths as [string, string];
    await using daemon = startDaemon([mnt]);
    await daemon.next();
    fs.writeFileSync(join(other, 'file'), '');
    const expected = [
      [mnt, 'ALREADY_MOUNTED'],
      [join(other, 'missing'), 'MOUNT_POINT_MISSING'],
      [join(other, 'file'), 'MOUNT_POINT_NOT_DIRECTORY'],
      [other, 'MOUNT_POINT_NOT_EMPTY'],
    ] as const;
    for (const [path, code] of expected) {
      const second = startDaemon([path]);
      const { failed } = await second.next();
      assert.equal(failed?.code, code);
      assert.ok((failed?.hint.length ?? 0) > 10);
      await once(second.process, 'exit');
    }
    fs.writeFileSync(join(mnt, 'alive'), '');
    assert.deepEqual(await daemon.ask('unmount'), { closed: mnt });
  });

  it('shows a change of one mount in the other at once, in spite of long cache times', async () => {
    using points = mountPoints(2);
    const [a, b] = points.paths as [string, string];
    await using daemon = startDaemon([a, b]);
    await daemon.next();
    assert.equal(
      errno(() => fs.statSync(join(b, 'new'))),
      'ENOENT',
    );
    assert.deepEqual(fs.readdirSync(b), []);
    fs.writeFileSync(join(a, 'new'), 'first');
    await eventually(() => assert.equal(fs.readFileSync(join(b, 'new'), 'utf8'), 'first'));
    await eventually(() => assert.deepEqual(fs.readdirSync(b), ['new']));
    fs.writeFileSync(join(a, 'new'), 'second, longer');
    await eventually(() => assert.equal(fs.readFileSync(join(b, 'new'), 'utf8'), 'second, longer'));
    fs.chmodSync(join(a, 'new'), 0o600);
    await eventually(() => assert.equal(fs.statSync(join(b, 'new')).mode & 0o777, 0o600));
    fs.renameSync(join(a, 'new'), join(a, 'moved'));
    await eventually(() =>
      assert.equal(
        errno(() => fs.statSync(join(b, 'new'))),
        'ENOENT',
      ),
    );
    await eventually(() => assert.deepEqual(fs.readdirSync(b), ['moved']));
    fs.unlinkSync(join(b, 'moved'));
    await eventually(() =>
      assert.equal(
        errno(() => fs.statSync(join(a, 'moved'))),
        'ENOENT',
      ),
    );
    await daemon.ask('drained');
  });

  it('tells how to get /dev/fuse', () => {
    assert.throws(() => openFuseDevice('/dev/no-such-device'), { code: 'NO_FUSE_DEVICE' });
    assert.throws(() => openFuseDevice(import.meta.filename), { code: 'NO_FUSE_DEVICE' });
    const hint = deviceHint('lxc');
    for (const part of [
      'pct set <id> -features fuse=1',
      'c 10:229 rwm',
      '/dev/fuse dev/fuse none bind,create=file',
    ]) {
      assert.ok(hint.includes(part));
    }
    assert.ok(deviceHint('docker').includes('--device /dev/fuse --cap-add SYS_ADMIN'));
  });
});

/** Far below the cache time: what holds within it was invalidated. */
const INVALIDATION_MS = 2000;

async function eventually(check: () => void): Promise<void> {
  const deadline = performance.now() + INVALIDATION_MS;
  for (;;) {
    try {
      check();
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
    await sleep(5);
  }
}

/** A process that keeps `path` open; `end` reads from it and answers what came. */
async function hold(path: string): Promise<AsyncDisposable & { end(): Promise<string> }> {
  const script = join(import.meta.dirname, 'syscalls.py');
  const child = spawn('python3', [script, 'hold', path], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  return {
    async end() {
      child.stdin.end();
      return String((await once(child.stdout, 'data'))[0]);
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
    },
  };
}

/** Until the process sleeps in a request of the mount. */
async function waitsInKernel(pid: number, where = /request_wait_answer/): Promise<void> {
  for (let round = 0; round < 500; round++) {
    if (where.test(fs.readFileSync(`/proc/${pid}/stack`, 'utf8'))) return;
    await sleep(10);
  }
  throw new Error(`process ${pid} does not wait for an answer`);
}
