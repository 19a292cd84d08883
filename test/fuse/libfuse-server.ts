/**
 * Serves a file system in memory through the libfuse driver: `node libfuse-server.ts PATH`.
 *
 * Prints `mounted`; then reads commands, one a line, from standard input and answers each with one line of
 * JSON: `calls` (what the file system was asked), `unmount`, `force`. Prints `closed` when the mount is gone.
 */

import process from 'node:process';
import { createInterface } from 'node:readline';
import { mountLibfuse } from '../../daemon/fuse/libfuse/mount-libfuse.ts';
import type { MountId } from '../../daemon/protocol/ids.ts';
import { openLog } from '../../daemon/runtime/log.ts';
import type { FileSystem } from '../../daemon/filesystem/interface.ts';
import { createMemoryFileSystem } from './memory-filesystem.ts';

const path = process.argv[2]!;
const calls: string[] = [];
const memory = createMemoryFileSystem({ uid: process.getuid!(), gid: process.getgid!() });
const filesystem: FileSystem = {
  ...memory,
  flush(caller, inode, owner) {
    calls.push('flush');
    return memory.flush(caller, inode, owner);
  },
  release(caller, inode) {
    calls.push('release');
    return memory.release(caller, inode);
  },
  async fsync(_inode, dataOnly) {
    calls.push(dataOnly ? 'fdatasync' : 'fsync');
  },
  async read(caller, inode, offset, target) {
    // Answers later, as a read from a disk does.
    await new Promise((resolve) => setImmediate(resolve));
    return memory.read(caller, inode, offset, target);
  },
  async dropMount(mount) {
    calls.push('dropMount');
    await memory.dropMount(mount);
  },
  async statfs() {
    return { ...(await memory.statfs()), blockBytes: 4096, blocks: 2 ** 34, blocksFree: 2 ** 33 };
  },
};
const mount = await mountLibfuse({
  path,
  mountId: 1 as MountId,
  allowOther: false,
  log: openLog({ format: 'text', level: 'info' }),
  filesystem,
});
const lines = createInterface(process.stdin);
mount.closed.then(
  () => {
    console.log('closed');
    lines.close();
  },
  (error: unknown) => console.error(error),
);
console.log('mounted');
for await (const line of lines) {
  if (line === 'calls') console.log(JSON.stringify({ calls, open: filesystem.openFiles(mount.id) }));
  else {
    const result = await mount.unmount({ force: line === 'force' }).then(
      () => 'ok',
      (error: unknown) => (error as { code: string }).code,
    );
    console.log(JSON.stringify({ result }));
  }
}
