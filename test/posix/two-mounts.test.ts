/**
 * Two mounts of one daemon: what a call on one has changed, the next call on the other sees, with the kernel's
 * caches of both warm. And programs that are killed on a real mount are gone at once.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { connectControl } from '../../console/control-client.ts';
import { startDaemon } from '../support/target.ts';

const ROUNDS = 1000;
const KILL_TIMEOUT_MS = 5000;

const daemon = await startDaemon();
after(() => daemon[Symbol.asyncDispose]());
const second = join(daemon.directory, 'second');
fs.mkdirSync(second);
const client = await connectControl({ socket: daemon.socket });
after(() => client.close());
await client.call('mount', { path: second });

/** Calls `round` with the writing and the seeing mount in turn. */
function inBothDirections(round: (from: string, to: string, number: number) => void): void {
  for (let number = 0; number < ROUNDS; number++) {
    if (number % 2 === 0) round(daemon.mount, second, number);
    else round(second, daemon.mount, number);
  }
}

test('a name that is made, moved or removed on one mount is so on the other', () => {
  inBothDirections((from, to, number) => {
    const [before, behind] = [`name-${number}`, `moved-${number}`];
    assert.equal(fs.existsSync(join(to, before)), false);
    fs.writeFileSync(join(from, before), '');
    assert.equal(fs.existsSync(join(to, before)), true);
    fs.renameSync(join(from, before), join(from, behind));
    assert.equal(fs.existsSync(join(to, before)), false);
    assert.deepEqual(fs.readdirSync(to), [behind]);
    fs.unlinkSync(join(from, behind));
    assert.equal(fs.existsSync(join(to, behind)), false);
  });
});

test('mode, owner, times and links that one mount changes show on the other', () => {
  const name = 'attributes';
  fs.writeFileSync(join(second, name), '');
  inBothDirections((from, to, number) => {
    fs.statSync(join(to, name));
    fs.chmodSync(join(from, name), 0o600 + (number % 64));
    fs.chownSync(join(from, name), number, number + 1);
    fs.utimesSync(join(from, name), number, number + 2);
    fs.linkSync(join(from, name), join(from, 'link'));
    const { mode, uid, gid, mtimeMs, nlink } = fs.statSync(join(to, name));
    assert.deepEqual(
      [mode & 0o777, uid, gid, mtimeMs, nlink],
      [0o600 + (number % 64), number, number + 1, 1000 * (number + 2), 2],
    );
    fs.unlinkSync(join(from, 'link'));
    assert.equal(fs.statSync(join(to, name)).nlink, 1);
  });
});

test('bytes and size that one mount changes are read on the other, before any close', () => {
  const files = [daemon.mount, second].map((mount) => ({
    mount,
    descriptor: fs.openSync(join(mount, 'data'), 'a+'),
    writing: fs.openSync(join(mount, 'data'), 'r+'),
  }));
  const of = (mount: string) => files.find((file) => file.mount === mount)!;
  inBothDirections((from, to, number) => {
    const content = Buffer.alloc(1 + ((number * 37) % 9000), number);
    fs.ftruncateSync(of(from).writing, 0);
    assert.equal(fs.fstatSync(of(to).descriptor).size, 0);
    fs.writeSync(of(from).writing, content, 0, content.length, 0);
    assert.equal(fs.fstatSync(of(to).descriptor).size, content.length);
    const seen = Buffer.alloc(content.length + 1);
    const length = fs.readSync(of(to).descriptor, seen, 0, seen.length, 0);
    assert.ok(seen.subarray(0, length).equals(content), `round ${number}`);
    fs.ftruncateSync(of(from).writing, content.length >> 1);
    assert.equal(fs.readFileSync(join(to, 'data')).length, content.length >> 1);
  });
  for (const { descriptor, writing } of files) {
    fs.closeSync(descriptor);
    fs.closeSync(writing);
  }
});

for (const [program, ...words] of [
  ['cat', '@big', '@big', '@big'],
  ['dd', 'if=/dev/zero', 'of=@killed', 'bs=1M', 'count=4096', 'status=none'],
] as const) {
  test(`${program} that is killed in its middle is gone at once, and the mount goes on`, async () => {
    const big = join(daemon.mount, 'big');
    if (!fs.existsSync(big)) fs.writeFileSync(big, Buffer.alloc(64 << 20, 'x'));
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const child = spawn(
        program,
        words.map((word) => word.replace('@', `${daemon.mount}/`)),
        { stdio: ['ignore', program === 'cat' ? 'pipe' : 'ignore', 'inherit'] },
      );
      if (program === 'cat') await once(child.stdout!, 'readable');
      else {
        const limit = performance.now() + KILL_TIMEOUT_MS;
        const written = () => fs.statSync(join(second, 'killed'), { throwIfNoEntry: false })?.size ?? 0;
        while (written() < 8 << 20 && performance.now() < limit) await new Promise(setImmediate);
      }
      const gone = once(child, 'exit', { signal: AbortSignal.timeout(KILL_TIMEOUT_MS) });
      child.kill(signal);
      child.stdout?.destroy();
      assert.equal((await gone)[1], signal);
      fs.rmSync(join(daemon.mount, 'killed'), { force: true });
      assert.equal(fs.statSync(big).size, 64 << 20);
    }
  });
}

test('a mount is found by a path with symbolic links, and one that is not there is named', async () => {
  const third = join(daemon.directory, 'third');
  const link = join(daemon.directory, 'link-to-third');
  fs.mkdirSync(third);
  fs.symlinkSync(third, link);
  await client.call('mount', { path: link });
  await client.call('unmount', { path: link, force: false });
  await assert.rejects(client.call('unmount', { path: link, force: false }), { code: 'MOUNT_UNKNOWN' });
});
