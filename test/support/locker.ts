/**
 * A process that holds locks for posix/locks.test.ts: `locker.ts FILE` opens the file, prints "ready", then takes
 * commands: `range|open|flock try|wait read|write|unlock [start length]` and `close`; answers "ok" or an errno.
 */

import { createInterface } from 'node:readline';
import * as sys from './libc.ts';

const fd = sys.open(process.argv[2] ?? '', sys.O.RDWR);
process.stdout.write('ready\n');

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${sys.outcome(() => obey(line.split(' ')))}\n`);
}

function obey([family, how, kind, start = '0', length = '0']: string[]): void {
  if (family === 'close') {
    sys.close(fd);
    return;
  }
  const type = kind === 'read' || kind === 'write' ? kind : 'unlock';
  const wait = how === 'wait';
  if (family === 'flock') {
    const operation = { read: sys.LOCK.SH, write: sys.LOCK.EX, unlock: sys.LOCK.UN }[type];
    sys.flock(fd, operation | (wait ? 0 : sys.LOCK.NB));
    return;
  }
  const lock = { type, start: Number(start), length: Number(length) } as const;
  if (family === 'open') sys.lockRange(fd, wait ? 'open-wait' : 'open-try', lock);
  else sys.lockRange(fd, wait ? 'wait' : 'try', lock);
}
