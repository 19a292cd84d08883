import assert from 'node:assert/strict';
import test from 'node:test';
import { openLru } from '../../daemon/runtime/lru.ts';

test('the entry that was used longest ago goes first, and its owner hears of it', () => {
  const evicted: string[] = [];
  const lru = openLru<string, number>({
    weightMax: 2,
    onEvict: (key, value) => evicted.push(`${key}=${value}`),
  });
  lru.set('a', 1);
  lru.set('b', 2);
  assert.equal(lru.get('a'), 1);
  lru.set('c', 3);
  assert.deepEqual(evicted, ['b=2']);
  assert.equal(lru.peek('b'), undefined);
  assert.equal(lru.size, 2);
});

test('peek leaves the age alone', () => {
  const lru = openLru<string, number>({ weightMax: 2 });
  lru.set('a', 1);
  lru.set('b', 2);
  lru.peek('a');
  lru.set('c', 3);
  assert.equal(lru.peek('a'), undefined);
});

test('weights are kept right through replace, delete and clear', () => {
  const evicted: string[] = [];
  const lru = openLru<string, string>({ weightMax: 10, onEvict: (_, value) => evicted.push(value) });
  lru.set('a', 'old', 4);
  lru.set('a', 'new', 6);
  assert.equal(lru.weight, 6);
  assert.deepEqual(evicted, ['old']);
  assert.equal(lru.delete('a'), 'new');
  assert.equal(lru.weight, 0);
  assert.deepEqual(evicted, ['old']);
  lru.set('b', 'b', 3);
  lru.clear();
  assert.deepEqual(evicted, ['old', 'b']);
  assert.equal(lru.size, 0);
});

test('what is heavier than everything allowed is not kept', () => {
  const evicted: string[] = [];
  const lru = openLru<string, string>({ weightMax: 10, onEvict: (key) => evicted.push(key) });
  lru.set('a', '', 5);
  lru.set('huge', '', 11);
  assert.equal(lru.weight <= 10, true);
  assert.equal(lru.peek('huge'), undefined);
  assert.deepEqual(evicted, ['a', 'huge']);
});
