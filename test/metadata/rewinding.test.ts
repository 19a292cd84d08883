/** Entries taken back and snapshots restored: the state is that of a machine that never saw anything else. */

import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { type Metadata, openMetadata } from '../../daemon/metadata/metadata.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import type { ChunkHash, Epoch, NodeId, Version } from '../../daemon/protocol/ids.ts';
import type { Applied, Rewound } from '../../daemon/replication/state-machine.ts';
import { dumpState } from './dump.ts';
import { type Folder, chunkOf, findings, makeFile, openFolder, silentLog, writeOf } from './folder.ts';
import { EPOCH, everything, lead, operationsOf, propose, randomOf } from './machines.ts';

const at = (version: number): Version => version as Version;

/** A machine that only ever saw the entries up to `version`. */
async function twinOf(metadata: Metadata, version: number, twin: Metadata): Promise<void> {
  const entries = everything(metadata).filter((entry) => entry.version <= version);
  await twin.stateMachine.append(entries);
  twin.stateMachine.setCommitted(at(version));
  await twin.commit();
}

function smallChunksOf(database: string): ChunkHash[] {
  const connection = new DatabaseSync(database, { readOnly: true });
  try {
    return connection
      .prepare('SELECT lower(hex(hash)) AS hash FROM chunk')
      .all()
      .map((row) => row['hash'] as ChunkHash);
  } finally {
    connection.close();
  }
}

for (const seed of [11, 12, 13, 14, 15, 16]) {
  test(`what is taken back at random places never was (seed ${seed})`, async () => {
    using folder = openFolder();
    let metadata = folder.open();
    const random = randomOf(seed);
    const next = operationsOf(seed);
    const outcomes = new Map<number, string>();
    const note = (machine: Metadata): void => {
      machine.stateMachine.onApplied(({ version, outcome }) =>
        outcomes.set(version, JSON.stringify(outcome)),
      );
    };
    note(metadata);
    await lead(metadata);
    const settled = new Set<ChunkHash>();
    let agreed = metadata.stateMachine.position().version;
    for (let round = 0; round < 8; round++) {
      for (let step = 0; step < 60; step++) {
        const { operation, payload } = next(metadata);
        await propose(metadata, operation, payload, step + 1);
        if (random() < 0.1) await metadata.commit();
        if (random() < 0.05) {
          const batch = metadata.unsettledBatch(500);
          for (const { hash } of batch) settled.add(hash);
          metadata.settled(batch);
        }
      }
      if (round === 3) {
        await metadata.close();
        metadata = folder.open();
        note(metadata);
      }
      const { version } = metadata.stateMachine.position();
      const target = at(agreed + Math.floor(random() * (version - agreed + 1)));
      const before = new Map(outcomes);
      using twinFolder = openFolder();
      const twin = twinFolder.open();
      await twinOf(metadata, target, twin);
      const changes: Rewound[] = [];
      const stop = metadata.stateMachine.onRewound((change) => changes.push(change));
      const taken = await metadata.stateMachine.takeBack(target);
      stop();
      assert.ok(taken !== undefined, 'nothing above what is agreed is in the file');
      assert.deepEqual(
        taken.map((entry) => [entry.version, JSON.stringify(entry.outcome)]),
        Array.from({ length: version - target }, (_, index) => [
          target + index + 1,
          before.get(target + index + 1),
        ]),
      );
      assert.equal(changes.length, taken.length === 0 ? 0 : 1);
      await metadata.commit();
      assert.equal(dumpState(folder.database), dumpState(twinFolder.database), `round ${round}`);
      assert.deepEqual(metadata.stateMachine.position(), twin.stateMachine.position());
      assert.deepEqual(metadata.stateMachine.epochs(), twin.stateMachine.epochs());
      assert.deepEqual(
        [metadata.status().inodes, metadata.status().storedBytes],
        [twin.status().inodes, twin.status().storedBytes],
      );
      for (const hash of smallChunksOf(folder.database)) {
        assert.ok(
          metadata.unsettled(hash) !== undefined || settled.has(hash),
          `the bytes of ${hash} are somewhere`,
        );
      }
      if (round % 3 === 2) {
        agreed = target;
        metadata.stateMachine.setCommitted(target);
        await metadata.renewPageSums();
      }
      await twin.close();
    }

    await metadata.close();
    assert.deepEqual(findings(folder.database), []);
    // The next start agrees.
    const again = folder.open();
    await again.commit();
    assert.deepEqual(await again.verifyPages({ pauseMs: 0 }), []);
    await again.close();
  });
}

