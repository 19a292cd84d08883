/** Run by sync-faults.test.ts under a tracer that fails the first fdatasync: stores a file's content twice. */

import { readFileSync, statSync } from 'node:fs';
import { chunkPath, layoutOf } from '../../daemon/chunks/layout.ts';
import { openChunkStore } from '../../daemon/chunks/open.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { hashOf, silentLog } from './harness.ts';

const [directory = '', source = ''] = process.argv.slice(2);
const data = readFileSync(source);
const path = chunkPath(layoutOf(directory), hashOf(data));
const inode = () => statSync(path, { throwIfNoEntry: false })?.ino;
const store = await openChunkStore({ directory, log: silentLog, clock: systemClock() });
const before = inode();
const failure = await store.store(data).then(
  () => 'no failure',
  (error: Error) => error.message,
);
const afterFailure = inode();
await store.store(data);
await store.close();
process.stdout.write(JSON.stringify({ before, failure, afterFailure, afterSuccess: inode() }));
