/**
 * The errors that every call with a path shares: one table of calls, one of bad paths, and their product.
 */

import { writeFileSync } from 'node:fs';
import * as sys from '../support/libc.ts';
import { expect, openScenarios } from '../support/scenario.ts';

const scenario = await openScenarios();
const now = { seconds: 1, nanoseconds: 0 };
const openClose = (path: sys.Path, flags: number): number => sys.close(sys.open(path, flags));

/** Calls that need the object to exist. */
const ON_EXISTING: Record<string, (path: string) => unknown> = {
  chmod: (path) => sys.chmod(path, 0o600),
  chown: (path) => sys.chown(path, 1, 1),
  lchown: (path) => sys.lchown(path, 1, 1),
  truncate: (path) => sys.truncate(path, 3),
  'open read-only': (path) => openClose(path, sys.O.RDONLY),
  'open read-write': (path) => openClose(path, sys.O.RDWR),
  unlink: (path) => sys.unlink(path),
  rmdir: (path) => sys.rmdir(path),
  utimensat: (path) => sys.utimens(path, { atime: now, mtime: now }),
  'link from': (path) => sys.link(path, `${path.slice(0, path.indexOf('/scenario-') + 18)}-link`),
  access: (path) => sys.eaccess(path, 0),
  getxattr: (path) => sys.getxattr(path, 'user.none'),
  setxattr: (path) => sys.setxattr(path, 'user.some', Buffer.from('x')),
};
/** Calls that make the object. */
const ON_NEW: Record<string, (path: string, at: (name: string) => string) => unknown> = {
  mkdir: (path) => sys.mkdir(path),
  mkfifo: (path) => sys.mkfifo(path),
  mknod: (path) => sys.mknod(path, sys.TYPE.FILE | 0o644),
  symlink: (path) => sys.symlink('target', path),
  'open O_CREAT': (path) => openClose(path, sys.O.CREAT | sys.O.WRONLY),
  'link to': (path, at) => sys.link(at('file'), path),
  'rename to': (path, at) => sys.rename(at('file'), path),
};

const FOLLOWS_NOT = new Set(['lchown', 'unlink', 'rmdir', 'link from']);

for (const [call, action] of Object.entries(ON_EXISTING)) {
  scenario(`${call} tells a bad path`, (at) => {
    writeFileSync(at('file'), 'x');
    expect('ENOENT', () => action(at('none')));
    expect('ENOENT', () => action(at('none/below')));
    expect('ENOTDIR', () => action(at('file/below')));
    expect('ENOTDIR', () => action(at('file/below/more')));
    expect('ENOENT', () => action(at('n'.repeat(255))));
    expect('ENAMETOOLONG', () => action(at('n'.repeat(256))));
    expect('ENAMETOOLONG', () => action(at(`${'n'.repeat(256)}/below`)));
    expect('ENAMETOOLONG', () => action(pathOf(at.root, 4096)));
    expect('ENOENT', () => action(pathOf(at.root, 4095)));
    sys.symlink('loop-b', at('loop-a'));
    sys.symlink('loop-a', at('loop-b'));
    expect('ELOOP', () => action(at('loop-a/below')));
    if (!FOLLOWS_NOT.has(call)) expect('ELOOP', () => action(at('loop-a')));
    sys.symlink('nowhere', at('dangling'));
    if (!FOLLOWS_NOT.has(call)) expect('ENOENT', () => action(at('dangling')));
    sys.mkdir(at('closed'));
    writeFileSync(at('closed/file'), 'x');
    sys.chmod(at('closed'), 0o600);
    expect('EACCES', () => sys.asUser(65534, 65534, () => action(at('closed/file'))));
  });
}

for (const [call, action] of Object.entries(ON_NEW)) {
  scenario(`${call} tells a bad path`, (at) => {
    writeFileSync(at('file'), 'x');
    sys.chown(at('file'), 65534, 65534);
    const make = (path: string): unknown => action(path, at);
    expect('ENOENT', () => make(at('none/below')));
    expect('ENOTDIR', () => make(at('file/below')));
    expect('ENAMETOOLONG', () => make(at('n'.repeat(256))));
    expect('ENAMETOOLONG', () => make(pathOf(at.root, 4096)));
    sys.symlink('loop-b', at('loop-a'));
    sys.symlink('loop-a', at('loop-b'));
    expect('ELOOP', () => make(at('loop-a/below')));
    sys.mkdir(at('closed'), 0o555);
    expect('EACCES', () => sys.asUser(65534, 65534, () => make(at('closed/new'))));
    sys.mkdir(at('blind'), 0o600);
    expect('EACCES', () => sys.asUser(65534, 65534, () => make(at('blind/new'))));
    sys.mkdir(at('taken'));
    writeFileSync(at('taken/below'), 'x');
    const onDirectory = call === 'open O_CREAT' || call === 'rename to' ? 'EISDIR' : 'EEXIST';
    expect(onDirectory, () => make(at('taken')));
    if (call !== 'open O_CREAT' && call !== 'rename to') {
      for (const [name, prepare] of TAKEN) {
        prepare(at(name));
        expect('EEXIST', () => make(at(name)), `over a ${name}`);
      }
    }
    expect('ok', () => make(at('n'.repeat(255))));
  });
}

const TAKEN: [string, (path: string) => unknown][] = [
  ['regular', (path) => writeFileSync(path, '')],
  ['fifo', (path) => sys.mkfifo(path)],
  ['dangling symlink', (path) => sys.symlink('nowhere', path)],
  ['socket', (path) => sys.mknod(path, sys.TYPE.SOCKET | 0o644)],
  ['block device', (path) => sys.mknod(path, sys.TYPE.BLOCK | 0o644, 0x102)],
  ['character device', (path) => sys.mknod(path, sys.TYPE.CHAR | 0o644, 0x102)],
];

/** A path of exactly `bytes` bytes, made of "./" steps that exist and a last name that does not. */
function pathOf(root: string, bytes: number): string {
  const tail = 'x';
  const room = bytes - root.length - 1 - tail.length;
  const odd = room % 2 === 1 ? '/' : '';
  return `${root}/${odd}${'./'.repeat(Math.floor(room / 2))}${tail}`;
}
