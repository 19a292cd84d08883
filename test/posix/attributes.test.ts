/**
 * Extended attributes, POSIX ACLs and time stamps: names, sizes, flags and errors as on ext4.
 */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import * as sys from '../support/libc.ts';
import { requirePackage, run } from '../support/requirements.ts';
import { expect, expectTimes, mode, openScenarios, stat } from '../support/scenario.ts';

const scenario = await openScenarios();
const ALICE = 65533;
const BOB = 65532;
const as = <T>(uid: number, action: () => T): T => sys.asUser(uid, uid, action);
const time = (seconds: number, nanoseconds = 0): sys.Time => ({ seconds, nanoseconds });
const NOW = time(0, sys.UTIME.NOW);
const OMIT = time(0, sys.UTIME.OMIT);

for (const space of ['user', 'trusted', 'security']) {
  scenario(`xattrs in ${space}. are set, read, listed and removed`, (at) => {
    writeFileSync(at('x'), '');
    const name = `${space}.name`;
    expect('ENODATA', () => sys.getxattr(at('x'), name));
    expect('ENODATA', () => sys.setxattr(at('x'), name, Buffer.from('v'), sys.XATTR.REPLACE));
    expectTimes(at('x'), { mtime: false, ctime: true }, () =>
      sys.setxattr(at('x'), name, Buffer.from('first'), sys.XATTR.CREATE),
    );
    expect('EEXIST', () => sys.setxattr(at('x'), name, Buffer.from('v'), sys.XATTR.CREATE));
    sys.setxattr(at('x'), name, Buffer.from('second'), sys.XATTR.REPLACE);
    assert.equal(sys.getxattr(at('x'), name).toString(), 'second');
    assert.ok(sys.listxattr(at('x')).includes(name));
    assert.equal(sys.getxattrInto(at('x'), name, 0), 6);
    expect('ERANGE', () => sys.getxattrInto(at('x'), name, 5));
    expect('ERANGE', () => sys.listxattrInto(at('x'), 3));
    assert.ok(sys.listxattrInto(at('x'), 0) >= name.length + 1);
    expectTimes(at('x'), { mtime: false, ctime: true }, () => sys.removexattr(at('x'), name));
    expect('ENODATA', () => sys.removexattr(at('x'), name));
    assert.ok(!sys.listxattr(at('x')).includes(name));
  });
}
scenario('security labels are "not supported" until one is set, and then as any other attribute', (at) => {
  writeFileSync(at('labelled'), '');
  writeFileSync(at('plain'), '');
  const name = 'security.selinux';
  const label = Buffer.from('system_u:object_r:etc_t:s0\0');
  sys.setxattr(at('plain'), 'user.other', label);
  // ext4 says ENODATA, and then `ls -l` asks every file.
  if (process.env['WARREN_TEST_DIR'] === undefined)
    expect('EOPNOTSUPP', () => sys.getxattr(at('plain'), name));
  expect('ENODATA', () => sys.removexattr(at('plain'), name));
  sys.setxattr(at('labelled'), name, label, sys.XATTR.CREATE);
  assert.deepEqual(sys.getxattr(at('labelled'), name), label);
  assert.deepEqual(sys.listxattr(at('labelled')), [name]);
  expect('ENODATA', () => sys.getxattr(at('plain'), name));
  sys.removexattr(at('labelled'), name);
  expect('ENODATA', () => sys.getxattr(at('labelled'), name));
});
scenario('xattr values keep every byte, from none to 3000', (at) => {
  writeFileSync(at('x'), '');
  for (const size of [0, 1, 2, 100, 255, 256, 1000, 3000]) {
    const value = randomBytes(size);
    sys.setxattr(at('x'), 'user.value', value);
    assert.deepEqual(sys.getxattr(at('x'), 'user.value'), value);
    const fd = sys.open(at('x'), sys.O.RDONLY);
    assert.deepEqual(sys.getxattr(fd, 'user.value'), value);
    sys.close(fd);
  }
});
scenario('many xattrs stay apart', (at) => {
  sys.mkdir(at('d'));
  for (let index = 0; index < 50; index += 1)
    sys.setxattr(at('d'), `user.n${index}`, Buffer.from(`v${index}`));
  assert.equal(sys.listxattr(at('d')).length, 50);
  for (let index = 0; index < 50; index += 2) sys.removexattr(at('d'), `user.n${index}`);
  for (let index = 1; index < 50; index += 2)
    assert.equal(sys.getxattr(at('d'), `user.n${index}`).toString(), `v${index}`);
});
scenario('xattrs refuse bad names, sizes, flags and users', (at) => {
  writeFileSync(at('x'), '');
  const value = Buffer.from('v');
  expect('ok', () => sys.setxattr(at('x'), `user.${'n'.repeat(250)}`, value));
  expect('ERANGE', () => sys.setxattr(at('x'), `user.${'n'.repeat(251)}`, value));
  expect('ERANGE', () => sys.setxattr(at('x'), '', value));
  expect('EINVAL', () => sys.setxattr(at('x'), 'user.', value));
  expect('EOPNOTSUPP', () => sys.setxattr(at('x'), 'nonsense.name', value));
  expect('EOPNOTSUPP', () => sys.setxattr(at('x'), 'name', value));
  expect('E2BIG', () => sys.setxattr(at('x'), 'user.big', Buffer.alloc(65_537)));
  expect('EINVAL', () => sys.setxattr(at('x'), 'user.flags', value, 8));
  sys.chmod(at('x'), 0o644);
  expect('EACCES', () => as(ALICE, () => sys.setxattr(at('x'), 'user.mine', value)));
  expect('EPERM', () => as(ALICE, () => sys.setxattr(at('x'), 'trusted.mine', value)));
  expect('EPERM', () => as(ALICE, () => sys.setxattr(at('x'), 'security.mine', value)));
  sys.setxattr(at('x'), 'trusted.hidden', value);
  assert.ok(!as(ALICE, () => sys.listxattr(at('x'))).includes('trusted.hidden'));
  expect('ENODATA', () => as(ALICE, () => sys.getxattr(at('x'), 'trusted.hidden')));
});
scenario('user. xattrs are for files and directories only', (at) => {
  sys.symlink('nowhere', at('s'));
  sys.mkfifo(at('fifo'));
  const value = Buffer.from('v');
  expect('EPERM', () => sys.setxattr(at('s'), 'user.x', value, 0, false));
  expect('EPERM', () => sys.setxattr(at('fifo'), 'user.x', value));
  expect('ok', () => sys.setxattr(at('s'), 'trusted.x', value, 0, false));
  assert.deepEqual(sys.listxattr(at('s'), false), ['trusted.x']);
  assert.equal(sys.getxattr(at('s'), 'trusted.x', false).toString(), 'v');
  sys.mkdir(at('sticky'));
  sys.chmod(at('sticky'), 0o1777);
  expect('EPERM', () => as(ALICE, () => sys.setxattr(at('sticky'), 'user.x', value)));
});
scenario('xattrs follow a rename and a link', (at) => {
  writeFileSync(at('x'), '');
  sys.setxattr(at('x'), 'user.tag', Buffer.from('kept'));
  sys.link(at('x'), at('y'));
  sys.rename(at('x'), at('z'));
  for (const name of ['y', 'z']) assert.equal(sys.getxattr(at(name), 'user.tag').toString(), 'kept');
});

