/** What a killed process leaves is a copy of its directory at that moment: an opening brings everything back. */

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Metadata, openMetadata } from '../../daemon/metadata/metadata.ts';
import { ROOT_INODE } from '../../daemon/protocol/ids.ts';
import { chunkOf, findings, makeFile, name, openFolder, silentLog, writeOf } from './folder.ts';

async function withCopy(directory: string, body: (copy: string) => Promise<void>): Promise<void> {
  const copy = mkdtempSync(join(tmpdir(), 'warren-copy-'));
  try {
    cpSync(directory, copy, { recursive: true });
    await body(copy);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

const open = (directory: string, salvage = false): Metadata =>
  openMetadata({ directory, create: false, salvage, log: silentLog() });

test('answered operations survive a kill between the write of the log and the commit', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await makeFile(metadata, 'committed');
  await metadata.commit();
  const data = Buffer.from('small bytes');
  const file = await makeFile(metadata, 'file');
  const { operation, payload } = writeOf(file, 10, data);
  await metadata.propose(operation, payload);
  // Answered, and the transaction is still open.
  await withCopy(folder.directory, async (copy) => {
    assert.deepEqual(findings(join(copy, 'meta.db')), []);
    for (let opening = 0; opening < 3; opening++) {
      const again = open(copy);
      assert.equal(again.status().version, metadata.status().version);
      assert.equal(again.reads.child(ROOT_INODE, name('file'))?.size, 10 + data.length);
      assert.deepEqual(Buffer.from(again.unsettled(chunkOf(data)) ?? []), data, `opening ${opening}`);
      assert.ok(again.allocateInode() > file, 'a number is never given twice');
      const { inodes, storedBytes } = again.status();
      assert.deepEqual([inodes, storedBytes], [3, data.length]);
      await again.close();
      assert.deepEqual(findings(join(copy, 'meta.db')), []);
    }
  });
  await metadata.close();
});

test('a kill at any of many moments loses nothing answered and counts nothing twice', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  let answered = 0;
  for (let round = 0; round < 15; round++) {
    const batch = Array.from({ length: 37 * round }, (_, index) => makeFile(metadata, `${round}-${index}`));
    await Promise.all(batch);
    answered += batch.length;
    if (round % 3 === 0) await metadata.commit();
    if (round % 4 === 0) await metadata.barrier();
    await withCopy(folder.directory, async (copy) => {
      const again = open(copy);
      assert.equal(again.status().version, answered);
      assert.equal(again.status().inodes, answered + 1);
      await makeFile(again, 'and on');
      await again.close();
      assert.deepEqual(findings(join(copy, 'meta.db')), []);
    });
  }
  await metadata.close();
});

test('settled chunks are not brought back, unsettled ones are', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const file = await makeFile(metadata, 'file');
  const [first, second] = [Buffer.from('first'), Buffer.from('second')];
  for (const [index, data] of [first, second].entries()) {
    const { operation, payload } = writeOf(file, index * 100, data);
    await metadata.propose(operation, payload);
    if (index === 0) metadata.settled(metadata.unsettledBatch(1000));
  }
  await metadata.commit();
  await withCopy(folder.directory, async (copy) => {
    const again = open(copy);
    assert.equal(again.unsettled(chunkOf(first)), undefined);
    assert.ok(again.unsettled(chunkOf(second)) !== undefined);
    await again.close();
  });
  await metadata.close();
});

test('a log without its first file is refused while bytes of small chunks are only there', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const file = await makeFile(metadata, 'file');
  const { operation, payload } = writeOf(file, 0, Buffer.from('unsettled'));
  await metadata.propose(operation, payload);
  await metadata.barrier();
  await metadata.commit();
  await withCopy(folder.directory, async (copy) => {
    // A second segment, so that the log is not simply gone.
    const again = open(copy);
    await makeFile(again, 'second');
    await again.close();
    const segments = readdirSync(join(copy, 'log')).sort();
    assert.equal(segments.length, 2);
    rmSync(join(copy, 'log', segments[0]!));
    assert.throws(() => open(copy), { code: 'LOG_INCOMPLETE', message: /operations 2 to 2/ });
    const salvaged = open(copy, true);
    assert.ok(salvaged.reads.child(ROOT_INODE, name('second')) !== undefined);
    await salvaged.close();
    await open(copy).close();
  });
  await metadata.close();
});
