/**
 * Corners where a FUSE file system easily goes apart from ext4: what the kernel passes on unchecked, what it keeps to
 * itself, and numbers at the ends of their range.
 */

import assert from 'node:assert/strict';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { asUser, FALLOC, lockRange, O, SEEK } from '../support/libc.ts';
import * as sys from '../support/libc.ts';
import { expect, expectTimes, mode, openScenarios, stat } from '../support/scenario.ts';

const scenario = await openScenarios();
const STRANGER = 1001;
/** 273,790 years: the last second that is kept. */
const SECONDS_MAX = 8_640_000_000_000;

scenario(
  'times beyond every calendar are kept as the nearest possible, and nothing becomes unreadable',
  (at) => {
    for (const [index, seconds] of [2 ** 53, 2 ** 62, -(2 ** 53), -(2 ** 62)].entries()) {
      const path = at(`x${index}`);
      writeFileSync(path, 'content');
      sys.utimens(path, { atime: { seconds, nanoseconds: 1 }, mtime: { seconds, nanoseconds: 999_999_999 } });
      const kept = stat(path);
      assert.equal(kept.atimeNs, kept.mtimeNs, `both ends of the range, for ${seconds}`);
      assert.equal(kept.mtimeNs > 0n, seconds > 0);
    }
    assert.equal(readdirSync(at.root, { withFileTypes: true }).length, 4);
    for (const seconds of [-(2 ** 31), 2 ** 31, 2 ** 32 + 5, 15_032_385_535]) {
      const time = { seconds, nanoseconds: 0 };
      sys.utimens(at('x0'), { atime: time, mtime: time });
      assert.equal(stat(at('x0')).mtimeNs, BigInt(seconds) * 1_000_000_000n);
    }
    assert.ok(SECONDS_MAX > 15_032_385_535, 'the range of ext4 is within');
  },
);

scenario('chown(-1, -1) by a stranger leaves setuid; by the owner it clears it', (at) => {
  writeFileSync(at('x'), '');
  sys.chown(at('x'), 1000, 1000);
  sys.chmod(at('x'), 0o6755);
  // ext4 answers EPERM; FUSE's kernel side does not say that it is a chown, so it is answered and ignored.
  asUser(STRANGER, STRANGER, () => sys.outcome(() => sys.chown(at('x'), -1, -1)));
  assert.equal(mode(at('x')), 0o6755);
  asUser(1000, 1000, () => sys.chown(at('x'), -1, -1));
  assert.equal(mode(at('x')), 0o755);
});

scenario('fallocate, punching and copying by a stranger clear setuid and setgid', (at) => {
  writeFileSync(at('source'), 'content');
  const actions: Record<string, (fd: number) => unknown> = {
    allocate: (fd) => sys.fallocate(fd, 0, 0, 100),
    punch: (fd) => sys.fallocate(fd, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, 0, 3),
    zero: (fd) => sys.fallocate(fd, FALLOC.ZERO_RANGE, 0, 3),
    copy(fd) {
      const source = sys.open(at('source'), O.RDONLY);
      sys.copyFileRange({ fd: source, offset: 0 }, { fd, offset: 0 }, 5);
      sys.close(source);
    },
  };
  for (const [name, action] of Object.entries(actions)) {
    writeFileSync(at(name), 'old content');
    sys.chmod(at(name), 0o6777);
    asUser(STRANGER, STRANGER, () => {
      const fd = sys.open(at(name), O.WRONLY);
      action(fd);
      sys.close(fd);
    });
    assert.equal(mode(at(name)), 0o777, name);
    sys.chmod(at(name), 0o6777);
    const fd = sys.open(at(name), O.WRONLY);
    action(fd);
    sys.close(fd);
    assert.equal(mode(at(name)), 0o6777, `${name} by root`);
  }
});

scenario('fallocate moves mtime and ctime, also within the file and with KEEP_SIZE', (at) => {
  for (const flags of [0, FALLOC.KEEP_SIZE]) {
    writeFileSync(at(`x${flags}`), '0123456789');
    const fd = sys.open(at(`x${flags}`), O.RDWR);
    expectTimes(at(`x${flags}`), { mtime: true, ctime: true }, () => sys.fallocate(fd, flags, 0, 5));
    sys.close(fd);
  }
});

scenario('fallocate counts in st_blocks until the space is cut off, punched or written', (at) => {
  const blocks = (): number => Number(stat(at('x')).blocks) * 512;
  const fd = sys.open(at('x'), O.CREAT | O.RDWR);
  const MIB = 1 << 20;
  sys.fallocate(fd, FALLOC.KEEP_SIZE, 0, 3 * MIB);
  assert.equal(stat(at('x')).size, 0n);
  assert.equal(blocks(), 3 * MIB);
  sys.fallocate(fd, 0, 0, 2 * MIB);
  assert.equal(stat(at('x')).size, BigInt(2 * MIB));
  assert.equal(blocks(), 3 * MIB);
  sys.pwrite(fd, Buffer.alloc(MIB, 1), 0);
  sys.syncFile(fd);
  assert.equal(blocks(), 3 * MIB);
  sys.fallocate(fd, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, 0, MIB);
  assert.equal(blocks(), 2 * MIB);
  sys.ftruncate(fd, MIB + 4096);
  assert.equal(blocks(), 4096);
  sys.fallocate(fd, FALLOC.ZERO_RANGE, 0, MIB);
  assert.equal(blocks(), MIB + 4096);
  const zeros = Buffer.alloc(MIB, 1);
  sys.pread(fd, zeros, 0);
  assert.ok(zeros.every((byte) => byte === 0));
  sys.close(fd);
});