const acl = (path: string): string => run(requirePackage('getfacl', 'acl'), ['-cpn', path]);
const setAcl = (...words: string[]): string => run(requirePackage('setfacl', 'acl'), words);
scenario('an ACL lets one more user in, and the mask and chmod limit it', (at) => {
  writeFileSync(at('x'), 'secret', { mode: 0o600 });
  sys.chmod(at('x'), 0o600);
  expect('EACCES', () => as(ALICE, () => readFileSync(at('x'))));
  setAcl('-m', `u:${ALICE}:rw`, at('x'));
  assert.equal(mode(at('x')), 0o660);
  expect('ok', () => as(ALICE, () => readFileSync(at('x'))));
  expect('EACCES', () => as(BOB, () => readFileSync(at('x'))));
  assert.match(acl(at('x')), new RegExp(`user:${ALICE}:rw-`));
  sys.chmod(at('x'), 0o640);
  assert.match(acl(at('x')), /mask::r--/);
  expect('EACCES', () => as(ALICE, () => sys.close(sys.open(at('x'), sys.O.RDWR))));
  expect('ok', () => as(ALICE, () => sys.close(sys.open(at('x'), sys.O.RDONLY))));
  setAcl('-m', `g:${BOB}:r`, at('x'));
  expect('ok', () => as(BOB, () => sys.close(sys.open(at('x'), sys.O.RDONLY))));
  setAcl('-b', at('x'));
  expect('EACCES', () => as(ALICE, () => readFileSync(at('x'))));
  assert.deepEqual(sys.listxattr(at('x')), []);
});
scenario('a default ACL is inherited, and then the umask does not count', (at) => {
  sys.mkdir(at('d'));
  setAcl('-d', '-m', `u::rwx,g::r-x,o::---,u:${ALICE}:rwx,m::rwx`, at('d'));
  sys.close(sys.open(at('d/file'), sys.O.CREAT | sys.O.WRONLY, 0o666));
  sys.mkdir(at('d/sub'), 0o777);
  assert.equal(mode(at('d/file')), 0o660);
  assert.equal(mode(at('d/sub')), 0o770);
  assert.match(acl(at('d/file')), new RegExp(`user:${ALICE}:rwx\\s+#effective:rw-`));
  assert.match(acl(at('d/sub')), new RegExp(`default:user:${ALICE}:rwx`));
  expect('ok', () => as(ALICE, () => writeFileSync(at('d/sub/by-alice'), 'x')));
  expect('EACCES', () => as(BOB, () => readdirSync(at('d/sub'))));
  setAcl('-k', at('d'));
  sys.close(sys.open(at('d/plain'), sys.O.CREAT | sys.O.WRONLY, 0o666));
  assert.equal(mode(at('d/plain')), 0o644);
});
scenario('only the owner sets an ACL', (at) => {
  writeFileSync(at('x'), '');
  setAcl('-m', `u:${ALICE}:rwx`, at('x'));
  const value = sys.getxattr(at('x'), 'system.posix_acl_access');
  expect('EPERM', () => as(ALICE, () => sys.setxattr(at('x'), 'system.posix_acl_access', value)));
  expect('EACCES', () => sys.setxattr(at('x'), 'system.posix_acl_default', value));
  expect('EINVAL', () => sys.setxattr(at('x'), 'system.posix_acl_access', Buffer.from([2, 0, 0, 0, 1])));
});

