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
import { memoryFileSystem } from './memory-file-system.ts';

const path = process.argv[2]!;
const filesystem = memoryFileSystem({ uid: process.getuid!(), gid: process.getgid!() });
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
  if (line === 'calls')
    console.log(JSON.stringify({ calls: filesystem.calls, open: filesystem.openFiles(mount.id) }));
  else {
    const result = await mount.unmount({ force: line === 'force' }).then(
      () => 'ok',
      (error: unknown) => (error as { code: string }).code,
    );
    console.log(JSON.stringify({ result }));
  }
}
