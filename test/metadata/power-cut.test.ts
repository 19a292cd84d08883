import assert from 'node:assert/strict';
import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { checkMetadata } from '../../daemon/metadata/check.ts';
import { type Metadata, openMetadata } from '../../daemon/metadata/metadata.ts';
import { type ChunkHash, type Inode, ROOT_INODE, type Version } from '../../daemon/protocol/ids.ts';
import { openLog } from '../../daemon/runtime/log.ts';

const log = openLog({ format: 'text', level: 'error' });
const time = { seconds: 1, nanoseconds: 0 };

/** Each file is two operations: make, and a write that brings a small chunk. */
async function makeFiles(metadata: Metadata, from: number, to: number): Promise<void> {
  for (let number = from; number < to; number++) {
    const inode = metadata.allocateInode();
    const name = Buffer.from(`file-${number}`);
    const common = { uid: 0, gid: 0, rdev: 0, target: null, xattrs: [], time };
    await metadata.propose({
      kind: 'make',
      inode,
      entry: { parent: ROOT_INODE, name },
      mode: 0o100644,
      ...common,
    });
    const data = Buffer.from(`content of ${number}`);
    const hash = crypto.hash('sha256', data, 'hex') as ChunkHash;
    const extent = { offset: 0, length: data.length, hash, chunkBytes: data.length, chunkOffset: 0 };
    await metadata.propose(
      { kind: 'write', inode, extents: [extent], sizeAtLeast: data.length, time },
      new Map([[hash, data]]),
    );
  }
}

/** Zeros everything in the newest segment from the entry `version` on, as a disk that lost it. */
function loseLogFrom(directory: string, version: number): void {
  const name = fs
    .readdirSync(directory)
    .filter((file) => /^\d+\.log$/.test(file))
    .sort()
    .at(-1)!;
  const file = path.join(directory, name);
  const bytes = fs.readFileSync(file);
  let at = 32;
  for (let current = Number(name.slice(0, 16)); current < version; current++)
    at += 8 + bytes.readUInt32LE(at);
  bytes.fill(0, at);
  fs.writeFileSync(file, bytes);
}

test("a power cut that keeps SQLite's pages and loses the end of the log goes back to what the log holds", async (t) => {
  const root = fs.mkdtempSync('/tmp/warren-power-');
  t.after(() => fs.rmSync(root, { recursive: true, force: true }));
  const alive = path.join(root, 'alive');
  fs.mkdirSync(alive);
  const before = openMetadata({ directory: alive, create: true, log });
  t.after(() => before.close());
  // Nothing comes into the database file, however long this takes.
  before.stateMachine.setCommitted(0 as Version);
  for (let batch = 0; batch < 10; batch++) {
    await makeFiles(before, batch * 20, (batch + 1) * 20);
    await before.commit();
  }
  const { version } = before.status();
  assert.equal(version, 400);

  for (const last of [399, 398, 250, 241, 240, 239, 1]) {
    const cut = path.join(root, `cut-${last}`);
    fs.cpSync(alive, cut, { recursive: true });
    loseLogFrom(path.join(cut, 'log'), last + 1);
    const after = openMetadata({ directory: cut, create: false, log });
    t.after(() => after.close());
    assert.equal(after.status().version, last, `state goes back to operation ${last}`);
    const files = Math.ceil(last / 2);
    assert.equal(after.reads.list(ROOT_INODE, 0, 1000).length, files);
    // Every small chunk that the state names has its bytes.
    for (let inode = 2; inode < 2 + Math.floor(last / 2); inode++) {
      const [extent] = after.reads.extents(inode as Inode, 0, 100);
      assert.ok(
        extent !== undefined && after.unsettled(extent.hash) !== undefined,
        `bytes of inode ${inode}`,
      );
    }
    // It goes on from there, and the next opening finds it.
    await makeFiles(after, 1000, 1003);
    await after.close();
    const database = new DatabaseSync(path.join(cut, 'meta.db'));
    assert.deepEqual([...checkMetadata(database, { repair: false })], []);
    database.close();
    const again = openMetadata({ directory: cut, create: false, log });
    assert.equal(again.status().version, last + 6);
    await again.close();
  }
});
