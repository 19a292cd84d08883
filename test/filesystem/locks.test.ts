/** The lock table: ranges, upgrades, waiting, deadlock, and what ends a lock. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LOCK_END, type LockOwner, type RangeLock } from '../../daemon/filesystem/interface.ts';
import { type LockTable, lockTable } from '../../daemon/filesystem/locks.ts';
import type { Inode, MountId } from '../../daemon/protocol/ids.ts';

const FILE = 7 as Inode;
const OTHER_FILE = 8 as Inode;
const A = ownerOf(1n);
const B = ownerOf(2n);
const C = ownerOf(3n);
/** The kernel's number for an owner is unique within a mount only. */
const A_ELSEWHERE = ownerOf(1n, 2);
const WAIT = { wait: true };
const NOW = { wait: false };

function ownerOf(owner: bigint, mount = 1): LockOwner {
  return { mount: mount as MountId, owner };
}

function lock(type: RangeLock['type'], start: number | bigint, end: number | bigint): RangeLock {
  return { type, start: BigInt(start), end: BigInt(end), pid: 42 };
}

/** Which bytes of 0 to 9 another owner could not lock: one letter a byte (w: not at all, r: not for writing). */
function picture(table: LockTable, asker: LockOwner): string {
  let text = '';
  for (let byte = 0; byte < 10; byte++) {
    const read = table.test(FILE, asker, lock('read', byte, byte));
    const write = table.test(FILE, asker, lock('write', byte, byte));
    text += read !== undefined ? 'w' : write !== undefined ? 'r' : '.';
  }
  return text;
}

async function isPending(promise: unknown): Promise<boolean> {
  const pending = Symbol('pending');
  await new Promise(setImmediate);
  return (await Promise.race([promise, Promise.resolve(pending)])) === pending;
}

test('a new range replaces what its owner had there and splits what sticks out', () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 0, 9), NOW);
  void table.set(FILE, A, lock('read', 3, 6), NOW);
  assert.equal(picture(table, B), 'wwwrrrrwww');
  void table.set(FILE, A, lock('unlock', 5, 7), NOW);
  assert.equal(picture(table, B), 'wwwrr...ww');
  assert.equal(picture(table, A), '..........');
  void table.set(FILE, A, lock('unlock', 0, LOCK_END), NOW);
  assert.equal(table.count(), 0);
});

test('readers share; a writer needs them gone; an upgrade waits for the other reader', async () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('read', 0, 9), NOW);
  void table.set(FILE, B, lock('read', 0, 9), NOW);
  assert.throws(() => table.set(FILE, A, lock('write', 0, 9), NOW), { code: 'EAGAIN' });
  const upgrade = table.set(FILE, A, lock('write', 0, 9), WAIT);
  assert.ok(await isPending(upgrade));
  void table.set(FILE, B, lock('unlock', 0, 9), NOW);
  await upgrade;
  assert.equal(picture(table, B), 'wwwwwwwwww');
});

test('what is in the way is told with its range and process', () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 2, 4), NOW);
  assert.deepEqual(table.test(FILE, B, lock('read', 0, 9)), lock('write', 2, 4));
  assert.equal(table.test(FILE, B, lock('write', 5, 9)), undefined);
  assert.equal(table.test(OTHER_FILE, B, lock('write', 0, 9)), undefined);
});

test('the same number in another mount is another owner', () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 0, 9), NOW);
  assert.throws(() => table.set(FILE, A_ELSEWHERE, lock('read', 0, 0), NOW), { code: 'EAGAIN' });
});

test('waiters that no longer conflict all get their locks; a shrunk lock wakes who fits now', async () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 0, 9), NOW);
  const left = table.set(FILE, B, lock('read', 0, 2), WAIT);
  const right = table.set(FILE, C, lock('read', 2, 8), WAIT);
  void table.set(FILE, A, lock('unlock', 0, 4), NOW);
  await left;
  assert.ok(await isPending(right));
  void table.set(FILE, A, lock('read', 5, 9), NOW);
  await right;
});

