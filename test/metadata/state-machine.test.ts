/** Two state machines on real databases: entries of one, appended to the other, give the same state. */

import assert from 'node:assert/strict';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import type { Epoch, NodeId, Version } from '../../daemon/protocol/ids.ts';
import type { Applied } from '../../daemon/replication/state-machine.ts';
import { dumpState } from './dump.ts';
import { chunkOf, findings, makeDirectory, makeFile, name, openFolder, writeOf } from './folder.ts';
import { EPOCH, everything, lead, member, operationsOf, propose } from './machines.ts';

test('entries of one machine appended to another give an equal database, and equal outcomes', async () => {
  for (const seed of [1, 2, 3, 4]) {
    using one = openFolder();
    using two = openFolder();
    const [leader, follower] = [one.open(), two.open({ memberNumber: 1 })];
    const seen: Applied[][] = [[], []];
    const copyOf = (applied: Applied): Applied => structuredClone(applied);
    leader.stateMachine.onApplied((applied) => seen[0]?.push(copyOf(applied)));
    follower.stateMachine.onApplied((applied) => seen[1]?.push(copyOf(applied)));
    await lead(leader);
    const next = operationsOf(seed);
    for (let step = 1; step <= 400; step++) {
      const { operation, payload } = next(leader);
      await propose(leader, operation, payload, step);
      if (step % 37 !== 0) continue;
      const from = follower.stateMachine.position().version;
      await follower.stateMachine.append(everything(leader, from));
    }
    await follower.stateMachine.append(everything(leader, follower.stateMachine.position().version));
    assert.deepEqual(follower.stateMachine.position(), leader.stateMachine.position());
    assert.deepEqual(follower.stateMachine.epochs(), [{ epoch: EPOCH, first: 1 }]);
    assert.ok(seen[0]!.length > 100, `enough of ${seen[0]!.length} operations succeed`);
    const plain = (list: Applied[]) =>
      JSON.stringify(list.map((each) => [each.version, each.outcome, each.tag]));
    assert.equal(plain(seen[1]!), plain(seen[0]!));
    for (const metadata of [leader, follower]) {
      metadata.stateMachine.setCommitted(leader.stateMachine.position().version);
      await metadata.commit();
    }
    assert.equal(dumpState(two.database), dumpState(one.database));
    assert.deepEqual(findings(two.database), []);
    await leader.close();
    await follower.close();
  }
});

test('members and settings are part of the state; a setting that is not named stays', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  assert.deepEqual(metadata.reads.settings(), { mode: 'replicated', factor: 3, preferred: null, inSync: [] });
  await lead(metadata);
  const inSync = ['node-0' as NodeId, 'node-1' as NodeId];
  await propose(metadata, { kind: 'settings', settings: { factor: 2, inSync } });
  await propose(metadata, { kind: 'settings', settings: { preferred: 'node-1' as NodeId } });
  assert.equal(await propose(metadata, { kind: 'member', member: { ...member(2), number: 1 } }), undefined);
  await propose(metadata, { kind: 'member', member: { ...member(1), state: 'draining' } });
  const check = (): void => {
    assert.deepEqual(metadata.reads.settings(), {
      mode: 'replicated',
      factor: 2,
      preferred: 'node-1',
      inSync,
    });
    assert.deepEqual(metadata.reads.members(), [member(0), { ...member(1), state: 'draining' }]);
  };
  check();
  await metadata.close();
  metadata = folder.open();
  check();
  assert.deepEqual(metadata.stateMachine.position(), { epoch: EPOCH, version: 6 });
  await metadata.close();
});

test('what a node wrote alone belongs to epoch 1, and leaderships follow it', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  assert.deepEqual(metadata.stateMachine.position(), { epoch: 0, version: 0 });
  assert.deepEqual(metadata.stateMachine.epochs(), []);
  await makeFile(metadata, 'alone');
  assert.deepEqual(metadata.stateMachine.position(), { epoch: 1, version: 1 });
  await lead(metadata);
  assert.equal(
    await propose(metadata, { kind: 'lead', leader: 'node-0' as NodeId, epoch: EPOCH }),
    undefined,
  );
  await propose(metadata, { kind: 'lead', leader: 'node-1' as NodeId, epoch: 513 as Epoch });
  await makeFile(metadata, 'in the new epoch');
  const expected = [
    { epoch: 1, first: 1 },
    { epoch: EPOCH, first: 2 },
    { epoch: 513, first: 5 },
  ];
  assert.deepEqual(metadata.stateMachine.epochs(), expected);
  await metadata.close();
  metadata = folder.open();
  assert.deepEqual(metadata.stateMachine.epochs(), expected);
  assert.deepEqual(metadata.stateMachine.position(), { epoch: 513, version: 6 });
  await metadata.close();
});

test('an entry that does not fit here is refused as divergence and changes nothing', async () => {
  using one = openFolder();
  using two = openFolder();
  const [leader, follower] = [one.open(), two.open({ memberNumber: 1 })];
  await makeFile(leader, 'same');
  await follower.stateMachine.append(everything(leader));
  await makeFile(leader, 'other');
  await makeFile(leader, 'name');
  // Another file with that name: the next entry of the leader meets EEXIST.
  await makeFile(follower, 'name');
  await assert.rejects(follower.stateMachine.append(everything(leader, 2)), { code: 'STATE_DIVERGED' });
  assert.equal(follower.stateMachine.position().version, 2);
  await makeFile(follower, 'still works');
  await follower.commit();
  assert.deepEqual(findings(two.database), []);
  await leader.close();
  await follower.close();
});

