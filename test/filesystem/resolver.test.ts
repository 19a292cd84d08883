import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Caller } from '../../daemon/filesystem/interface.ts';
import { resolve, resolveParent } from '../../daemon/filesystem/resolver.ts';
import { NO_MOUNT, ROOT_INODE } from '../../daemon/protocol/ids.ts';
import { createMemoryFileSystem } from '../fuse/memory-filesystem.ts';

const caller: Caller = { uid: 0, gid: 0, pid: 0, mount: NO_MOUNT };
const bytes = (text: string) => Buffer.from(text, 'latin1');

async function tree() {
  const filesystem = createMemoryFileSystem();
  const directory = await filesystem.mknod(caller, ROOT_INODE, bytes('d\xff'), { mode: 0o040755, umask: 0 });
  const file = await filesystem.mknod(caller, directory.inode, bytes('f'), { mode: 0o100644, umask: 0 });
  return { filesystem, directory, file };
}

test('a path is followed by bytes, with or without extra slashes', async () => {
  const { filesystem, directory, file } = await tree();
  assert.equal((await resolve(filesystem, bytes('/'))).inode, ROOT_INODE);
  assert.equal((await resolve(filesystem, bytes('//d\xff/'))).inode, directory.inode);
  assert.equal((await resolve(filesystem, bytes('d\xff//f'))).inode, file.inode);
});

test('the parent of a name that does not exist yet is found', async () => {
  const { filesystem, directory } = await tree();
  const { parent, name } = await resolveParent(filesystem, bytes('/d\xff/new'));
  assert.equal(parent, directory.inode);
  assert.deepEqual(Buffer.from(name), bytes('new'));
});

test('wrong paths give the errno that the kernel would give', async () => {
  const { filesystem } = await tree();
  const cases: [string, string][] = [
    ['/missing', 'ENOENT'],
    ['/missing/f', 'ENOENT'],
    ['/d\xff/f/x', 'ENOTDIR'],
    [`/${'n'.repeat(256)}`, 'ENAMETOOLONG'],
    ['/d\xff/../d\xff', 'EINVAL'],
    ['/.', 'EINVAL'],
  ];
  for (const [path, code] of cases) {
    await assert.rejects(() => resolve(filesystem, bytes(path)), { code }, path);
  }
  await assert.rejects(() => resolveParent(filesystem, bytes('/')), { code: 'EBUSY' });
  await assert.rejects(() => resolveParent(filesystem, bytes('/d\xff/f/x')), { code: 'ENOTDIR' });
});
