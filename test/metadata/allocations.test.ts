/** Space set aside by fallocate, against a picture of the file in blocks; the check's rules hold after every step. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import type { Inode } from '../../daemon/protocol/ids.ts';
import { findings, makeFile, openFolder, TIME, writeOf } from './folder.ts';

const BLOCK = 4096;
const BLOCKS = 40;
const STEPS = 400;
const HOLE = '.';
const DATA = 'D';
const SET_ASIDE = 'a';

/** One letter a block, by what the metadata say. */
function picture(metadata: Metadata, inode: Inode): string {
  let text = '';
  for (let block = 0; block < BLOCKS; block++) {
    const [start, end] = [block * BLOCK, (block + 1) * BLOCK];
    const data = metadata.reads.stored(inode, start, end);
    const allocated = metadata.reads.allocated(inode, start, end);
    assert.ok(data + allocated === 0 || data + allocated === BLOCK, `block ${block} is one thing`);
    text += data > 0 ? DATA : allocated > 0 ? SET_ASIDE : HOLE;
  }
  return text;
}

function count(text: string, letter: string): number {
  return text.split(letter).length - 1;
}

/** The same numbers in every run. */
function numbers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return (state >>> 8) % limit;
  };
}

test('content takes the place of what was set aside, and holes and cuts give it back', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  const inode = await makeFile(metadata, 'file');
  const below = numbers(1);
  let expected = HOLE.repeat(BLOCKS);
  let size = 0;
  for (let step = 0; step < STEPS; step++) {
    const first = below(BLOCKS);
    const blocks = 1 + below(BLOCKS - first);
    const [offset, length] = [first * BLOCK, blocks * BLOCK];
    const range = { inode, offset, length, time: TIME };
    const replace = (how: (old: string) => string) => {
      expected = Array.from(expected)
        .map((old, at) => (at >= first && at < first + blocks ? how(old) : old))
        .join('');
    };
    switch (below(6)) {
      case 0: {
        const { operation, payload } = writeOf(inode, offset, Buffer.alloc(length, step));
        await metadata.propose(operation, payload);
        replace(() => DATA);
        size = Math.max(size, offset + length);
        break;
      }
      case 1:
      case 2:
        await metadata.propose({ kind: 'allocate', ...range, zero: false, sizeAtLeast: 0 });
        replace((old) => (old === HOLE ? SET_ASIDE : old));
        break;
      case 3:
        await metadata.propose({ kind: 'allocate', ...range, zero: true, sizeAtLeast: offset + length });
        replace(() => SET_ASIDE);
        size = Math.max(size, offset + length);
        break;
      case 4:
        await metadata.propose({ kind: 'punch', ...range, sizeAtLeast: 0 });
        replace(() => HOLE);
        break;
      default:
        await metadata.propose({ kind: 'attributes', inode, size: offset, xattrs: [], time: TIME });
        if (offset <= size) expected = expected.slice(0, first) + HOLE.repeat(BLOCKS - first);
        size = offset;
    }
    assert.equal(picture(metadata, inode), expected, `step ${step}`);
    assert.equal(metadata.status().allocatedBytes, count(expected, SET_ASIDE) * BLOCK);
    if (step % 20 !== 0) continue;
    await metadata.commit();
    assert.deepEqual(findings(folder.database), []);
  }
  await metadata.propose({
    kind: 'allocate',
    inode,
    offset: 0,
    length: BLOCKS * BLOCK,
    zero: true,
    sizeAtLeast: 0,
    time: TIME,
  });
  await metadata.close();
  metadata = folder.open();
  assert.equal(picture(metadata, inode), SET_ASIDE.repeat(BLOCKS), 'it survives a restart');
  assert.equal(metadata.status().allocatedBytes, BLOCKS * BLOCK);
  await metadata.propose({
    kind: 'unlink',
    parent: 1 as Inode,
    name: Buffer.from('file'),
    time: TIME,
  });
  await metadata.propose({ kind: 'reclaim', inodes: [inode], extentsMax: 1000 });
  assert.equal(metadata.status().allocatedBytes, 0);
  await metadata.close();
});

test('a copy brings its content and its holes in the place of what was set aside', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const [from, to] = [await makeFile(metadata, 'from'), await makeFile(metadata, 'to')];
  const { operation, payload } = writeOf(from, BLOCK, Buffer.alloc(BLOCK, 1));
  await metadata.propose(operation, payload);
  const length = BLOCKS * BLOCK;
  await metadata.propose({
    kind: 'allocate',
    inode: to,
    offset: 0,
    length,
    zero: false,
    sizeAtLeast: 0,
    time: TIME,
  });
  await metadata.propose({
    kind: 'copy',
    from,
    fromOffset: 0,
    to,
    toOffset: 0,
    length: 2 * BLOCK,
    time: TIME,
  });
  assert.equal(picture(metadata, to), HOLE + DATA + SET_ASIDE.repeat(BLOCKS - 2));
  await metadata.commit();
  assert.deepEqual(findings(folder.database), []);
  await metadata.close();
});

test('the check finds space set aside over content, and takes it back', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const inode = await makeFile(metadata, 'file');
  const { operation, payload } = writeOf(inode, 0, Buffer.alloc(3 * BLOCK, 1));
  await metadata.propose(operation, payload);
  await metadata.close();
  const { DatabaseSync } = await import('node:sqlite');
  const database = new DatabaseSync(folder.database);
  database.exec(
    `INSERT INTO allocation VALUES (${inode}, ${BLOCK}, 100), (${inode}, ${5 * BLOCK}, 100), (77, 0, 5)`,
  );
  database.close();
  assert.deepEqual(
    findings(folder.database).map(({ code }) => code),
    ['allocation-shape', 'allocation-shape', 'totals'],
  );
  findings(folder.database, { repair: true });
  assert.deepEqual(findings(folder.database), []);
});
