/** POSIX ACLs and the mode: what each makes of the other. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  accessAclAfterChmod,
  ACL_ACCESS,
  ACL_DEFAULT,
  checkDefaultAcl,
  inheritAcl,
  modeFromAccessAcl,
} from '../../daemon/filesystem/acl.ts';

const NO_ID = 0xffffffff;
const TAGS = { user: 0x01, named: 0x02, group: 0x04, namedGroup: 0x08, mask: 0x10, other: 0x20 };

/** `user:7 named:6:1000 group:5 mask:4 other:0` as the kernel's bytes. */
function acl(text: string, version = 2): Buffer {
  const words = text.split(' ').map((word) => word.split(':'));
  const bytes = Buffer.alloc(4 + words.length * 8);
  bytes.writeUInt32LE(version, 0);
  for (const [index, [tag, permissions, id]] of words.entries()) {
    bytes.writeUInt16LE(TAGS[tag as keyof typeof TAGS], 4 + index * 8);
    bytes.writeUInt16LE(Number(permissions), 6 + index * 8);
    bytes.writeUInt32LE(id === undefined ? NO_ID : Number(id), 8 + index * 8);
  }
  return bytes;
}

const FULL = acl('user:7 named:6:1000 group:5 namedGroup:4:50 mask:6 other:1');

test('the group bits of the mode are the mask when there is one', () => {
  const result = modeFromAccessAcl(0o104755, FULL);
  assert.equal(result.mode, 0o104761);
  assert.deepEqual(Buffer.from(result.stored!), FULL);
});

test('an ACL that says no more than the mode is not stored', () => {
  assert.deepEqual(modeFromAccessAcl(0o100777, acl('user:6 group:4 other:0')), {
    mode: 0o100640,
    stored: null,
  });
});

test('chmod changes owner, mask and other; without a mask the group', () => {
  assert.deepEqual(
    Buffer.from(accessAclAfterChmod(FULL, 0o100532)),
    acl('user:5 named:6:1000 group:5 namedGroup:4:50 mask:3 other:2'),
  );
  assert.deepEqual(
    Buffer.from(accessAclAfterChmod(acl('user:7 group:7 other:7'), 0o640)),
    acl('user:6 group:4 other:0'),
  );
});

test('without a default ACL the umask counts; with one it does not', () => {
  const options = { umask: 0o027, isDirectory: false };
  assert.deepEqual(inheritAcl(undefined, 0o100666, options), { mode: 0o100640, xattrs: [] });
  const inherited = inheritAcl(FULL, 0o100666, options);
  assert.equal(inherited.mode, 0o100660);
  assert.deepEqual(
    inherited.xattrs.map(({ name, value }) => [Buffer.from(name), Buffer.from(value!)]),
    [[ACL_ACCESS, acl('user:6 named:6:1000 group:5 namedGroup:4:50 mask:6 other:0')]],
  );
});

test('a directory inherits the default ACL as its own default too', () => {
  const minimal = acl('user:7 group:5 other:0');
  const { mode, xattrs } = inheritAcl(minimal, 0o040777, { umask: 0, isDirectory: true });
  assert.equal(mode, 0o040750);
  assert.deepEqual(
    xattrs.map(({ name }) => Buffer.from(name)),
    [ACL_DEFAULT],
  );
});

test('bytes that are no ACL are refused', () => {
  const wrong = { code: 'EINVAL' };
  assert.throws(() => checkDefaultAcl(Buffer.alloc(3)), wrong);
  assert.throws(() => checkDefaultAcl(FULL.subarray(0, FULL.length - 1)), wrong);
  assert.throws(() => checkDefaultAcl(acl('user:8 group:5 other:0')), wrong);
  assert.throws(() => checkDefaultAcl(acl('user:7', 3)), { code: 'EOPNOTSUPP' });
  assert.throws(() => modeFromAccessAcl(0o100644, acl('group:5 other:0')), wrong);
});
