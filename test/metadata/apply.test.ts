/** Operations and the state they leave: after each of them every rule of the check holds. */

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import { type ExtentRow, hashFromBytes } from '../../daemon/metadata/rows.ts';
import {
  CHUNK_BYTES_MAX,
  type ChunkHash,
  type Inode,
  LINKS_MAX,
  ROOT_INODE,
} from '../../daemon/protocol/ids.ts';
import type { NewExtent, Operation } from '../../daemon/protocol/operations.ts';
import { chunkOf, findings, makeDirectory, makeFile, name, openFolder, TIME, writeOf } from './folder.ts';

/** Answers `ok` or the errno of the refusal. */
async function tryOperation(metadata: Metadata, operation: Operation): Promise<string> {
  try {
    await metadata.propose(operation);
    return 'ok';
  } catch (error) {
    return String((error as { code?: string }).code);
  }
}

function renameOf(
  from: [Inode, string],
  to: [Inode, string],
  flags: { noReplace?: boolean; exchange?: boolean } = {},
): Operation {
  return {
    kind: 'rename',
    from: { parent: from[0], name: name(from[1]) },
    to: { parent: to[0], name: name(to[1]) },
    noReplace: flags.noReplace ?? false,
    exchange: flags.exchange ?? false,
    time: TIME,
  };
}

test('whether a file may have a security label is known, also after a restart', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  const inode = await makeFile(metadata, 'a');
  const set = (attribute: string, value: Uint8Array | null) =>
    metadata.propose({
      kind: 'attributes',
      inode,
      xattrs: [{ name: name(attribute), value }],
      time: TIME,
    });
  const reopened = async () => {
    await metadata.close();
    metadata = folder.open();
    return metadata.reads.mayHaveLabel();
  };
  await set('user.other', name('x'));
  assert.equal(metadata.reads.mayHaveLabel(), false);
  assert.equal(await reopened(), false);
  await set('security.selinux', name('label'));
  assert.equal(metadata.reads.mayHaveLabel(), true);
  assert.equal(await reopened(), true);
  await set('security.selinux', null);
  assert.equal(await reopened(), false);
  await metadata.close();
});

test('links, unlinks and orphans are counted', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const file = await makeFile(metadata, 'a');
  const directory = await makeDirectory(metadata, 'd');
  const link = (parent: Inode, text: string): Operation => ({
    kind: 'link',
    inode: file,
    parent,
    name: name(text),
    time: TIME,
  });
  const unlink = (parent: Inode, text: string): Operation => ({
    kind: 'unlink',
    parent,
    name: name(text),
    time: TIME,
  });
  assert.equal(await tryOperation(metadata, link(directory, 'b')), 'ok');
  assert.equal(await tryOperation(metadata, link(directory, 'b')), 'EEXIST');
  assert.equal(metadata.reads.inode(file)?.links, 2);
  assert.equal(
    await tryOperation(metadata, { ...link(ROOT_INODE, 'e'), inode: directory } as Operation),
    'EPERM',
  );
  assert.equal(
    await tryOperation(metadata, { kind: 'rmdir', parent: ROOT_INODE, name: name('d'), time: TIME }),
    'ENOTEMPTY',
  );
  assert.equal(await tryOperation(metadata, unlink(ROOT_INODE, 'd')), 'EISDIR');
  assert.equal(await tryOperation(metadata, unlink(ROOT_INODE, 'a')), 'ok');
  const { operation, payload } = writeOf(file, 0, Buffer.from('text'));
  await metadata.propose(operation, payload);
  assert.equal(await tryOperation(metadata, unlink(directory, 'b')), 'ok');
  assert.ok(metadata.reads.isOrphan(file));
  assert.equal(
    await tryOperation(metadata, { kind: 'rmdir', parent: ROOT_INODE, name: name('d'), time: TIME }),
    'ok',
  );
  assert.equal(await tryOperation(metadata, link(directory, 'late')), 'ENOENT');
  await metadata.commit();
  assert.deepEqual(findings(folder.database), []);
  const outcome = await metadata.propose({ kind: 'reclaim', inodes: [file, directory], extentsMax: 10 });
  assert.equal(outcome.count, 2);
  const dropped = await metadata.propose({ kind: 'drop-chunks', hashes: [chunkOf(Buffer.from('text'))] });
  assert.equal(dropped.count, 1);
  await metadata.commit();
  assert.deepEqual(findings(folder.database), []);
  assert.deepEqual([metadata.status().inodes, metadata.status().storedBytes], [1, 0]);
  await metadata.close();
});

const KINDS = ['nothing', 'file', 'empty directory', 'full directory'] as const;
/** Row: what moves; column: what is there already. */
const REPLACE: Record<string, Record<(typeof KINDS)[number], string>> = {
  file: { nothing: 'ok', file: 'ok', 'empty directory': 'EISDIR', 'full directory': 'EISDIR' },
  'empty directory': {
    nothing: 'ok',
    file: 'ENOTDIR',
    'empty directory': 'ok',
    'full directory': 'ENOTEMPTY',
  },
  'full directory': {
    nothing: 'ok',
    file: 'ENOTDIR',
    'empty directory': 'ok',
    'full directory': 'ENOTEMPTY',
  },
};

