/**
 * Bytes of files: open flags, holes, limits, fallocate, seek, copies and mappings. Contents are compared byte for
 * byte; where ext4 and POSIX leave room (how coarse holes are) the test leaves the same room.
 */

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, readFileSync, statfsSync, writeFileSync } from 'node:fs';
import * as sys from '../support/libc.ts';
import { expect, expectTimes, openScenarios, stat } from '../support/scenario.ts';

const scenario = await openScenarios();
const { O, FALLOC, SEEK } = sys;
const MIB = 1 << 20;

function withFile<T>(path: string, action: (fd: number) => T, flags: number = O.RDWR | O.CREAT): T {
  const fd = sys.open(path, flags);
  try {
    return action(fd);
  } finally {
    sys.close(fd);
  }
}
function readAt(fd: number, offset: number, length: number): Buffer {
  const data = Buffer.alloc(length);
  return data.subarray(0, sys.pread(fd, data, offset));
}

scenario('O_EXCL, O_TRUNC, O_APPEND, O_DIRECTORY and O_NOFOLLOW do what they say', (at) => {
  withFile(at('x'), (fd) => sys.write(fd, Buffer.from('hello')), O.CREAT | O.EXCL | O.RDWR);
  expect('EEXIST', () => sys.open(at('x'), O.CREAT | O.EXCL | O.RDWR));
  sys.symlink('nowhere', at('dangling'));
  expect('EEXIST', () => sys.open(at('dangling'), O.CREAT | O.EXCL | O.RDWR));
  expect('ELOOP', () => sys.open(at('dangling'), O.NOFOLLOW | O.RDONLY));
  expect('ENOTDIR', () => sys.open(at('x'), O.DIRECTORY));
  expect('EISDIR', () => sys.open(at.root, O.RDWR));
  expect('EISDIR', () => sys.open(at.root, O.WRONLY));
  withFile(
    at('x'),
    (fd) => {
      sys.lseek(fd, 0, SEEK.SET);
      sys.write(fd, Buffer.from(' world'));
    },
    O.WRONLY | O.APPEND,
  );
  assert.equal(readFileSync(at('x'), 'utf8'), 'hello world');
  expectTimes(at('x'), { mtime: true, ctime: true }, () => sys.close(sys.open(at('x'), O.WRONLY | O.TRUNC)));
  assert.equal(stat(at('x')).size, 0n);
  withFile(at('made through'), () => undefined, O.CREAT | O.RDONLY);
  sys.symlink('target', at('link'));
  withFile(at('link'), (fd) => sys.write(fd, Buffer.from('x')), O.CREAT | O.WRONLY);
  assert.equal(readFileSync(at('target'), 'utf8'), 'x');
  withFile(at('x'), (fd) => expect('EBADF', () => sys.write(fd, Buffer.from('x'))), O.RDONLY);
  withFile(at('x'), (fd) => expect('EBADF', () => sys.read(fd, Buffer.alloc(1))), O.WRONLY);
  sys.mkfifo(at('fifo'));
  expect('ENXIO', () => sys.open(at('fifo'), O.WRONLY | O.NONBLOCK));
  sys.mknod(at('socket'), sys.TYPE.SOCKET | 0o644);
  expect('ENXIO', () => sys.open(at('socket'), O.RDONLY));
});
scenario('two appenders never overwrite each other', (at) => {
  const [a, b] = [0, 1].map(() => sys.open(at('x'), O.CREAT | O.WRONLY | O.APPEND)) as [number, number];
  for (let line = 0; line < 500; line += 1) {
    sys.write(a, Buffer.from(`a${line}\n`));
    sys.write(b, Buffer.from(`b${line}\n`));
  }
  sys.close(a);
  sys.close(b);
  const lines = readFileSync(at('x'), 'utf8').split('\n');
  for (let line = 0; line < 500; line += 1)
    assert.deepEqual(lines.slice(line * 2, line * 2 + 2), [`a${line}`, `b${line}`]);
});
scenario('an executable that runs cannot be written, and a file open for writing cannot run', async (at) => {
  copyFileSync('/bin/sleep', at('x'));
  sys.chmod(at('x'), 0o755);
  const fd = sys.open(at('x'), O.RDWR);
  const refused = spawnSync(at('x'), ['0']);
  sys.close(fd);
  assert.match(String(refused.error), /ETXTBSY/);
  const child = spawn(at('x'), ['60']);
  try {
    await once(child, 'spawn');
    for (const flags of [O.WRONLY, O.RDWR, O.WRONLY | O.TRUNC])
      expect('ETXTBSY', () => sys.open(at('x'), flags));
    expect('ETXTBSY', () => sys.truncate(at('x'), 10));
    expect('ok', () => sys.close(sys.open(at('x'), O.RDONLY)));
  } finally {
    child.kill('SIGKILL');
  }
  await once(child, 'close');
  expect('ok', () => sys.close(sys.open(at('x'), O.WRONLY)));
});
for (const size of [0, 1, 511, 4095, 4096, 4097, 65_536, MIB + 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 12_345]) {
  scenario(`a file of ${size} bytes reads back, shrinks and grows with zeros`, (at) => {
    const data = randomBytes(size);
    writeFileSync(at('x'), data);
    assert.ok(readFileSync(at('x')).equals(data));
    const half = Math.floor(size / 2);
    expectTimes(at('x'), { mtime: true, ctime: true }, () => sys.truncate(at('x'), half));
    sys.truncate(at('x'), size + 10_000);
    const wanted = Buffer.alloc(size + 10_000);
    data.copy(wanted, 0, 0, half);
    assert.ok(readFileSync(at('x')).equals(wanted));
    withFile(at('x'), (fd) => {
      sys.pwrite(fd, Buffer.from('end'), size + 20_000);
      assert.equal(readAt(fd, size + 19_990, 100).toString('latin1'), `${'\0'.repeat(10)}end`);
      assert.equal(readAt(fd, size + 30_000, 5).length, 0);
    });
  });
}
scenario('truncate refuses what is no file and what is negative or too large', (at) => {
  expect('EISDIR', () => sys.truncate(at.root, 0));
  writeFileSync(at('x'), 'x');
  expect('EINVAL', () => sys.truncate(at('x'), -1));
  expect('EFBIG', () => sys.truncate(at('x'), 2 ** 50));
  withFile(at('x'), (fd) => expect('EINVAL', () => sys.ftruncate(fd, 1)), O.RDONLY);
  withFile(at('x'), (fd) => expect('EINVAL', () => sys.ftruncate(fd, -1)));
  withFile(at('x'), (fd) => expect('EFBIG', () => sys.pwrite(fd, Buffer.from('x'), 2 ** 44)));
  withFile(at('x'), (fd) => expect('EINVAL', () => sys.pwrite(fd, Buffer.from('x'), -1)));
  assert.equal(stat(at('x')).size, 1n);
});
scenario('a sparse file reaches almost 16 TiB and uses next to nothing', (at) => {
  const last = 2 ** 44 - 8192;
  withFile(at('x'), (fd) => {
    sys.pwrite(fd, Buffer.from('far'), last);
    assert.equal(readAt(fd, last, 10).toString(), 'far');
    assert.deepEqual(readAt(fd, 2 ** 43 + 5, 4096), Buffer.alloc(4096));
    assert.equal(stat(at('x')).size, BigInt(last + 3));
    assert.ok(stat(at('x')).blocks < 2048n);
    assert.equal(sys.lseek(fd, last + 1, SEEK.DATA), last + 1);
    assert.ok(sys.lseek(fd, 4096, SEEK.DATA) <= last);
    sys.ftruncate(fd, 10);
    assert.deepEqual(readAt(fd, 0, 20), Buffer.alloc(10));
  });
});
scenario('SEEK_DATA never skips data and SEEK_HOLE ends at the end', (at) => {
  withFile(at('x'), (fd) => {
    expect('ENXIO', () => sys.lseek(fd, 0, SEEK.DATA));
    const islands = [0, 3 * MIB, 17 * MIB, 18 * MIB];
    for (const offset of islands) sys.pwrite(fd, Buffer.alloc(5000, 1), offset);
    sys.ftruncate(fd, 40 * MIB);
    for (const offset of islands) {
      for (const probe of [offset, offset + 1, offset + 4999])
        assert.equal(sys.lseek(fd, probe, SEEK.DATA), probe);
    }
    assert.ok(sys.lseek(fd, MIB, SEEK.DATA) <= 3 * MIB);
    assert.ok(sys.lseek(fd, 0, SEEK.HOLE) >= 5000);
    assert.ok(sys.lseek(fd, 18 * MIB, SEEK.HOLE) >= 18 * MIB + 5000);
    assert.ok(sys.lseek(fd, 18 * MIB, SEEK.HOLE) <= 40 * MIB);
    expect('ENXIO', () => sys.lseek(fd, 40 * MIB, SEEK.DATA));
    expect('ENXIO', () => sys.lseek(fd, 40 * MIB, SEEK.HOLE));
    expect('ENXIO', () => sys.lseek(fd, 41 * MIB, SEEK.HOLE));
  });
});
const MODES: [string, number, (offset: number, length: number, size: number) => number, boolean][] = [
  ['allocate', 0, (offset, length, size) => Math.max(size, offset + length), false],
  ['allocate and keep the size', FALLOC.KEEP_SIZE, (_offset, _length, size) => size, false],
  ['punch a hole', FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, (_offset, _length, size) => size, true],
  ['zero a range', FALLOC.ZERO_RANGE, (offset, length, size) => Math.max(size, offset + length), true],
  ['zero a range and keep the size', FALLOC.ZERO_RANGE | FALLOC.KEEP_SIZE, (_o, _l, size) => size, true],
];
for (const [name, mode, sizeAfter, zeroes] of MODES) {
  scenario(`fallocate: ${name}, at every edge`, (at) => {
    const data = randomBytes(5 * MIB + 333);
    withFile(at('x'), (fd) => {
      for (const [offset, length] of [
        [0, 1],
        [100, 5000],
        [4096, 8192],
        [4 * MIB - 7, 14],
        [5 * MIB, 10_000],
        [6 * MIB, 50],
        [0, 5 * MIB + 333],
      ] as const) {
        sys.ftruncate(fd, 0);
        sys.pwrite(fd, data, 0);
        sys.fallocate(fd, mode, offset, length);
        const wanted = Buffer.alloc(sizeAfter(offset, length, data.length));
        data.copy(wanted);
        if (zeroes) wanted.fill(0, offset, Math.min(wanted.length, offset + length));
        assert.ok(readFileSync(at('x')).equals(wanted), `${offset}+${length}`);
      }
      expect('EINVAL', () => sys.fallocate(fd, mode, -1, 10));
      expect('EINVAL', () => sys.fallocate(fd, mode, 0, 0));
      expect('EINVAL', () => sys.fallocate(fd, mode, 0, -5));
      expect('EFBIG', () => sys.fallocate(fd, mode, 2 ** 52, 2 ** 52));
    });
    withFile(at('x'), (fd) => expect('EBADF', () => sys.fallocate(fd, mode, 0, 10)), O.RDONLY);
  });
}
scenario('punching a hole without KEEP_SIZE is refused', (at) => {
  withFile(at('x'), (fd) => expect('EOPNOTSUPP', () => sys.fallocate(fd, FALLOC.PUNCH_HOLE, 0, 10)));
});
scenario('copy_file_range copies between files and within one', (at) => {
  const data = randomBytes(6 * MIB);
  writeFileSync(at('a'), data);
  const wanted = Buffer.alloc(7 * MIB + 10);
  withFile(at('a'), (from) =>
    withFile(at('b'), (to) => {
      copyAll({ fd: from, offset: 0 }, { fd: to, offset: 10 }, 6 * MIB);
      data.copy(wanted, 10);
      copyAll({ fd: from, offset: 4 * MIB - 5 }, { fd: to, offset: 3 }, 100);
      data.copy(wanted, 3, 4 * MIB - 5, 4 * MIB + 95);
      copyAll({ fd: to, offset: 0 }, { fd: to, offset: 6 * MIB }, MIB);
      wanted.copy(wanted, 6 * MIB, 0, MIB);
      assert.ok(readFileSync(at('b')).equals(wanted.subarray(0, 7 * MIB)));
      assert.equal(sys.copyFileRange({ fd: from, offset: 6 * MIB }, { fd: to, offset: 0 }, 10), 0);
      expect('EINVAL', () => sys.copyFileRange({ fd: to, offset: 0 }, { fd: to, offset: 50 }, 100));
      expect('EINVAL', () => sys.copyFileRange({ fd: from, offset: 0 }, { fd: to, offset: 0 }, 100, 1));
    }),
  );
  withFile(
    at('a'),
    (ro) => expect('EBADF', () => copyAll({ fd: ro, offset: 0 }, { fd: ro, offset: 9 }, 5)),
    O.RDONLY,
  );
});
function copyAll(
  from: { fd: number; offset: number },
  to: { fd: number; offset: number },
  length: number,
): void {
  for (let done = 0; done < length; ) {
    const step = sys.copyFileRange(
      { fd: from.fd, offset: from.offset + done },
      { fd: to.fd, offset: to.offset + done },
      length - done,
    );
    assert.ok(step > 0, 'a copy that does not advance');
    done += step;
  }
}
scenario('a shared mapping and read/write see each other', (at) => {
  const data = randomBytes(3 * MIB);
  writeFileSync(at('x'), data);
  withFile(at('x'), (fd) => {
    using mapping = sys.mmap(fd, data.length, { write: true, shared: true });
    assert.ok(mapping.read(0, data.length).equals(data));
    mapping.write(5000, Buffer.from('through the map'));
    assert.equal(readAt(fd, 5000, 15).toString(), 'through the map');
    sys.pwrite(fd, Buffer.from('through write'), 2 * MIB + 1);
    assert.equal(mapping.read(2 * MIB + 1, 13).toString(), 'through write');
    mapping.sync();
    sys.dropCache(fd);
    assert.equal(readAt(fd, 5000, 15).toString(), 'through the map');
  });
  assert.equal(readFileSync(at('x')).toString('utf8', 5000, 5015), 'through the map');
});
scenario('what a mapping wrote after close is in the file', (at) => {
  writeFileSync(at('x'), Buffer.alloc(10_000));
  const fd = sys.open(at('x'), O.RDWR);
  {
    using mapping = sys.mmap(fd, 10_000, { write: true, shared: true });
    sys.close(fd);
    mapping.write(9000, Buffer.from('late'));
  }
  assert.equal(readFileSync(at('x')).toString('utf8', 9000, 9004), 'late');
});
scenario('a private mapping changes nothing', (at) => {
  writeFileSync(at('x'), 'original');
  withFile(at('x'), (fd) => {
    using mapping = sys.mmap(fd, 8, { write: true, shared: false });
    mapping.write(0, Buffer.from('mine'));
    assert.equal(mapping.read(0, 8).toString(), 'mineinal');
  });
  assert.equal(readFileSync(at('x'), 'utf8'), 'original');
});
scenario('a shared writable mapping needs write permission', (at) => {
  writeFileSync(at('x'), 'original');
  withFile(at('x'), (fd) => expect('EACCES', () => sys.mmap(fd, 8, { write: true, shared: true })), O.RDONLY);
});
scenario('writes move mtime and ctime, reads neither', (at) => {
  writeFileSync(at('x'), 'content');
  withFile(at('x'), (fd) => {
    expectTimes(at('x'), { mtime: true, ctime: true }, () => sys.pwrite(fd, Buffer.from('x'), 0));
    expectTimes(at('x'), { mtime: false, ctime: false }, () => readAt(fd, 0, 5));
    expectTimes(at('x'), { mtime: true, ctime: true }, () => sys.ftruncate(fd, 100));
    expectTimes(at('x'), { mtime: false, ctime: false }, () => sys.pwrite(fd, Buffer.alloc(0), 0));
  });
});
scenario('statfs tells sizes that make sense', (at) => {
  const figures = statfsSync(at.root, { bigint: true });
  assert.ok(figures.bsize >= 512n && figures.blocks > 0n);
  assert.ok(figures.bfree <= figures.blocks && figures.bavail <= figures.bfree);
});