test('a waiting call ends with EINTR when it is interrupted, and takes nothing', async () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 0, 9), NOW);
  const interrupted = new AbortController();
  const waits = Promise.resolve(
    table.set(FILE, B, lock('write', 0, 9), { ...WAIT, signal: interrupted.signal }),
  );
  interrupted.abort();
  await assert.rejects(waits, { code: 'EINTR' });
  assert.throws(() => table.set(FILE, B, lock('read', 0, 0), { ...WAIT, signal: interrupted.signal }), {
    code: 'EINTR',
  });
  table.drop(FILE, A);
  assert.equal(table.count(), 0);
});

test('a circle of three owners over two files is refused; without detection it waits', async () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 0, 0), NOW);
  void table.set(FILE, B, lock('write', 1, 1), NOW);
  void table.set(OTHER_FILE, C, lock('write', 0, 0), NOW);
  const first = table.set(FILE, A, lock('write', 1, 1), WAIT);
  const second = table.set(OTHER_FILE, B, lock('write', 0, 0), WAIT);
  assert.throws(() => table.set(FILE, C, lock('write', 0, 0), WAIT), { code: 'EDEADLK' });
  table.drop(OTHER_FILE, C);
  await second;
  table.drop(FILE, B);
  await first;

  const flocks = lockTable({ flock: true });
  void flocks.set(FILE, A, lock('write', 0, 0), NOW);
  void flocks.set(OTHER_FILE, B, lock('write', 0, 0), NOW);
  const a = flocks.set(OTHER_FILE, A, lock('write', 0, 0), WAIT);
  const b = flocks.set(FILE, B, lock('write', 0, 0), WAIT);
  assert.ok((await isPending(a)) && (await isPending(b)));
  flocks.drop(FILE, A);
  await b;
});

test('a mount that goes takes its locks and ends its waiters', async () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A_ELSEWHERE, lock('write', 0, 9), NOW);
  const waits = Promise.resolve(table.set(FILE, B, lock('write', 0, 9), WAIT));
  const gone = Promise.resolve(table.set(FILE, ownerOf(9n, 2), lock('write', 0, 9), WAIT));
  const rejected = assert.rejects(gone, { code: 'EINTR' });
  table.dropMount(2 as MountId);
  await rejected;
  await waits;
  assert.equal(table.count(), 1);
  table.drop(FILE, B);
  assert.equal(table.count(), 0);
});

test('ranges of one owner that touch are one lock, and offsets reach the largest there is', () => {
  const table = lockTable({ flock: false });
  void table.set(FILE, A, lock('write', 10, 19), NOW);
  void table.set(FILE, A, lock('write', 30, 39), NOW);
  void table.set(FILE, A, lock('write', 20, 29), NOW);
  assert.deepEqual(table.test(FILE, B, lock('read', 25, 25)), lock('write', 10, 39));
  void table.set(FILE, A, lock('read', 40, 49), NOW);
  assert.equal(table.count(), 2);

  const far = 2n ** 62n;
  void table.set(FILE, A, lock('write', far, far + 9n), NOW);
  assert.throws(() => table.set(FILE, B, lock('read', far + 9n, LOCK_END), NOW), { code: 'EAGAIN' });
  assert.equal(table.test(FILE, B, lock('read', far + 10n, LOCK_END)), undefined);
});

test('two who share a flock and both want it alone get it one after the other', async () => {
  const flocks = lockTable({ flock: true });
  void flocks.set(FILE, A, lock('read', 0, LOCK_END), NOW);
  void flocks.set(FILE, B, lock('read', 0, LOCK_END), NOW);
  const first = flocks.set(FILE, A, lock('write', 0, LOCK_END), WAIT);
  const second = flocks.set(FILE, B, lock('write', 0, LOCK_END), WAIT);
  await first;
  assert.ok(await isPending(second));
  flocks.drop(FILE, A);
  await second;
});
