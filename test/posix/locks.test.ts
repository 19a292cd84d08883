/**
 * flock and fcntl locks between processes: conflict, ranges, waiting, release by close and by death, deadlock.
 *
 * Another process is `test/support/locker.ts`, which takes one command a line and answers one line each. A wait
 * shows in the lock's behaviour, never in a pause.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as sys from '../support/libc.ts';
import { expect, openScenarios } from '../support/scenario.ts';

const scenario = await openScenarios();
const LOCKER = fileURLToPath(new URL('../support/locker.ts', import.meta.url));
const ANSWER_TIMEOUT_MS = 20_000;

interface Other extends AsyncDisposable {
  /** The answer to a command: 'ok' or the errno's name. */
  ask(command: string): Promise<string>;
  kill(): Promise<void>;
}
async function other(path: string): Promise<Other> {
  const child: ChildProcess = spawn(process.execPath, [LOCKER, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  const answer = async (): Promise<string> => {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer in ${ANSWER_TIMEOUT_MS} ms`)), ANSWER_TIMEOUT_MS);
    });
    const line = await Promise.race([lines.next(), late]);
    clearTimeout(timer);
    return line.done ? 'ended' : line.value;
  };
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  };
  assert.equal(await answer(), 'ready');
  return {
    ask: (command) => {
      child.stdin!.write(`${command}\n`);
      return answer();
    },
    kill,
    [Symbol.asyncDispose]: kill,
  };
}

for (const family of ['range', 'flock', 'open']) {
  scenario(`${family} locks: readers share, a writer is alone`, async (at) => {
    writeFileSync(at('x'), '');
    await using a = await other(at('x'));
    await using b = await other(at('x'));
    assert.equal(await a.ask(`${family} try read`), 'ok');
    assert.equal(await b.ask(`${family} try read`), 'ok');
    assert.equal(await b.ask(`${family} try write`), 'EAGAIN');
    assert.equal(await a.ask(`${family} try unlock`), 'ok');
    // A failed flock conversion loses the old lock (flock(2)), so it is taken anew.
    assert.equal(await b.ask(`${family} try write`), 'ok');
    assert.equal(await a.ask(`${family} try read`), 'EAGAIN');
    assert.equal(await b.ask('close'), 'ok');
    assert.equal(await a.ask(`${family} try write`), 'ok');
  });
  scenario(`${family} locks: a waiter gets the lock when its holder lets go, closes or dies`, async (at) => {
    writeFileSync(at('x'), '');
    for (const ending of ['unlock', 'close', 'kill']) {
      await using a = await other(at('x'));
      await using b = await other(at('x'));
      assert.equal(await a.ask(`${family} try write`), 'ok');
      const waiting = b.ask(`${family} wait write`);
      assert.equal(await Promise.race([waiting, a.ask(`${family} try write`)]), 'ok');
      if (ending === 'kill') await a.kill();
      else assert.equal(await a.ask(ending === 'close' ? 'close' : `${family} try unlock`), 'ok');
      assert.equal(await waiting, 'ok', ending);
    }
  });
  scenario(`${family} locks: a killed waiter leaves nothing behind`, async (at) => {
    writeFileSync(at('x'), '');
    await using a = await other(at('x'));
    await using b = await other(at('x'));
    await using third = await other(at('x'));
    assert.equal(await a.ask(`${family} try write`), 'ok');
    const waiting = b.ask(`${family} wait write`).catch(() => 'ended');
    assert.equal(await third.ask(`${family} try write`), 'EAGAIN');
    await b.kill();
    assert.equal(await waiting, 'ended');
    assert.equal(await a.ask(`${family} try unlock`), 'ok');
    assert.equal(await third.ask(`${family} try write`), 'ok');
  });
}
scenario('range locks split, join and tell who is in the way', async (at) => {
  writeFileSync(at('x'), Buffer.alloc(1000));
  await using a = await other(at('x'));
  const fd = sys.open(at('x'), sys.O.RDWR);
  assert.equal(await a.ask('range try write 0 100'), 'ok');
  assert.equal(await a.ask('range try unlock 40 20'), 'ok');
  expect('EAGAIN', () => sys.lockRange(fd, 'try', { type: 'write', start: 39, length: 2 }));
  expect('EAGAIN', () => sys.lockRange(fd, 'try', { type: 'write', start: 59, length: 2 }));
  expect('ok', () => sys.lockRange(fd, 'try', { type: 'write', start: 40, length: 20 }));
  expect('ok', () => sys.lockRange(fd, 'try', { type: 'write', start: 100, length: 0 }));
  const first = sys.lockRange(fd, 'get', { type: 'read', start: 0, length: 0 });
  assert.deepEqual({ ...first, pid: first.pid > 0 }, { type: 'write', start: 0, length: 40, pid: true });
  assert.equal(await a.ask('range try read 0 40'), 'ok');
  expect('ok', () => sys.lockRange(fd, 'try', { type: 'read', start: 0, length: 40 }));
  expect('EAGAIN', () => sys.lockRange(fd, 'try', { type: 'write', start: 0, length: 1 }));
  sys.close(fd);
});
scenario('closing any descriptor of a file drops the range locks of the process', async (at) => {
  writeFileSync(at('x'), '');
  await using a = await other(at('x'));
  const fd = sys.open(at('x'), sys.O.RDWR);
  const second = sys.open(at('x'), sys.O.RDONLY);
  sys.lockRange(fd, 'try', { type: 'write', start: 0, length: 0 });
  assert.equal(await a.ask('range try write'), 'EAGAIN');
  sys.close(second);
  assert.equal(await a.ask('range try write'), 'ok');
  sys.close(fd);
});
scenario('a circle of waiters is refused with EDEADLK', async (at) => {
  writeFileSync(at('x'), Buffer.alloc(10));
  await using a = await other(at('x'));
  await using b = await other(at('x'));
  assert.equal(await a.ask('range try write 0 1'), 'ok');
  assert.equal(await b.ask('range try write 1 1'), 'ok');
  const answers = [a.ask('range wait write 1 1'), b.ask('range wait write 0 1')];
  const first = await Promise.race(answers.map(async (answer, index) => ({ code: await answer, index })));
  assert.equal(first.code, 'EDEADLK');
  await (first.index === 0 ? a : b).kill();
  assert.equal(await answers[1 - first.index], 'ok');
});
scenario('a write lock needs a descriptor open for writing', (at) => {
  writeFileSync(at('x'), '');
  const fd = sys.open(at('x'), sys.O.RDONLY);
  expect('EBADF', () => sys.lockRange(fd, 'try', { type: 'write', start: 0, length: 0 }));
  expect('ok', () => sys.lockRange(fd, 'try', { type: 'read', start: 0, length: 0 }));
  expect('ok', () => sys.flock(fd, sys.LOCK.EX | sys.LOCK.NB));
  expect('EINVAL', () => sys.lockRange(fd, 'try', { type: 'read', start: -5, length: 0 }));
  sys.close(fd);
});