async function place(
  metadata: Metadata,
  kind: (typeof KINDS)[number],
  parent: Inode,
  text: string,
): Promise<void> {
  if (kind === 'file') await makeFile(metadata, text, parent);
  if (kind === 'empty directory') await makeDirectory(metadata, text, parent);
  if (kind === 'full directory')
    await makeDirectory(metadata, 'sub', await makeDirectory(metadata, text, parent));
}

test('rename over everything, within a directory and across: answers and counts', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  let count = 0;
  for (const crosses of [false, true]) {
    for (const source of KINDS.slice(1)) {
      for (const target of KINDS) {
        for (const flags of [{}, { noReplace: true }, { exchange: true }]) {
          const left = await makeDirectory(metadata, `left-${count}`);
          const right = crosses ? await makeDirectory(metadata, `right-${count}`) : left;
          count++;
          await place(metadata, source, left, 'source');
          await place(metadata, target, right, 'target');
          const plain = REPLACE[source]?.[target];
          const expected =
            'exchange' in flags
              ? target === 'nothing'
                ? 'ENOENT'
                : 'ok'
              : 'noReplace' in flags && target !== 'nothing'
                ? 'EEXIST'
                : plain;
          const operation = renameOf([left, 'source'], [right, 'target'], flags);
          const what = `${source} over ${target}, ${JSON.stringify(flags)}, crosses: ${crosses}`;
          assert.equal(await tryOperation(metadata, operation), expected, what);
          await metadata.commit();
          assert.deepEqual(findings(folder.database), [], what);
        }
      }
    }
  }
  const names = await makeFile(metadata, 'one');
  await metadata.propose({ kind: 'link', inode: names, parent: ROOT_INODE, name: name('two'), time: TIME });
  assert.equal(await tryOperation(metadata, renameOf([ROOT_INODE, 'one'], [ROOT_INODE, 'two'])), 'ok');
  assert.equal(metadata.reads.inode(names)?.links, 2, 'two names of one file both stay');
  const outer = await makeDirectory(metadata, 'outer');
  const inner = await makeDirectory(metadata, 'inner', outer);
  assert.equal(await tryOperation(metadata, renameOf([ROOT_INODE, 'outer'], [inner, 'loop'])), 'EINVAL');
  await metadata.commit();
  assert.deepEqual(findings(folder.database), []);
  await metadata.close();
});

/** A small generator with a seed (mulberry32), so that a failing run can be repeated. */
function randomFrom(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) % limit;
  };
}

const WINDOW_BYTES = 40_000;
/** The window lies over the border of two slots, which no extent may cross. */
const BASE = CHUNK_BYTES_MAX - WINDOW_BYTES / 2;
const STEPS = 400;

