import assert from 'node:assert/strict';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { openKeyedLock } from '../../daemon/runtime/keyed-lock.ts';

test('work on one key runs in turn, on another key at once, and a failure lets the next one run', async () => {
  const lock = openKeyedLock<string>();
  const gate = Promise.withResolvers<void>();
  const order: string[] = [];
  const first = lock.run('a', async () => {
    await gate.promise;
    order.push('first');
    throw new Error('first failed');
  });
  const second = lock.run('a', async () => void order.push('second'));
  await lock.run('b', async () => void order.push('other'));
  await setImmediate();
  assert.deepEqual(order, ['other']);
  gate.resolve();
  await assert.rejects(first, /first failed/);
  await second;
  assert.deepEqual(order, ['other', 'first', 'second']);
  assert.equal(lock.size, 0);
});