for (const [seconds, nanoseconds] of [
  [0, 0],
  [1, 123_456_789],
  [-1, 999_999_999],
  [-(2 ** 31), 0],
  [2 ** 31, 1],
  [2 ** 33, 500_000_001],
  [1_700_000_000, 999_999_999],
] as const) {
  scenario(`utimensat keeps ${seconds} s ${nanoseconds} ns`, (at) => {
    writeFileSync(at('x'), '');
    sys.mkdir(at('d'));
    sys.symlink('x', at('s'));
    const wanted = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
    for (const name of ['x', 'd', 's']) {
      sys.utimens(at(name), { atime: time(seconds, nanoseconds), mtime: time(seconds, nanoseconds) }, false);
      assert.equal(stat(at(name)).mtimeNs, wanted);
      assert.equal(stat(at(name)).atimeNs, wanted);
    }
  });
}
scenario('utimensat knows NOW and OMIT, and moves ctime', (at) => {
  writeFileSync(at('x'), '');
  sys.utimens(at('x'), { atime: time(100), mtime: time(200) });
  expectTimes(at('x'), { mtime: false, ctime: true }, () =>
    sys.utimens(at('x'), { atime: time(300), mtime: OMIT }),
  );
  assert.equal(stat(at('x')).atimeNs, 300_000_000_000n);
  sys.utimens(at('x'), { atime: OMIT, mtime: NOW });
  const age = BigInt(Date.now()) * 1_000_000n - stat(at('x')).mtimeNs;
  assert.ok(age > -1_000_000_000n && age < 60_000_000_000n);
  assert.equal(stat(at('x')).atimeNs, 300_000_000_000n);
  const before = stat(at('x'));
  sys.utimens(at('x'), { atime: OMIT, mtime: OMIT });
  assert.equal(stat(at('x')).ctimeNs, before.ctimeNs);
  expect('EINVAL', () => sys.utimens(at('x'), { atime: time(0, 1_000_000_000), mtime: OMIT }));
});
scenario('setting times is for the owner, setting them to now for writers too', (at) => {
  writeFileSync(at('x'), '');
  sys.chmod(at('x'), 0o666);
  const set = (): unknown => sys.utimens(at('x'), { atime: time(1), mtime: time(1) });
  expect('EPERM', () => as(ALICE, set));
  expect('ok', () => as(ALICE, () => sys.utimens(at('x'), { atime: NOW, mtime: NOW })));
  expect('ok', () => as(ALICE, () => sys.touch(at('x'))));
  expect('EPERM', () => as(ALICE, () => sys.utimens(at('x'), { atime: NOW, mtime: OMIT })));
  sys.chmod(at('x'), 0o644);
  expect('EACCES', () => as(ALICE, () => sys.touch(at('x'))));
  sys.chown(at('x'), ALICE, ALICE);
  expect('ok', () => as(ALICE, set));
});
scenario('relatime: the first read after a write moves atime, the next does not', (at) => {
  writeFileSync(at('x'), 'content');
  sys.utimens(at('x'), { atime: time(100), mtime: time(200) });
  readFileSync(at('x'));
  const first = stat(at('x')).atimeNs;
  assert.ok(first > 200_000_000_000n, 'atime older than mtime must move');
  readFileSync(at('x'));
  assert.equal(stat(at('x')).atimeNs, first);
});
