/**
 * The daemon's side of a driver test, in a process of its own: a process must never touch a mount that it serves.
 * `node serve.ts PATH [PATH2]` mounts one memory file system on each path, says `ready`, and obeys lines on
 * standard input: `unmount`, `force`, `hang NAME`, `resume NAME`, `calls`, `quit`, … Answers are one JSON line each.
 */

import { createInterface } from 'node:readline';
import type { Mount } from '../../daemon/fuse/driver.ts';
import { mountKernel } from '../../daemon/fuse/kernel/mount.ts';
import { FsError, WarrenError } from '../../daemon/protocol/errors.ts';
import type { MountId } from '../../daemon/protocol/ids.ts';
import { openLog } from '../../daemon/runtime/log.ts';
import { createMemoryFileSystem } from './memory-filesystem.ts';

const log = openLog({ format: 'text', level: 'warn' });
const memory = createMemoryFileSystem();
const hanging = new Set<string>();
/** A lookup of a hanging name never answers; `hang read` waits for `resume`, `hang write` for an interrupt. */
let resumed: (() => void)[] = [];
const never = new Promise<never>(() => undefined);
const filesystem: typeof memory = {
  ...memory,
  lookup(parent, name) {
    const text = Buffer.from(name).toString('latin1');
    if (text.startsWith('defect')) throw new TypeError('a defect in the file system');
    return hanging.has(text) ? never : memory.lookup(parent, name);
  },
  read(caller, inode, offset, target) {
    if (!hanging.has('read')) return memory.read(caller, inode, offset, target);
    return new Promise((resolve) => {
      resumed.push(() => resolve(memory.read(caller, inode, offset, target)));
    });
  },
  write(caller, inode, offset, data, options) {
    if (!hanging.has('write')) return memory.write(caller, inode, offset, data, options);
    return new Promise((_, reject) => {
      caller.signal?.addEventListener('abort', () => reject(new FsError('EINTR')));
    });
  },
};

function answer(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

function problem(error: unknown): Record<string, string> {
  if (error instanceof WarrenError) return { code: error.code, message: error.message, hint: error.hint };
  return { code: 'UNEXPECTED', message: String(error) };
}

const mounts: Mount[] = [];
try {
  for (const path of process.argv.slice(2)) {
    const mountId = (mounts.length + 1) as MountId;
    const mount = await mountKernel({ path, mountId, allowOther: true, log, filesystem });
    mounts.push(mount);
    void mount.closed.then(() => answer({ closed: mount.path }));
  }
  answer({ ready: true });
} catch (error) {
  answer({ failed: problem(error) });
  await Promise.all(mounts.map((mount) => mount.unmount({ force: true })));
  process.exit(1);
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument = ''] = line.split(' ');
  try {
    if (command === 'unmount' || command === 'force') {
      await Promise.all(mounts.map((mount) => mount.unmount({ force: command === 'force' })));
      answer({ unmounted: true });
    } else if (command === 'hang') {
      hanging.add(argument);
      answer({ hanging: argument });
    } else if (command === 'resume') {
      hanging.delete(argument);
      for (const resume of resumed) resume();
      resumed = [];
      answer({ hanging: argument });
    } else if (command === 'calls')
      answer({ calls: Object.fromEntries(memory.calls), forgotten: memory.forgotten.size });
    else if (command === 'drained') {
      await Promise.all(mounts.map((mount) => mount.drained()));
      answer({ drained: true });
    } else if (command === 'quit') break;
  } catch (error) {
    answer({ failed: problem(error) });
  }
}
process.exit(0);
