import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import test from 'node:test';
import { crc32 } from 'node:zlib';
import { planBlockRead, SCRATCH_BYTES } from '../../daemon/chunks/block-reads.ts';
import { blockBytesOf, checksumsOf, matches } from '../../daemon/chunks/checksums.ts';
import { BLOCK_BYTES, OLD_BLOCK_BYTES } from '../../daemon/chunks/layout.ts';

function tableOf(data: Buffer, blockBytes: number) {
  const checksums = Uint32Array.from({ length: Math.ceil(data.length / blockBytes) }, (_, block) =>
    crc32(data.subarray(block * blockBytes, (block + 1) * blockBytes)),
  );
  return { size: data.length, blockBytes, checksums };
}

for (const blockBytes of [BLOCK_BYTES, OLD_BLOCK_BYTES]) {
  test(`joined sums of blocks of ${blockBytes} bytes accept what is right and nothing else`, () => {
    for (const size of [1, blockBytes - 1, blockBytes, blockBytes + 1, 7 * blockBytes, 9 * blockBytes + 77]) {
      const data = randomBytes(size);
      const table = tableOf(data, blockBytes);
      assert.ok(matches(data, 0, table));
      if (size > 3 * blockBytes) {
        assert.ok(matches(data.subarray(blockBytes), 1, table));
        assert.ok(matches(data.subarray(blockBytes, 3 * blockBytes), 1, table));
        assert.equal(matches(data.subarray(blockBytes, 3 * blockBytes), 2, table), false);
      }
      for (let bit = 0; bit < 50; bit += 1) {
        const at = Math.floor(Math.random() * size);
        data[at]! ^= 1 << (bit % 8);
        assert.equal(matches(data, 0, table), false);
        data[at]! ^= 1 << (bit % 8);
      }
    }
  });

  test(`any range is read by whole blocks of ${blockBytes} bytes and found right or wrong`, () => {
    const size = 6 * blockBytes + 1234;
    const file = randomBytes(size);
    const table = tableOf(file, blockBytes);
    const scratch = Buffer.alloc(SCRATCH_BYTES);
    for (let round = 0; round < 500; round += 1) {
      const offset = Math.floor(Math.random() * size);
      const target = Buffer.alloc(1 + Math.floor(Math.random() * (size - offset)));
      const fill = () => {
        const plan = planBlockRead(table, offset, target, scratch);
        let position = plan.position;
        assert.equal(position % blockBytes, 0);
        for (const part of plan.parts) position += file.copy(part, 0, position, position + part.length);
        return plan.verified();
      };
      assert.ok(fill());
      assert.ok(target.equals(file.subarray(offset, offset + target.length)));
      const at = offset + Math.floor(Math.random() * target.length);
      file[at]! ^= 1;
      assert.equal(fill(), false);
      file[at]! ^= 1;
    }
  });
}

test('the size of a table says the size of its blocks', () => {
  const size = 300_000;
  assert.equal(blockBytesOf(size, checksumsOf(randomBytes(size)).length), BLOCK_BYTES);
  assert.equal(blockBytesOf(size, Math.ceil(size / OLD_BLOCK_BYTES)), OLD_BLOCK_BYTES);
  assert.equal(blockBytesOf(size, 3), undefined);
});
