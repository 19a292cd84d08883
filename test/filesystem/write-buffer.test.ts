/** The write buffer against an array of bytes: what was written last is what is there. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  recycle,
  type Segment,
  type WriteBuffer,
  writeBuffer,
} from '../../daemon/filesystem/write-buffer.ts';
import { CHUNK_BYTES_MAX } from '../../daemon/protocol/ids.ts';

const SLOTS = 2;
const FILE_BYTES = SLOTS * CHUNK_BYTES_MAX;
const SEEDS = 20;
const OPERATIONS = 120;

/** Mulberry32: small, seeded, good enough to choose offsets. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

interface Model {
  readonly bytes: Buffer;
  /** 1 where the buffer holds a byte. */
  readonly present: Buffer;
}

function emptyModel(): Model {
  return { bytes: Buffer.alloc(FILE_BYTES), present: Buffer.alloc(FILE_BYTES) };
}

/** Segments are sorted, apart, within a slot each, and hold what the model holds. */
function compare(segments: readonly Segment[], model: Model, message: string): void {
  let end = 0;
  for (const { offset, length, buffer } of segments) {
    assert.ok(offset >= end && length > 0, `${message}: sorted, without overlap`);
    assert.ok(!model.present.subarray(end, offset).includes(1), `${message}: nothing is missing`);
    end = offset + length;
    assert.equal(
      Math.floor(offset / CHUNK_BYTES_MAX),
      Math.floor((end - 1) / CHUNK_BYTES_MAX),
      `${message}: within a slot`,
    );
    assert.ok(buffer.subarray(0, length).equals(model.bytes.subarray(offset, end)), `${message}: bytes`);
    assert.ok(!model.present.subarray(offset, end).includes(0), `${message}: nothing made up`);
  }
  assert.ok(!model.present.subarray(end).includes(1), `${message}: nothing is missing`);
}

function takeAndCompare(buffer: WriteBuffer, model: Model, which: 'all' | 'full', message: string): void {
  const before = buffer.segments().length;
  const taken = buffer.take(which);
  const left = buffer.segments();
  assert.equal(taken.length + left.length, before, message);
  if (which === 'full') {
    for (const { offset, length } of taken) assert.equal((offset + length) % CHUNK_BYTES_MAX, 0, message);
    for (const { offset, length } of left) assert.notEqual((offset + length) % CHUNK_BYTES_MAX, 0, message);
    assert.ok(!buffer.hasFull(), message);
  }
  for (const segment of taken) {
    const { offset, length } = segment;
    assert.ok(
      segment.buffer.subarray(0, length).equals(model.bytes.subarray(offset, offset + length)),
      message,
    );
    model.present.fill(0, offset, offset + length);
    // Used again by later writes: what they leave behind must not show.
    if (segment.buffer.length === CHUNK_BYTES_MAX) recycle(segment);
  }
}

for (let seed = 1; seed <= SEEDS; seed++) {
  test(`${OPERATIONS} random writes and takes hold what an array of bytes holds (seed ${seed})`, () => {
    const random = randomNumbers(seed);
    const buffer = writeBuffer();
    const model = emptyModel();
    for (let step = 0; step < OPERATIONS; step++) {
      const message = `step ${step}`;
      if (random(20) === 0) {
        takeAndCompare(buffer, model, random(2) === 0 ? 'all' : 'full', message);
      } else {
        const longest = [16, 5000, 200_000, 5_000_000][random(4)] ?? 1;
        // Often near the end of a slot and near other writes.
        const near = [0, CHUNK_BYTES_MAX - 3000, random(FILE_BYTES - 1)][random(3)] ?? 0;
        const offset = Math.min(FILE_BYTES - 1, near + random(6000));
        const data = Buffer.alloc(Math.min(1 + random(longest), FILE_BYTES - offset), 1 + random(255));
        const before = buffer.bytes();
        const grown = buffer.write(offset, data);
        data.copy(model.bytes, offset);
        model.present.fill(1, offset, offset + data.length);
        assert.equal(buffer.bytes(), before + grown, message);
        data.fill(0); // The buffer keeps a copy.
      }
      const segments = buffer.segments();
      assert.equal(
        buffer.bytes(),
        segments.reduce((sum, { length }) => sum + length, 0),
        message,
      );
      const last = segments.at(-1);
      assert.equal(buffer.end(), last === undefined ? 0 : last.offset + last.length, message);
      if (step % 10 === 9) compare(segments, model, message);
    }
    compare(buffer.segments(), model, 'at the end');
  });
}

test('a slot that is written to its end is full; adjoining writes are one segment', () => {
  const buffer = writeBuffer();
  buffer.write(CHUNK_BYTES_MAX - 20, Buffer.alloc(10, 1));
  assert.ok(!buffer.hasFull());
  buffer.write(CHUNK_BYTES_MAX - 10, Buffer.alloc(30, 2));
  assert.ok(buffer.hasFull());
  assert.deepEqual(
    buffer.segments().map(({ offset, length }) => [offset, length]),
    [
      [CHUNK_BYTES_MAX - 20, 20],
      [CHUNK_BYTES_MAX, 20],
    ],
  );
  assert.equal(buffer.take('full').length, 1);
  assert.equal(buffer.bytes(), 20);
});
