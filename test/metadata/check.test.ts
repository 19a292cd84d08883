/** Every rule of the check finds its damage; what can be repaired is, and then the check is clean. */

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import type { Inode } from '../../daemon/protocol/ids.ts';
import { type Folder, findings, makeDirectory, makeFile, name, openFolder, TIME, writeOf } from './folder.ts';

/** Inodes: 2 file with two extents, 3 directory, 4 file in it, 5 symbolic link, 6 file with an xattr. */
async function filled(folder: Folder): Promise<void> {
  const metadata = folder.open();
  const file = await makeFile(metadata, 'file');
  for (const [index, text] of ['first', 'second'].entries()) {
    const { operation, payload } = writeOf(file, index * 100, Buffer.from(text));
    await metadata.propose(operation, payload);
  }
  const directory = await makeDirectory(metadata, 'directory');
  await makeFile(metadata, 'inner', directory);
  const entry = { parent: 1 as Inode, name: name('link') };
  const plain = { kind: 'make', uid: 0, gid: 0, rdev: 0, time: TIME } as const;
  await metadata.propose({
    ...plain,
    inode: metadata.allocateInode(),
    entry,
    mode: 0o120777,
    target: name('file'),
    xattrs: [],
  });
  await metadata.propose({
    ...plain,
    inode: metadata.allocateInode(),
    entry: { parent: 1 as Inode, name: name('labelled') },
    mode: 0o100644,
    target: null,
    xattrs: [{ name: name('user.a'), value: name('b') }],
  });
  await metadata.close();
}

interface Damage {
  readonly code: string;
  readonly sql: string;
  /** Only a person can decide; stays after a repair. */
  readonly loss?: true;
}

const DAMAGES: readonly Damage[] = [
  { code: 'entry-without-inode', sql: "INSERT INTO dentry VALUES (1, x'41', 99, 32768, 900)" },
  { code: 'entry-outside-directory', sql: "INSERT INTO dentry VALUES (2, x'41', 4, 32768, 900)" },
  { code: 'entry-name', sql: "UPDATE dentry SET name = x'2f41' WHERE inode = 2", loss: true },
  { code: 'entry-type', sql: 'UPDATE dentry SET type = 16384 WHERE inode = 2' },
  { code: 'directory-names', sql: "INSERT INTO dentry VALUES (1, x'41', 3, 16384, 900)", loss: true },
  { code: 'directory-parent', sql: 'UPDATE inode SET parent = 3 WHERE inode = 3' },
  { code: 'directory-unreachable', sql: 'UPDATE dentry SET parent = 3 WHERE inode = 3', loss: true },
  { code: 'inode-type', sql: 'UPDATE inode SET size = -1 WHERE inode = 4', loss: true },
  { code: 'symlink-target', sql: 'UPDATE inode SET target = NULL WHERE inode = 5', loss: true },
  { code: 'inode-without-name', sql: 'DELETE FROM dentry WHERE inode = 4' },
  { code: 'inode-without-name', sql: 'DELETE FROM dentry WHERE inode = 3' },
  { code: 'orphan-with-name', sql: 'INSERT INTO orphan VALUES (2)' },
  { code: 'link-count', sql: 'UPDATE inode SET links = 7 WHERE inode = 2' },
  { code: 'link-count', sql: 'UPDATE inode SET links = 2 WHERE inode = 1' },
  { code: 'extent-without-inode', sql: 'INSERT INTO extent VALUES (99, 0, 5, 1, 0)' },
  { code: 'extent-without-chunk', sql: 'DELETE FROM chunk WHERE chunk = 1', loss: true },
  { code: 'extent-shape', sql: 'UPDATE extent SET chunk_offset = 3 WHERE offset = 0', loss: true },
  { code: 'extent-overlap', sql: 'UPDATE extent SET offset = 3 WHERE offset = 100', loss: true },
  { code: 'extent-past-end', sql: 'UPDATE inode SET size = 50 WHERE inode = 2', loss: true },
  { code: 'stored-bytes', sql: 'UPDATE inode SET stored = 1 WHERE inode = 2' },
  { code: 'chunk-references', sql: 'UPDATE chunk SET refs = 5 WHERE chunk = 1' },
  { code: 'chunk-shape', sql: "UPDATE chunk SET hash = x'00' WHERE chunk = 1", loss: true },
  { code: 'xattr-without-inode', sql: "INSERT INTO xattr VALUES (99, x'41', x'42')" },
  {
    code: 'member-number',
    sql: "INSERT INTO member VALUES ('a', 256, 'auto', 'a:1', 'active', 'k')",
    loss: true,
  },
  { code: 'epoch-order', sql: "INSERT INTO epoch VALUES (256, 1, 'a'), (512, 1000, 'b')", loss: true },
  { code: 'totals', sql: "UPDATE setting SET value = 77 WHERE key = 'inodes'" },
  { code: 'totals', sql: "UPDATE setting SET value = 77 WHERE key = 'stored'" },
];

for (const { code, sql, loss } of DAMAGES) {
  test(`${code} finds: ${sql}`, async () => {
    using folder = openFolder();
    await filled(folder);
    assert.deepEqual(findings(folder.database), [], 'whole before');
    const database = new DatabaseSync(folder.database);
    assert.notEqual(Number(database.prepare(sql).run().changes), 0, 'the damage is done');
    database.close();
    const found = findings(folder.database);
    assert.ok(
      found.some((finding) => finding.code === code),
      JSON.stringify(found),
    );
    assert.ok(found.every((finding) => finding.state !== 'repaired'));
    assert.deepEqual(findings(folder.database), found, 'a check changes nothing');
    const repaired = findings(folder.database, { repair: true });
    assert.equal(
      repaired.find((finding) => finding.code === code)?.state,
      loss === true ? 'loss' : 'repaired',
    );
    const after = findings(folder.database);
    if (loss === true) assert.ok(after.some((finding) => finding.code === code));
    else assert.deepEqual(after, [], 'clean after a repair');
  });
}

test('a file that lost its name is found in lost+found after a repair', async () => {
  using folder = openFolder();
  await filled(folder);
  const database = new DatabaseSync(folder.database);
  database.exec('DELETE FROM dentry WHERE inode = 2');
  database.close();
  // Otherwise the next opening takes it for damage and undoes it.
  for (const file of ['meta.sums', 'meta.copy.sums']) rmSync(join(folder.directory, file));
  findings(folder.database, { repair: true });
  const metadata = folder.open();
  const lost = metadata.reads.child(1 as Inode, name('lost+found'));
  assert.ok(lost !== undefined);
  assert.equal(metadata.reads.child(lost.inode, name('#2'))?.size, 106);
  assert.ok((await makeFile(metadata, 'new')) > lost.inode);
  await metadata.close();
  assert.deepEqual(findings(folder.database), []);
});