test('a long batch gives way to others and keeps its order', async () => {
  using one = openFolder();
  using two = openFolder();
  const [leader, follower] = [one.open(), two.open()];
  for (let round = 0; round < 40; round++) {
    await Promise.all(Array.from({ length: 100 }, (_, index) => makeFile(leader, `${round}-${index}`)));
  }
  let turns = 0;
  let appending = true;
  const count = (): void => {
    turns++;
    if (appending) setImmediate(count);
  };
  setImmediate(count);
  const entries = everything(leader);
  const [first, second] = [entries.slice(0, 3000), entries.slice(3000)];
  await Promise.all([follower.stateMachine.append(first), follower.stateMachine.append(second)]);
  appending = false;
  assert.ok(turns > 3, `${turns} turns of others`);
  assert.deepEqual(follower.stateMachine.position(), leader.stateMachine.position());
  await leader.commit();
  await follower.commit();
  assert.equal(dumpState(two.database), dumpState(one.database));
  await leader.close();
  await follower.close();
});

test('entries are read from memory or from files, in pieces, and not behind a trimmed log', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  const file = await makeFile(metadata, 'file');
  for (let index = 0; index < 700; index++) {
    const { operation, payload } = writeOf(file, 0, Buffer.alloc(60_000, `content ${index}`));
    await metadata.propose(operation, payload);
    metadata.settled(metadata.unsettledBatch(Number.POSITIVE_INFINITY));
  }
  const read = (from: number, bytesMax: number): Version[] => {
    const versions: Version[] = [];
    for (let after = from as Version; ; ) {
      const piece = metadata.stateMachine.entriesAfter(after, bytesMax);
      assert.ok(piece !== undefined, `after ${after}`);
      if (piece.length === 0) return versions;
      versions.push(...piece.map(({ version }) => version));
      after = piece.at(-1)!.version;
    }
  };
  const all = Array.from({ length: 701 }, (_, index) => index + 1);
  // 42 MB in three segments: only the newest 8 MiB are in memory.
  assert.deepEqual(read(0, 1_000_000), all);
  assert.deepEqual(read(0, Number.POSITIVE_INFINITY), all);
  assert.deepEqual(read(690, 10), all.slice(690));
  await metadata.close();
  metadata = folder.open();
  assert.deepEqual(read(0, 3_000_000), all);
  assert.deepEqual(read(300, 1), all.slice(300));
  await metadata.close();
});

test('a database and a log of format 1 open, and go on', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  const file = await makeFile(metadata, 'old');
  await metadata.close();
  const database = new DatabaseSync(folder.database);
  database.exec(`DROP TABLE member; DROP TABLE epoch; DROP TABLE cluster_setting; PRAGMA user_version = 1;
    UPDATE setting SET value = 5000 WHERE key = 'next_inode'`);
  database.close();
  metadata = folder.open();
  assert.deepEqual(metadata.stateMachine.epochs(), [{ epoch: 1, first: 1 }]);
  assert.equal(metadata.reads.child(1 as never, name('old'))?.inode, file);
  assert.deepEqual(metadata.reads.members(), []);
  assert.ok(metadata.allocateInode() >= 5000);
  await makeFile(metadata, 'new');
  await metadata.close();
  assert.deepEqual(findings(folder.database), []);
});

test('each member gives numbers of its own range, none of them twice', async () => {
  using folder = openFolder();
  const given: number[] = [];
  for (const memberNumber of [0, 3, 0, 3]) {
    const metadata: Metadata = folder.open({ memberNumber });
    for (let count = 0; count < 3; count++) given.push(await makeFile(metadata, `${given.length}`));
    await metadata.close();
  }
  assert.equal(new Set(given).size, given.length);
  assert.deepEqual(given.slice(0, 3), [2, 3, 4]);
  for (const [index, number] of given.entries()) {
    assert.equal(Math.floor(number / 2 ** 44), Math.floor(index / 3) % 2 === 0 ? 0 : 3);
  }
});

test('chunks in use are listed in pieces, and the files that use them are found', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const directory = await makeDirectory(metadata, 'directory');
  const inner = await makeDirectory(metadata, 'inner', directory);
  const contents = ['one', 'two', 'three'].map((text) => Buffer.from(text));
  const files = [await makeFile(metadata, 'top'), await makeFile(metadata, 'deep', inner)];
  for (const [index, data] of contents.entries()) {
    const { operation, payload } = writeOf(files[index % 2]!, index * 10, data);
    await metadata.propose(operation, payload);
  }
  const shared = writeOf(files[1]!, 100, contents[0]!);
  await metadata.propose(shared.operation, shared.payload);
  await metadata.commit();
  const first = metadata.reads.chunksAfter(0, 2);
  const rest = metadata.reads.chunksAfter(first.at(-1)!.row, 2);
  const hashes = contents.map(chunkOf);
  assert.deepEqual(
    [...first, ...rest].map(({ hash }) => hash),
    hashes,
  );
  assert.deepEqual(await metadata.filesOfChunks([hashes[1]!, hashes[0]!, chunkOf(Buffer.from('gone'))]), [
    { hash: hashes[1], bytes: 3, files: 1, paths: ['/directory/inner/deep'] },
    { hash: hashes[0], bytes: 3, files: 2, paths: ['/top', '/directory/inner/deep'] },
  ]);
  await metadata.close();
});
