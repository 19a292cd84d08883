/**
 * Who may do what: modes, owners, sticky directories, setuid and setgid, and what of them survives a change.
 */

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import * as sys from '../support/libc.ts';
import { expect, expectTimes, mode, openScenarios, type Place, stat } from '../support/scenario.ts';

const scenario = await openScenarios();
const ALICE = 65533;
const BOB = 65532;
const SHARED_GROUP = 65531;
const as = <T>(uid: number, action: () => T, groups: number[] = [uid]): T =>
  sys.asUser(uid, uid, action, groups);

const KINDS: Record<string, (path: string) => unknown> = {
  file: (path) => writeFileSync(path, 'content'),
  directory: (path) => sys.mkdir(path),
  fifo: (path) => sys.mkfifo(path),
  socket: (path) => sys.mknod(path, sys.TYPE.SOCKET | 0o644),
  'block device': (path) => sys.mknod(path, sys.TYPE.BLOCK | 0o644, 0x102),
  'character device': (path) => sys.mknod(path, sys.TYPE.CHAR | 0o644, 0x102),
};

for (const [kind, make] of Object.entries(KINDS)) {
  scenario(`chmod sets every permission bit of a ${kind} and moves only ctime`, (at) => {
    make(at('x'));
    const type = stat(at('x')).mode & 0o170000n;
    for (let bits = 0; bits <= 0o7777; bits += 7) {
      sys.chmod(at('x'), bits);
      assert.equal(mode(at('x')), bits);
    }
    assert.equal(stat(at('x')).mode & 0o170000n, type);
    expectTimes(at('x'), { mtime: false, ctime: true }, () => sys.chmod(at('x'), 0o111));
  });
  scenario(`chmod and chown of a ${kind} are for its owner`, (at) => {
    make(at('x'));
    sys.chown(at('x'), ALICE, ALICE);
    expect('ok', () => as(ALICE, () => sys.chmod(at('x'), 0o600)));
    expect('EPERM', () => as(BOB, () => sys.chmod(at('x'), 0o666)));
    assert.equal(mode(at('x')), 0o600);
    expect('EPERM', () => as(ALICE, () => sys.chown(at('x'), BOB, -1)));
    expect('EPERM', () => as(BOB, () => sys.chown(at('x'), BOB, -1)));
    expect('EPERM', () => as(ALICE, () => sys.chown(at('x'), -1, SHARED_GROUP)));
    expect('ok', () => as(ALICE, () => sys.chown(at('x'), -1, SHARED_GROUP), [ALICE, SHARED_GROUP]));
    assert.equal(stat(at('x')).gid, BigInt(SHARED_GROUP));
    expectTimes(at('x'), { mtime: false, ctime: true }, () => sys.chown(at('x'), BOB, BOB));
    assert.equal(stat(at('x')).uid, BigInt(BOB));
  });
  scenario(`in a sticky directory only owners remove or rename a ${kind}`, (at) => {
    sys.mkdir(at('sticky'));
    sys.chmod(at('sticky'), 0o1777);
    for (const owner of [ALICE, BOB]) {
      sys.chown(at('sticky'), owner, owner);
      const path = at('sticky/x');
      make(path);
      sys.chown(path, ALICE, ALICE);
      const remove = (): unknown => (kind === 'directory' ? sys.rmdir(path) : sys.unlink(path));
      if (owner === ALICE) {
        expect('EPERM', () => as(BOB, remove));
        expect('EPERM', () => as(BOB, () => sys.rename(path, at('moved'))));
        writeFileSync(at('mine'), '');
        sys.chown(at('mine'), BOB, BOB);
        if (kind !== 'directory') expect('EPERM', () => as(BOB, () => sys.rename(at('mine'), path)));
      } else if (kind !== 'directory') {
        expect('ok', () => as(BOB, () => sys.rename(path, at('sticky/y'))));
        expect('ok', () => as(BOB, () => sys.rename(at('sticky/y'), path)));
      }
      expect('ok', () => as(owner === ALICE ? ALICE : BOB, remove));
    }
  });
}

scenario('reading, writing and searching follow the nine permission bits', (at) => {
  writeFileSync(at('x'), 'content');
  sys.chown(at('x'), ALICE, SHARED_GROUP);
  const readers: [string, number, number[], number][] = [
    ['owner', ALICE, [ALICE], 6],
    ['group', BOB, [BOB, SHARED_GROUP], 3],
    ['others', BOB, [BOB], 0],
  ];
  for (let bits = 0; bits <= 0o777; bits += 1) {
    sys.chmod(at('x'), bits);
    for (const [who, uid, groups, shift] of readers) {
      const allowed = (bits >> shift) & 7;
      for (const [bit, flags] of [
        [4, sys.O.RDONLY],
        [2, sys.O.WRONLY],
        [6, sys.O.RDWR],
      ] as const) {
        const code = (allowed & bit) === bit ? 'ok' : 'EACCES';
        const action = (): number => sys.close(sys.open(at('x'), flags));
        expect(code, () => as(uid, action, groups), `mode ${bits.toString(8)}, ${who}, ${flags}`);
      }
      if (bits % 8 === 0) {
        const code = allowed & 1 ? 'ok' : 'EACCES';
        expect(code, () => as(uid, () => sys.eaccess(at('x'), 1), groups), `x ${bits.toString(8)}, ${who}`);
      }
    }
  }
});

