/**
 * Names and links: rename over every combination of types, link counts, times of directories, unlinked files
 * that stay open, odd names, and listings while the directory changes.
 */

import assert from 'node:assert/strict';
import { opendirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import * as sys from '../support/libc.ts';
import { expect, expectTimes, openScenarios, stat } from '../support/scenario.ts';

const scenario = await openScenarios();

const KINDS: Record<string, (path: string) => unknown> = {
  file: (path) => writeFileSync(path, path),
  'empty directory': (path) => sys.mkdir(path),
  'full directory': (path) => {
    sys.mkdir(path);
    sys.mkdir(`${path}/child`);
  },
  symlink: (path) => sys.symlink('nowhere', path),
  fifo: (path) => sys.mkfifo(path),
  socket: (path) => sys.mknod(path, sys.TYPE.SOCKET | 0o644),
  'block device': (path) => sys.mknod(path, sys.TYPE.BLOCK | 0o644, 0x102),
};
const isDirectory = (kind: string): boolean => kind.endsWith('directory');

function replaceCode(from: string, to: string): string {
  if (isDirectory(from) && !isDirectory(to)) return 'ENOTDIR';
  if (!isDirectory(from) && isDirectory(to)) return 'EISDIR';
  return to === 'full directory' ? 'ENOTEMPTY' : 'ok';
}

for (const [from, makeFrom] of Object.entries(KINDS)) {
  for (const [to, makeTo] of Object.entries(KINDS)) {
    scenario(`rename of a ${from} over a ${to}: ${replaceCode(from, to)}`, (at) => {
      makeFrom(at('from'));
      makeTo(at('to'));
      const [a, b] = [stat(at('from')).ino, stat(at('to')).ino];
      expect('EEXIST', () => sys.rename(at('from'), at('to'), sys.RENAME.NOREPLACE));
      expect('ok', () => sys.rename(at('from'), at('to'), sys.RENAME.EXCHANGE));
      assert.deepEqual([stat(at('to')).ino, stat(at('from')).ino], [a, b]);
      sys.rename(at('from'), at('to'), sys.RENAME.EXCHANGE);
      const code = replaceCode(from, to);
      expect(code, () => sys.rename(at('from'), at('to')));
      assert.equal(stat(at('to')).ino, code === 'ok' ? a : b);
      expect(code === 'ok' ? 'ENOENT' : 'ok', () => stat(at('from')));
    });
  }
  scenario(`rename moves a ${from} to another directory, with times and link counts`, (at) => {
    sys.mkdir(at('a'));
    sys.mkdir(at('b'));
    makeFrom(at('a/x'));
    const ino = stat(at('a/x')).ino;
    expectTimes(at('a'), { mtime: true, ctime: true }, () => sys.rename(at('a/x'), at('b/y')));
    expectTimes(at('b'), { mtime: true, ctime: true }, () => sys.rename(at('b/y'), at('b/z')));
    expectTimes(at('b/z'), { mtime: false, ctime: true }, () => sys.rename(at('b/z'), at('b/y')), at('b/y'));
    assert.equal(stat(at('b/y')).ino, ino);
    assert.equal(stat(at('a')).nlink, 2n);
    assert.equal(stat(at('b')).nlink, isDirectory(from) ? 3n : 2n);
    expect('ok', () => sys.rename(at('b/y'), at('a/y'), sys.RENAME.NOREPLACE));
    expect('ENOENT', () => sys.rename(at('a/none'), at('a/y')));
    expect('ENOENT', () => sys.rename(at('a/y'), at('a/none'), sys.RENAME.EXCHANGE));
  });
}

scenario('rename refuses a directory below itself, dots, and flags that fight', (at) => {
  sys.mkdir(at('d'));
  sys.mkdir(at('d/e'));
  expect('EINVAL', () => sys.rename(at('d'), at('d/e/f')));
  expect('EINVAL', () => sys.rename(at('d'), at('d/x')));
  expect('EINVAL', () => sys.rename(at('d'), at('d/e'), sys.RENAME.EXCHANGE));
  expect('ENOTEMPTY', () => sys.rename(at('d/e'), at('d')));
  for (const dot of ['d/.', 'd/..']) expect('EBUSY', () => sys.rename(at(dot), at('x')));
  for (const dot of ['d/.', 'd/..']) expect('EBUSY', () => sys.rename(at('d/e'), at(dot)));
  expect('EINVAL', () => sys.rename(at('d'), at('x'), sys.RENAME.EXCHANGE | sys.RENAME.NOREPLACE));
  expect('EINVAL', () => sys.rename(at('d'), at('x'), 1 << 20));
  expect('EXDEV', () => sys.rename(at('d'), '/dev/warren-none'));
});
scenario('rename between two links of one file does nothing', (at) => {
  writeFileSync(at('a'), 'x');
  sys.link(at('a'), at('b'));
  sys.rename(at('a'), at('b'));
  assert.equal(stat(at('a')).nlink, 2n);
  assert.equal(stat(at('a')).ino, stat(at('b')).ino);
});
scenario('link counts a file, refuses a directory, and shows one content under all names', (at) => {
  writeFileSync(at('a'), 'x');
  for (let count = 1; count <= 200; count += 1) sys.link(at('a'), at(`l${count}`));
  assert.equal(stat(at('l7')).nlink, 201n);
  expectTimes(at('a'), { mtime: false, ctime: true }, () => sys.link(at('a'), at('again')));
  expectTimes(at.root, { mtime: true, ctime: true }, () => sys.unlink(at('again')));
  writeFileSync(at('l3'), 'changed');
  assert.equal(readFileSync(at('l200'), 'utf8'), 'changed');
  for (let count = 1; count <= 200; count += 1) sys.unlink(at(`l${count}`));
  assert.equal(stat(at('a')).nlink, 1n);
  sys.mkdir(at('d'));
  expect('EPERM', () => sys.link(at('d'), at('d2')));
  expect('EXDEV', () => sys.link(at('a'), '/dev/warren-none'));
  sys.symlink('a', at('s'));
  sys.link(at('s'), at('s2'));
  assert.equal(readlinkSync(at('s2')), 'a');
});
scenario('a directory counts itself, its parent entry and its subdirectories', (at) => {
  sys.mkdir(at('d'));
  assert.equal(stat(at('d')).nlink, 2n);
  for (let count = 1; count <= 30; count += 1) sys.mkdir(at(`d/${count}`));
  assert.equal(stat(at('d')).nlink, 32n);
  expect('ENOTEMPTY', () => sys.rmdir(at('d')));
  for (let count = 1; count <= 30; count += 1) sys.rmdir(at(`d/${count}`));
  assert.equal(stat(at('d')).nlink, 2n);
  expect('EINVAL', () => sys.rmdir(at('d/.')));
  expect('ENOTEMPTY', () => sys.rmdir(at('d/..')));
  expect('EISDIR', () => sys.unlink(at('d')));
  writeFileSync(at('f'), '');
  expect('ENOTDIR', () => sys.rmdir(at('f')));
  sys.symlink('d', at('s'));
  expect('ENOTDIR', () => sys.rmdir(at('s')));
  expect('ok', () => sys.rmdir(at('d')));
});
scenario('making and removing names moves the times of the directory', (at) => {
  const moved = { mtime: true, ctime: true };
  for (const [kind, make] of Object.entries(KINDS)) {
    if (kind === 'full directory') continue;
    expectTimes(at.root, moved, () => make(at('x')));
    expectTimes(at.root, moved, () => (isDirectory(kind) ? sys.rmdir(at('x')) : sys.unlink(at('x'))));
  }
});
scenario('an unlinked file stays whole while it is open', (at) => {
  const fd = sys.open(at('x'), sys.O.CREAT | sys.O.RDWR);
  sys.pwrite(fd, Buffer.from('before'), 0);
  sys.unlink(at('x'));
  expect('ENOENT', () => stat(at('x')));
  writeFileSync(at('x'), 'another');
  sys.pwrite(fd, Buffer.from('after'), 6);
  sys.ftruncate(fd, 10);
  const data = Buffer.alloc(20);
  assert.equal(sys.pread(fd, data, 0), 10);
  assert.equal(data.toString('utf8', 0, 10), 'beforeafte');
  sys.setxattr(fd, 'user.late', Buffer.from('yes'));
  assert.equal(sys.getxattr(fd, 'user.late').toString(), 'yes');
  expect('ENOENT', () => sys.linkDescriptor(fd, at('back')));
  sys.close(fd);
  assert.equal(readFileSync(at('x'), 'utf8'), 'another');
});
scenario('a removed directory that is open lists nothing and takes no names', (at) => {
  sys.mkdir(at('d'));
  const directory = opendirSync(at('d'));
  sys.rmdir(at('d'));
  assert.equal(directory.readSync(), null);
  directory.closeSync();
  expect('ENOENT', () => sys.mkdir(at('d/x')));
});
scenario('O_TMPFILE makes a file without a name and link gives it one', (at) => {
  const fd = sys.open(at.root, sys.O.TMPFILE | sys.O.RDWR, 0o640);
  sys.pwrite(fd, Buffer.from('hidden'), 0);
  assert.deepEqual(readdirSync(at.root), []);
  sys.linkDescriptor(fd, at('shown'));
  assert.equal(readFileSync(at('shown'), 'utf8'), 'hidden');
  assert.equal(stat(at('shown')).nlink, 1n);
  expect('EEXIST', () => sys.linkDescriptor(fd, at('shown')));
  sys.close(fd);
  const closed = sys.open(at.root, sys.O.TMPFILE | sys.O.RDWR | sys.O.EXCL, 0o640);
  expect('ENOENT', () => sys.linkDescriptor(closed, at('never')));
  sys.close(closed);
});
scenario('names are bytes: every byte but slash and NUL, up to 255 of them', (at) => {
  const wanted: Buffer[] = [];
  for (let byte = 1; byte < 256; byte += 1) {
    if (byte !== 0x2f) wanted.push(Buffer.from([0x62, byte, 0x65]));
  }
  wanted.push(
    Buffer.alloc(255, 0xff),
    Buffer.from('a\nb'),
    Buffer.from(' '),
    Buffer.from('...'),
    Buffer.from('é'),
  );
  for (const name of wanted) writeFileSync(Buffer.concat([Buffer.from(at('')), name]), name);
  const found = readdirSync(at.root, { encoding: 'buffer' });
  const sorted = (names: Buffer[]): string[] => names.map((name) => name.toString('hex')).sort();
  assert.deepEqual(sorted(found), sorted(wanted));
  for (const name of wanted) {
    const path = Buffer.concat([Buffer.from(at('')), name]);
    assert.deepEqual(readFileSync(path), name);
    sys.unlink(path);
  }
});
scenario('a symlink keeps its target byte for byte, from 1 to 4095 bytes', (at) => {
  for (const length of [1, 59, 60, 61, 255, 256, 1023, 1024, 4000, 4095]) {
    const target = Buffer.alloc(length, 0xfe);
    sys.symlink(target, at(`s${length}`));
    assert.deepEqual(readlinkSync(at(`s${length}`), { encoding: 'buffer' }), target);
    assert.equal(stat(at(`s${length}`)).size, BigInt(length));
  }
  expect('ENAMETOOLONG', () => sys.symlink('t'.repeat(4096), at('long')));
  expect('ENOENT', () => sys.symlink('', at('empty')));
  writeFileSync(at('f'), '');
  expect('EINVAL', () => readlinkSync(at('f')));
});
scenario('forty symlinks resolve and one more is a loop', (at) => {
  writeFileSync(at('l0'), 'end');
  for (let step = 1; step <= 41; step += 1) sys.symlink(`l${step - 1}`, at(`l${step}`));
  assert.equal(readFileSync(at('l40'), 'utf8'), 'end');
  expect('ELOOP', () => readFileSync(at('l41')));
});
scenario('a listing shows every surviving name exactly once while others come and go', (at) => {
  const keep = new Set<string>();
  for (let index = 0; index < 3000; index += 1) {
    const name = `${index % 3 === 0 ? 'keep' : 'drop'}-${index}`;
    sys.close(sys.open(at(name), sys.O.CREAT | sys.O.WRONLY));
    if (index % 3 === 0) keep.add(name);
  }
  const directory = opendirSync(at.root, { bufferSize: 16 });
  const seen: string[] = [];
  for (let entry = directory.readSync(), step = 0; entry !== null; entry = directory.readSync(), step += 1) {
    seen.push(entry.name);
    if (step % 2 === 0) sys.close(sys.open(at(`new-${step}`), sys.O.CREAT | sys.O.WRONLY));
    const drop = step * 3 + 1;
    if (drop < 3000) sys.unlink(at(`drop-${drop}`));
  }
  directory.closeSync();
  assert.equal(new Set(seen).size, seen.length, 'no name twice');
  const names = new Set(seen);
  for (const name of keep) assert.ok(names.has(name), `${name} was lost`);
});
scenario('deleting while listing empties a directory in one pass', (at) => {
  for (let index = 0; index < 2500; index += 1)
    sys.close(sys.open(at(`f${index}`), sys.O.CREAT | sys.O.WRONLY));
  const directory = opendirSync(at.root);
  for (let entry = directory.readSync(); entry !== null; entry = directory.readSync())
    sys.unlink(at(entry.name));
  directory.closeSync();
  assert.deepEqual(readdirSync(at.root), []);
});
scenario('a file takes 65,000 links', (at) => {
  writeFileSync(at('a'), 'x');
  for (let count = 1; count < 65_000; count += 1) sys.link(at('a'), at(`l${count}`));
  assert.equal(stat(at('a')).nlink, 65_000n);
});
scenario('a position in a listing stays good while names come and go', (at) => {
  for (let index = 0; index < 1500; index += 1) sys.mkfifo(at(`n${index}`));
  using stream = sys.openDirectory(at.root);
  const positions: bigint[] = [];
  const names: string[] = [];
  for (;;) {
    positions.push(stream.tell());
    const name = stream.next();
    if (name === undefined) break;
    names.push(name.toString());
  }
  assert.equal(names.length, 1502);
  assert.ok(names.includes('.') && names.includes('..'));
  const removed = new Set(names.filter((name, index) => index % 3 === 0 && name.startsWith('n')));
  for (const name of removed) sys.unlink(at(name));
  for (let index = 0; index < 300; index += 1) sys.mkfifo(at(`later${index}`));
  for (const from of [0, 1, 2, 5, 100, 777, 1400, 1501]) {
    stream.seek(positions[from]!);
    const rest: string[] = [];
    for (let name = stream.next(); name !== undefined; name = stream.next()) rest.push(name.toString());
    const old = rest.filter((name) => !name.startsWith('later') && !removed.has(name));
    assert.deepEqual(
      old,
      names.slice(from).filter((name) => !removed.has(name)),
      `from ${from}`,
    );
  }
});
scenario('a listing tells types, and counts of 20,000 names are right', (at) => {
  for (let index = 0; index < 20_000; index += 1) sys.mknod(at(`file-${index}`), sys.TYPE.FILE | 0o644);
  sys.mkdir(at('directory'));
  sys.symlink('x', at('symlink'));
  sys.mkfifo(at('fifo'));
  const entries = readdirSync(at.root, { withFileTypes: true });
  assert.equal(entries.length, 20_003);
  const kinds = new Map(entries.map((entry) => [entry.name, entry]));
  assert.ok(kinds.get('directory')!.isDirectory() && kinds.get('symlink')!.isSymbolicLink());
  assert.ok(kinds.get('fifo')!.isFIFO() && kinds.get('file-77')!.isFile());
});