test('what is in the database file is not taken back, and nothing changes', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await lead(metadata);
  await makeFile(metadata, 'agreed');
  metadata.stateMachine.setCommitted(at(4));
  await metadata.commit();
  await metadata.renewPageSums();
  assert.equal(metadata.status().checkpointedVersion, 4);
  await makeFile(metadata, 'not agreed');
  await metadata.commit();
  await metadata.renewPageSums();
  assert.equal(metadata.status().checkpointedVersion, 4, 'a checkpoint waits for what is not agreed');
  assert.equal(await metadata.stateMachine.takeBack(at(3)), undefined);
  assert.equal(metadata.stateMachine.position().version, 5);
  assert.equal((await metadata.stateMachine.takeBack(at(4)))?.length, 1);
  await metadata.close();
});

test('a checkpoint takes what is agreed while more is written all the time', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await lead(metadata);
  // What is agreed is always behind, so the last commit is never agreed unless it is held back.
  let round = 0;
  for (; round < 1000 && metadata.status().checkpointedVersion === 0; round++) {
    await Promise.all(Array.from({ length: 100 }, (_, index) => makeFile(metadata, `${round}-${index}`)));
    metadata.stateMachine.setCommitted(at(metadata.stateMachine.position().version - 50));
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(metadata.status().checkpointedVersion > 0, `a checkpoint within ${round} rounds`);
  await metadata.close();
});

test('while another connection reads the database, nothing is taken back', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await lead(metadata);
  await metadata.commit();
  const reader = new DatabaseSync(folder.database, { readOnly: true });
  reader.exec('BEGIN');
  reader.prepare('SELECT count(*) FROM inode').get();
  assert.equal(await metadata.stateMachine.takeBack(at(1)), undefined);
  assert.equal(metadata.stateMachine.position().version, 3);
  reader.close();
  assert.equal((await metadata.stateMachine.takeBack(at(1)))?.length, 2);
  await metadata.close();
});

/** Copies the folder at each step, as a killed process would leave it. */
function copier(folder: Folder): {
  onStep: (step: string) => void;
  copies: Map<string, string>;
  [Symbol.dispose](): void;
} {
  const copies = new Map<string, string>();
  return {
    copies,
    onStep(step) {
      const copy = mkdtempSync(join(tmpdir(), 'warren-copy-'));
      copies.set(`${copies.size} ${step}`, copy);
      cpSync(folder.directory, copy, { recursive: true });
    },
    [Symbol.dispose]() {
      for (const copy of copies.values()) rmSync(copy, { recursive: true, force: true });
    },
  };
}

test('a crash at any step of taking back leaves the state before, after or in between', async () => {
  using folder = openFolder();
  using steps = copier(folder);
  const metadata = folder.open({ onStep: steps.onStep });
  await lead(metadata);
  const file = await makeFile(metadata, 'file');
  const states = new Map<number, string>();
  // Several segments of the log.
  for (let index = 0; index < 600; index++) {
    const { operation, payload } = writeOf(file, 0, Buffer.alloc(60_000, `content ${index}`));
    await propose(metadata, operation, payload);
    metadata.settled(metadata.unsettledBatch(Number.POSITIVE_INFINITY));
    if (index % 50 !== 0) continue;
    await metadata.commit();
    states.set(metadata.stateMachine.position().version, dumpState(folder.database));
  }
  const last = metadata.stateMachine.position().version;
  await metadata.commit();
  states.set(last, dumpState(folder.database));
  const target = at(54 + 1);
  assert.ok(states.has(target));
  assert.equal((await metadata.stateMachine.takeBack(target))?.length, last - target);
  await makeFile(metadata, 'after it');
  await metadata.close();
  assert.deepEqual(
    [...steps.copies.keys()].map((step) => step.replace(/^\d+ /, '')),
    ['closed', 'wal-cut', 'log-segment-removed', 'log-segment-removed', 'log-cut'],
  );
  for (const [step, copy] of steps.copies) {
    const opened = openMetadata({ directory: copy, create: false, log: silentLog() });
    const { version } = opened.stateMachine.position();
    if (step.includes('closed') || step.includes('wal-cut')) assert.equal(version, last, step);
    else if (step.includes('log-cut')) assert.equal(version, target, step);
    else assert.ok(version >= target && version < last, step);
    await opened.commit();
    if (states.has(version)) assert.equal(dumpState(join(copy, 'meta.db')), states.get(version), step);
    assert.equal(version, opened.status().version);
    await makeFile(opened, 'and on');
    await opened.close();
    assert.deepEqual(findings(join(copy, 'meta.db')), [], step);
  }
});

