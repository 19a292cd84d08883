/** sync(1) and syncfs do not reach a FUSE file system: what nobody synced becomes durable by itself. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { openChunkStore } from '../../daemon/chunks/open.ts';
import { openFileSystem } from '../../daemon/filesystem/filesystem.ts';
import { type MountId, ROOT_INODE } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { openFolder, silentLog } from '../metadata/folder.ts';

const LIMIT_MS = 20_000;
const POLL_MS = 20;
const CALLER = { uid: 0, gid: 0, pid: 1, mount: 1 as MountId };

test('a file that was written and closed is durable some seconds later without any sync', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const clock = systemClock();
  const log = silentLog();
  const chunks = await openChunkStore({ directory: folder.directory, log, clock, create: true });
  const filesystem = openFileSystem({ metadata, chunks, clock, log, chunkBytes: 4 << 20 });
  try {
    const made = await filesystem.create(CALLER, ROOT_INODE, Buffer.from('x'), { mode: 0o100644, umask: 0 });
    const options = { append: false, killPrivileges: false };
    await filesystem.write(CALLER, made.inode, 0, Buffer.from('content'), options);
    await filesystem.flush(CALLER, made.inode, 1n);
    const { version, durableVersion } = metadata.status();
    assert.ok(durableVersion < version, 'close alone does not wait for the disk');
    const limit = performance.now() + LIMIT_MS;
    while (metadata.status().durableVersion < version && performance.now() < limit) await delay(POLL_MS);
    assert.ok(metadata.status().durableVersion >= version);
  } finally {
    await filesystem.close();
    await metadata.close();
    await chunks.close();
  }
});