for (const seed of [1, 2, 3]) {
  test(`random writes, punches, copies, cuts and folds agree with a model (seed ${seed})`, async () => {
    using folder = openFolder();
    const metadata = folder.open();
    const random = randomFrom(seed);
    const contents = new Map<ChunkHash, Uint8Array>();
    const files = await Promise.all(['a', 'b', 'c'].map((text) => makeFile(metadata, text)));
    const models = files.map(() => ({ bytes: Buffer.alloc(WINDOW_BYTES), size: 0 }));

    async function write(file: number, at: number, data: Buffer): Promise<void> {
      const border = WINDOW_BYTES / 2;
      const parts =
        at < border && at + data.length > border
          ? [data.subarray(0, border - at), data.subarray(border - at)]
          : [data];
      let offset = at;
      for (const part of parts) {
        const { operation, payload } = writeOf(files[file]!, BASE + offset, part);
        for (const [hash, bytes] of payload) contents.set(hash, bytes);
        await metadata.propose(operation, payload);
        offset += part.length;
      }
      data.copy(models[file]!.bytes, at);
      models[file]!.size = Math.max(models[file]!.size, BASE + at + data.length);
    }

    async function fold(file: number, slot: number): Promise<void> {
      const start = slot * CHUNK_BYTES_MAX;
      const found = metadata.reads.extents(files[file]!, start, start + CHUNK_BYTES_MAX);
      const first = found[0];
      const last = found.at(-1);
      if (first === undefined || last === undefined) return;
      const extents: NewExtent[] = [];
      const payload = new Map<ChunkHash, Uint8Array>();
      let run: ExtentRow[] = [];
      const end = () => {
        const data = Buffer.concat(run.map(bytesOf));
        const hash = chunkOf(data);
        contents.set(hash, data);
        payload.set(hash, data);
        extents.push({
          offset: run[0]!.offset,
          length: data.length,
          hash,
          chunkBytes: data.length,
          chunkOffset: 0,
        });
        run = [];
      };
      for (const extent of found) {
        const before = run.at(-1);
        if (before !== undefined && before.offset + before.length !== extent.offset) end();
        run.push(extent);
      }
      end();
      const length = last.offset + last.length - first.offset;
      const operation: Operation = {
        kind: 'fold',
        inode: files[file]!,
        offset: first.offset,
        length,
        expected: found,
        extents,
      };
      await metadata.propose(operation, payload);
      assert.equal(await tryOperation(metadata, { ...operation, expected: found.slice(1) }), 'EAGAIN');
    }

    function bytesOf(extent: ExtentRow): Uint8Array {
      const data = contents.get(extent.hash);
      assert.ok(data !== undefined && data.length === extent.chunkBytes);
      return data.subarray(extent.chunkOffset, extent.chunkOffset + extent.length);
    }

    async function compare(step: string): Promise<void> {
      for (const [index, inode] of files.entries()) {
        const actual = Buffer.alloc(WINDOW_BYTES);
        for (const extent of metadata.reads.extents(inode, 0, BASE + WINDOW_BYTES)) {
          actual.set(bytesOf(extent), extent.offset - BASE);
        }
        assert.equal(metadata.reads.inode(inode)?.size, models[index]!.size, step);
        assert.ok(actual.equals(models[index]!.bytes), `${step}: file ${index} differs`);
      }
      await metadata.commit();
      assert.deepEqual(findings(folder.database), [], step);
    }

    for (let step = 0; step < STEPS; step++) {
      const file = random(files.length);
      const model = models[file]!;
      const at = random(WINDOW_BYTES - 1);
      const length = 1 + random(Math.min(9000, WINDOW_BYTES - at));
      const kind = random(10);
      let what: string;
      if (kind < 5) {
        // Few different contents, so that chunks are shared.
        what = 'write';
        await write(file, at, Buffer.alloc(length, 1 + random(3)));
      } else if (kind === 5) {
        what = 'punch';
        await metadata.propose({
          kind: 'punch',
          inode: files[file]!,
          offset: BASE + at,
          length,
          sizeAtLeast: 0,
          time: TIME,
        });
        model.bytes.fill(0, at, at + length);
      } else if (kind < 8) {
        what = 'copy';
        const other = (file + 1) % files.length;
        const toOffset = random(WINDOW_BYTES - length + 1);
        await metadata.propose({
          kind: 'copy',
          from: files[file]!,
          fromOffset: BASE + at,
          to: files[other]!,
          toOffset: BASE + toOffset,
          length,
          time: TIME,
        });
        model.bytes.copy(models[other]!.bytes, toOffset, at, at + length);
        models[other]!.size = Math.max(models[other]!.size, BASE + toOffset + length);
      } else if (kind === 8) {
        what = 'cut';
        await metadata.propose({
          kind: 'attributes',
          inode: files[file]!,
          size: BASE + at,
          xattrs: [],
          time: TIME,
        });
        model.bytes.fill(0, at);
        model.size = BASE + at;
      } else {
        what = 'fold';
        await fold(file, random(2));
      }
      await compare(`seed ${seed}, step ${step}: ${what} of ${length} at ${at}`);
      if (step % 50 === 49) {
        const unused = metadata.reads.unreferencedChunks(1000).map(({ hash }) => hash);
        const { count } = await metadata.propose({
          kind: 'drop-chunks',
          hashes: [...unused, hashFromBytes(Buffer.alloc(32))],
        });
        assert.equal(count, unused.length);
      }
    }
    await metadata.close();
  });
}

test('the last link that a count can hold is given, and one more is EMLINK', async () => {
  using folder = openFolder();
  const first = folder.open();
  const file = await makeFile(first, 'file');
  const directory = await makeDirectory(first, 'directory');
  const other = await makeDirectory(first, 'other');
  await first.close();
  // Two thousand million names would take a while.
  const database = new DatabaseSync(folder.database);
  database.exec(`UPDATE inode SET links = ${LINKS_MAX - 1} WHERE inode IN (${file}, ${directory})`);
  database.close();
  // Else the change counts as damage and is put back.
  for (const file of ['meta.sums', 'meta.copy.sums']) rmSync(join(folder.directory, file));

  const metadata = folder.open();
  const link = (text: string): Operation => ({
    kind: 'link',
    inode: file,
    parent: ROOT_INODE,
    name: name(text),
    time: TIME,
  });
  assert.equal(await tryOperation(metadata, link('one')), 'ok');
  assert.equal(await tryOperation(metadata, link('more')), 'EMLINK');
  assert.equal(metadata.reads.inode(file)?.links, LINKS_MAX);
  await makeDirectory(metadata, 'below', directory);
  await assert.rejects(makeDirectory(metadata, 'more', directory), { code: 'EMLINK' });
  assert.equal(await tryOperation(metadata, renameOf([ROOT_INODE, 'other'], [directory, 'other'])), 'EMLINK');
  assert.equal(metadata.reads.inode(other)?.parent, ROOT_INODE);
  assert.ok((await makeFile(metadata, 'file', directory)) > 0, 'files do not count');
  await metadata.close();
});