scenario('making, removing and renaming need write and search on the directory', (at) => {
  for (let bits = 0; bits <= 7; bits += 1) {
    sys.mkdir(at(`d${bits}`), 0o777);
    writeFileSync(at(`d${bits}/old`), '');
    sys.chmod(at(`d${bits}`), 0o700 | bits);
    const code = (bits & 3) === 3 ? 'ok' : 'EACCES';
    const inside = (name: string): string => at(`d${bits}/${name}`);
    const actions: (() => unknown)[] = [
      () => sys.mkdir(inside('new')),
      () => sys.rmdir(inside('new')),
      () => sys.symlink('t', inside('link')),
      () => sys.mkfifo(inside('fifo')),
      () => sys.rename(inside('old'), inside('renamed')),
      () => sys.unlink(inside(code === 'ok' ? 'renamed' : 'old')),
    ];
    for (const [index, action] of actions.entries()) {
      if (code === 'ok' || index !== 1)
        expect(code, () => as(ALICE, action), `bits ${bits}, action ${index}`);
    }
  }
});

function privileged(at: Place, bits = 0o6777): string {
  writeFileSync(at('x'), 'content');
  sys.chown(at('x'), ALICE, ALICE);
  sys.chmod(at('x'), bits);
  return at('x');
}

const CLEARING: [string, (path: string) => unknown][] = [
  ['write', (path) => through(path, (fd) => sys.pwrite(fd, Buffer.from('x'), 0))],
  ['truncate', (path) => sys.truncate(path, 2)],
  ['ftruncate', (path) => through(path, (fd) => sys.ftruncate(fd, 2))],
  ['open O_TRUNC', (path) => sys.close(sys.open(path, sys.O.WRONLY | sys.O.TRUNC))],
];
function through(path: string, action: (fd: number) => unknown): void {
  const fd = sys.open(path, sys.O.RDWR);
  try {
    action(fd);
  } finally {
    sys.close(fd);
  }
}
for (const [name, action] of CLEARING) {
  scenario(`${name} by another user clears setuid and setgid`, (at) => {
    const path = privileged(at);
    as(BOB, () => action(path));
    assert.equal(mode(path), 0o777);
  });
  scenario(`${name} by root keeps setuid and setgid`, (at) => {
    const path = privileged(at);
    action(path);
    assert.equal(mode(path), 0o6777);
  });
}
scenario('chown by the owner clears setuid and setgid of an executable', (at) => {
  const path = privileged(at);
  as(ALICE, () => sys.chown(path, -1, SHARED_GROUP), [ALICE, SHARED_GROUP]);
  assert.equal(mode(path), 0o777);
});
scenario('chown clears setuid also for root, and setgid only with group execute', (at) => {
  const path = privileged(at, 0o6707);
  sys.chown(path, BOB, BOB);
  assert.equal(mode(path), 0o2707);
  sys.chmod(path, 0o6711);
  sys.chown(path, ALICE, ALICE);
  assert.equal(mode(path), 0o711);
});
scenario('chown keeps setuid and setgid of a directory', (at) => {
  sys.mkdir(at('d'));
  sys.chmod(at('d'), 0o6777);
  sys.chown(at('d'), ALICE, ALICE);
  assert.equal(mode(at('d')), 0o6777);
});
scenario('chmod by a stranger to the group clears setgid of a file', (at) => {
  writeFileSync(at('x'), '');
  sys.chown(at('x'), ALICE, SHARED_GROUP);
  as(ALICE, () => sys.chmod(at('x'), 0o2755));
  assert.equal(mode(at('x')), 0o755);
  as(ALICE, () => sys.chmod(at('x'), 0o2755), [ALICE, SHARED_GROUP]);
  assert.equal(mode(at('x')), 0o2755);
});
scenario('a setgid directory hands its group down, and setgid itself to directories', (at) => {
  sys.mkdir(at('d'));
  sys.chown(at('d'), ALICE, SHARED_GROUP);
  sys.chmod(at('d'), 0o2777);
  as(BOB, () => {
    writeFileSync(at('d/file'), '');
    sys.mkdir(at('d/sub'));
    sys.symlink('t', at('d/symlink'));
    sys.mkfifo(at('d/fifo'));
  });
  for (const name of ['file', 'sub', 'symlink', 'fifo']) {
    assert.equal(stat(at(`d/${name}`)).gid, BigInt(SHARED_GROUP), name);
    assert.equal(stat(at(`d/${name}`)).uid, BigInt(BOB), name);
  }
  assert.equal(mode(at('d/sub')), 0o2755);
  assert.equal(mode(at('d/file')), 0o644);
});
scenario('the umask takes bits from every new object', (at) => {
  for (const mask of [0, 0o22, 0o77, 0o151, 0o777]) {
    const before = sys.umask(mask);
    try {
      sys.mkdir(at(`d${mask}`), 0o777);
      sys.mkfifo(at(`p${mask}`), 0o777);
      sys.close(sys.open(at(`f${mask}`), sys.O.CREAT | sys.O.WRONLY, 0o777));
      sys.mknod(at(`s${mask}`), sys.TYPE.SOCKET | 0o777);
    } finally {
      sys.umask(before);
    }
    for (const kind of 'dpfs') assert.equal(mode(at(`${kind}${mask}`)), 0o777 & ~mask, `${kind} ${mask}`);
  }
});
scenario('mknod of a device is for root', (at) => {
  expect('EPERM', () => as(ALICE, () => sys.mknod(at('c'), sys.TYPE.CHAR | 0o644, 0x103)));
  expect('EPERM', () => as(ALICE, () => sys.mknod(at('b'), sys.TYPE.BLOCK | 0o644, 0x103)));
  sys.mknod(at('c'), sys.TYPE.CHAR | 0o644, 0x103);
  assert.equal(stat(at('c')).rdev, 0x103n);
  expect('ok', () => as(ALICE, () => sys.mkfifo(at('fifo'))));
  assert.equal(stat(at('fifo')).uid, BigInt(ALICE));
});