test('a snapshot holds what is agreed, and restoring it gives that state', async () => {
  using one = openFolder();
  using two = openFolder();
  const leader = one.open();
  await lead(leader);
  const next = operationsOf(5);
  for (let step = 0; step < 300; step++) {
    const { operation, payload } = next(leader);
    await propose(leader, operation, payload);
  }
  const agreed = leader.stateMachine.position();
  await leader.commit();
  const expected = dumpState(one.database);
  setTimeout(() => leader.stateMachine.setCommitted(agreed.version), 20);
  const making = leader.stateMachine.snapshot();
  const snapshot = await making;
  assert.deepEqual(snapshot.position, agreed);
  const moved = join(two.directory, 'received.db');
  cpSync(snapshot.path, moved);
  await snapshot.release();
  assert.ok(!existsSync(snapshot.path));

  using steps = copier(two);
  const follower = two.open({ memberNumber: 1, onStep: steps.onStep });
  for (let index = 0; index < 10; index++) await makeFile(follower, `own ${index}`);
  await follower.commit();
  const before = dumpState(two.database);
  const changes: Rewound[] = [];
  follower.stateMachine.onRewound((change) => changes.push(change));
  await follower.stateMachine.restore(moved, agreed);
  assert.deepEqual(changes, [{ kind: 'restored', position: agreed }]);
  assert.deepEqual(follower.stateMachine.position(), agreed);
  assert.deepEqual(follower.stateMachine.epochs(), [{ epoch: EPOCH, first: 1 }]);
  assert.equal(follower.unsettledBatch(1).length, 0);
  assert.equal(follower.stateMachine.entriesAfter(at(agreed.version - 1), 1000), undefined);
  assert.equal(dumpState(two.database), expected);
  // It goes on with entries of the leader.
  await makeFile(leader, 'later');
  await follower.stateMachine.append(everything(leader, agreed.version));
  await follower.commit();
  await leader.commit();
  assert.equal(dumpState(two.database), dumpState(one.database));
  await follower.close();
  await leader.close();
  assert.deepEqual(findings(two.database), []);

  assert.ok(steps.copies.size >= 6, [...steps.copies.keys()].join());
  for (const [step, copy] of steps.copies) {
    const opened = openMetadata({ directory: copy, create: false, log: silentLog() });
    await opened.commit();
    const isOld = step.includes('restore-moved');
    assert.equal(dumpState(join(copy, 'meta.db')), isOld ? before : expected, step);
    await makeFile(opened, 'and on');
    await opened.close();
    assert.deepEqual(findings(join(copy, 'meta.db')), [], step);
    const again = openMetadata({ directory: copy, create: false, log: silentLog() });
    assert.deepEqual(await again.verifyPages({ pauseMs: 0 }), [], step);
    await again.close();
  }
});

test('a snapshot that is damaged, or at another place than it should be, is refused', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  for (let index = 0; index < 50; index++) await makeFile(metadata, `file ${index}`);
  const snapshot = await metadata.stateMachine.snapshot();
  const file = join(folder.directory, 'copy.db');
  cpSync(snapshot.path, file);
  await snapshot.release();
  const wrong = { epoch: 1 as Epoch, version: at(49) };
  await assert.rejects(metadata.stateMachine.restore(file, wrong), { code: 'SNAPSHOT_UNUSABLE' });
  writeFileSync(file, Buffer.alloc(8192, 'x'));
  await assert.rejects(metadata.stateMachine.restore(file, snapshot.position), { code: 'SNAPSHOT_UNUSABLE' });
  await makeFile(metadata, 'still works');
  await metadata.close();
});

test('numbers of inodes that were taken back are not given again', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await lead(metadata);
  const first = await makeFile(metadata, 'first');
  const taken = (await metadata.stateMachine.takeBack(at(3))) as Applied[];
  assert.equal(taken[0]?.operation.kind, 'make');
  assert.ok((await makeFile(metadata, 'second')) > first);
  assert.equal(metadata.unsettled(chunkOf(Buffer.from('none'))), undefined);
  await metadata.close();
});

test('proposals, batches and reads go on after many rewindings', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await lead(metadata);
  for (let round = 0; round < 10; round++) {
    await makeFile(metadata, `round ${round}`);
    await metadata.barrier();
    await metadata.stateMachine.takeBack(at(3));
    assert.equal(metadata.reads.list(1 as never, 0, 10).length, 0);
  }
  await propose(metadata, { kind: 'lead', leader: 'node-0' as NodeId, epoch: 512 as Epoch });
  assert.equal(metadata.stateMachine.position().epoch, 512);
  await metadata.stateMachine.takeBack(at(3));
  assert.equal(metadata.stateMachine.position().epoch, EPOCH);
  assert.ok(!(metadata.status().readOnly !== undefined), new FsError('EROFS').message);
  await metadata.close();
});
