import assert from 'node:assert/strict';
import test from 'node:test';
import { openPace } from '../../daemon/runtime/pace.ts';

function simulated() {
  let nowMs = 1000;
  const pace = openPace(() => nowMs);
  return {
    /** Whether a call that takes `ms` was made. */
    call: (ms: number) =>
      pace.run(() => {
        nowMs += ms;
        return true;
      }) === true,
    wait(ms: number) {
      nowMs += ms;
    },
  };
}

test('a quick device is always waited for, and a rare slow call pauses that for a bounded time', () => {
  const device = simulated();
  for (let round = 0; round < 20; round += 1) {
    for (let count = 0; count < 40; count += 1) assert.ok(device.call(0.1));
    assert.ok(device.call(10));
    assert.equal(device.call(0.1), false);
    device.wait(159);
    assert.equal(device.call(0.1), false);
    device.wait(2);
  }
});

test('a device that is always slow is tried less and less, and again when it is quick', () => {
  const device = simulated();
  let made = 0;
  for (let ms = 0; ms < 600_000; ms += 1) {
    if (device.call(8)) made += 1;
    device.wait(1);
  }
  assert.ok(made >= 10 && made < 30, `${made} calls in ten minutes`);
  device.wait(60_000);
  for (let count = 0; count < 100; count += 1) assert.ok(device.call(0.2));
});

test('calls that are never outliers but slow on average stop', () => {
  const device = simulated();
  let made = 0;
  while (device.call(2)) made += 1;
  assert.ok(made < 16, `${made} calls`);
});

test('a call that fails is timed like any other, and its error comes through', () => {
  let nowMs = 0;
  const pace = openPace(() => nowMs);
  const hang = () => {
    nowMs += 5000;
    throw new Error('EIO');
  };
  assert.throws(() => pace.run(hang), /EIO/);
  assert.equal(
    pace.run(() => true),
    undefined,
  );
});