scenario('copy_file_range counts as a read of its source', (at) => {
  writeFileSync(at('source'), 'content');
  const before = stat(at('source')).atimeNs;
  const source = sys.open(at('source'), O.RDONLY);
  const fd = sys.open(at('x'), O.CREAT | O.RDWR);
  const limit = performance.now() + 10_000;
  // A write after each copy, because a second access after the same write is not noted (relatime).
  while (stat(at('source')).atimeNs === before && performance.now() < limit) {
    sys.copyFileRange({ fd: source, offset: 0 }, { fd, offset: 0 }, 5);
  }
  assert.ok(stat(at('source')).atimeNs > before);
  sys.close(source);
  sys.close(fd);
});

scenario('SEEK_DATA finds what a mapping wrote and nobody synced yet', (at) => {
  const fd = sys.open(at('x'), O.CREAT | O.RDWR);
  sys.ftruncate(fd, 1 << 20);
  using mapping = sys.mmap(fd, 1 << 20, { write: true, shared: true });
  assert.equal(
    sys.outcome(() => sys.lseek(fd, 0, SEEK.DATA)),
    'ENXIO',
  );
  mapping.write(500_000, Buffer.from('from the mapping'));
  const data = sys.lseek(fd, 0, SEEK.DATA);
  assert.ok(data > 400_000 && data <= 500_000, `data at ${data}`);
  assert.equal(sys.lseek(fd, 0, SEEK.HOLE), 0);
  assert.equal(mapping.read(500_000, 4).toString(), 'from');
  sys.close(fd);
});

scenario('a removed directory that is open takes no nameless file either', (at) => {
  sys.mkdir(at('d'));
  const fd = sys.open(at('d'), O.RDONLY | O.DIRECTORY);
  sys.rmdir(at('d'));
  const code = sys.outcome(() => sys.open(`/proc/self/fd/${fd}`, O.TMPFILE | O.RDWR));
  // ext4 says EPERM here.
  assert.ok(code === 'ENOENT' || code === 'EPERM', code);
  sys.close(fd);
});

scenario('range locks reach to the largest offset, and touching ones are told as one', (at) => {
  writeFileSync(at('x'), '');
  const [mine, other] = [0, 1].map(() => sys.open(at('x'), O.RDWR)) as [number, number];
  const far = 2 ** 62;
  lockRange(mine, 'open-try', { type: 'write', start: far, length: 1024 });
  expect('EAGAIN', () => lockRange(other, 'open-try', { type: 'write', start: far, length: 1 }));
  lockRange(other, 'open-try', { type: 'write', start: far + 1024, length: 0 });
  lockRange(other, 'open-try', { type: 'unlock', start: 0, length: 0 });
  lockRange(mine, 'open-try', { type: 'unlock', start: 0, length: 0 });

  for (const start of [10, 30, 20]) lockRange(mine, 'open-try', { type: 'write', start, length: 10 });
  const { start, length } = lockRange(other, 'open-get', { type: 'read', start: 25, length: 1 });
  assert.deepEqual({ start, length }, { start: 10, length: 30 });
  sys.close(mine);
  sys.close(other);
});

scenario('whoever shares a flock and cannot get it alone at once has lost it', (at) => {
  writeFileSync(at('x'), '');
  const [a, b, c] = [0, 1, 2].map(() => sys.open(at('x'), O.RDWR)) as [number, number, number];
  sys.flock(a, sys.LOCK.SH);
  sys.flock(b, sys.LOCK.SH);
  expect('EAGAIN', () => sys.flock(a, sys.LOCK.EX | sys.LOCK.NB));
  sys.flock(b, sys.LOCK.UN);
  sys.flock(c, sys.LOCK.EX | sys.LOCK.NB);
  for (const fd of [a, b, c]) sys.close(fd);
});

scenario('ten thousand files are open at once, and live on without names', (at) => {
  const fds: number[] = [];
  const count = 10_000;
  sys.mkdir(at('d'));
  const limit = sys.raiseOpenFiles(count + 500);
  assert.ok(limit >= count, `this test needs ${count} open files, the limit is ${limit}`);
  for (let index = 0; index < count; index++) {
    const fd = sys.open(at(`d/${index}`), O.CREAT | O.RDWR);
    sys.pwrite(fd, Buffer.from(String(index)), 0);
    fds.push(fd);
  }
  for (let index = 0; index < count; index++) sys.unlink(at(`d/${index}`));
  sys.rmdir(at('d'));
  const data = Buffer.alloc(10);
  for (const [index, fd] of fds.entries()) {
    assert.equal(data.toString('latin1', 0, sys.pread(fd, data, 0)), String(index));
    sys.close(fd);
  }
  assert.equal(statSync(at.root).nlink, 2);
});
