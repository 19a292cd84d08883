/** Two states that went apart are one again: nothing acknowledged is lost, what one side did alone is done in place. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { conflictName } from '../../daemon/merge/conflict-name.ts';
import { nameKey } from '../../daemon/merge/touched.ts';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import { type Inode, ROOT_INODE } from '../../daemon/protocol/ids.ts';
import { findings, name, TIME } from '../metadata/folder.ts';
import { dumpState } from '../metadata/dump.ts';
import { randomOf } from '../metadata/machines.ts';
import {
  type Change,
  newDirectory,
  newFile,
  openSides,
  randomChange,
  renamed,
  type Sides,
  walk,
  written,
} from './sides.ts';

const ROUNDS = Number(process.env['WARREN_MERGES'] ?? '8');

/** `path: content`, sorted. */
function tree(sides: Sides, side: Metadata): string[] {
  const paths = (parent: Inode, prefix: string): string[] =>
    walk(side.reads, parent)
      .filter((found) => found.parent === parent)
      .flatMap(({ name, inode, isDirectory }) => {
        const path = prefix + Buffer.from(name).toString();
        return isDirectory
          ? [`${path}/`, ...paths(inode, `${path}/`)]
          : [`${path}: ${sides.content(side.reads, inode)}`];
      });
  return paths(ROOT_INODE, '').sort();
}

function contents(sides: Sides, side: Metadata): Set<string> {
  return new Set(
    walk(side.reads)
      .filter(({ isDirectory }) => !isDirectory)
      .map(({ inode }) => sides.content(side.reads, inode)),
  );
}

async function scene(
  base: (inode: () => Inode) => Change,
  losing: (sides: Sides) => Change,
  staying: (sides: Sides) => Change,
): Promise<Sides> {
  const sides = await openSides();
  await sides.base(base(() => sides.losing.allocateInode()));
  await sides.part();
  await sides.change(sides.losing, losing(sides));
  await sides.change(sides.staying, staying(sides));
  return sides;
}

const inodeAt = (side: Metadata, text: string) => side.reads.child(ROOT_INODE, name(text))!.inode;
const unlinked = (text: string): Change => [
  { operation: { kind: 'unlink', parent: ROOT_INODE, name: name(text), time: TIME } },
];

test('new files, changes, deletions and moves of one side alone are done in place', async () => {
  await using sides = await scene(
    (inode) => [
      ...newFile(inode(), 'changed', 'old'),
      ...newFile(inode(), 'deleted', 'old'),
      ...newFile(inode(), 'moved', 'stays'),
      ...newFile(inode(), 'saved', 'old'),
      ...newDirectory(inode(), 'directory'),
    ],
    ({ losing }) => [
      ...newFile(losing.allocateInode(), 'new', 'new here'),
      written(inodeAt(losing, 'changed'), 'changed here'),
      ...unlinked('deleted'),
      ...renamed({ parent: ROOT_INODE, name: name('moved') }, ROOT_INODE, name('moved away')),
      ...newFile(losing.allocateInode(), '.saving', 'saved here'),
      ...renamed({ parent: ROOT_INODE, name: name('.saving') }, ROOT_INODE, name('saved')),
      ...renamed({ parent: ROOT_INODE, name: name('directory') }, ROOT_INODE, name('renamed')),
      ...newFile(losing.allocateInode(), 'inside', 'inside here', inodeAt(losing, 'directory')),
    ],
    ({ staying }) => newFile(staying.allocateInode(), 'other', 'new there'),
  );
  const inode = inodeAt(sides.staying, 'changed');
  await sides.merge();
  assert.deepEqual(tree(sides, sides.staying), [
    'changed: changed here',
    'moved away: stays',
    'new: new here',
    'other: new there',
    'renamed/',
    'renamed/inside: inside here',
    'saved: saved here',
  ]);
  assert.equal(inodeAt(sides.staying, 'changed'), inode, 'files that are open stay themselves');
  assert.equal(sides.staying.reads.conflicts.count(), 0);
});

test('what both sides changed is kept twice and listed', async () => {
  await using sides = await scene(
    (inode) => [...newFile(inode(), 'both.txt', 'old'), ...newFile(inode(), 'rotated', 'first')],
    ({ losing }) => [
      written(inodeAt(losing, 'both.txt'), 'here'),
      ...newFile(losing.allocateInode(), 'taken', 'taken here'),
      ...newDirectory(losing.allocateInode(), 'shared'),
    ],
    ({ staying }) => [
      written(inodeAt(staying, 'both.txt'), 'there'),
      ...newFile(staying.allocateInode(), 'taken', 'taken there'),
      ...newDirectory(staying.allocateInode(), 'shared'),
    ],
  );
  await sides.merge();
  assert.deepEqual(tree(sides, sides.staying), [
    'both (conflict node-0 today).txt: here',
    'both.txt: there',
    'rotated: first',
    'shared/',
    'taken (conflict node-0 today): taken here',
    'taken: taken there',
  ]);
  const listed = sides.staying.reads.conflicts.list(10).map((conflict) => ({
    kind: conflict.kind,
    name: Buffer.from(conflict.name).toString(),
    copy: Buffer.from(conflict.copy?.name ?? []).toString(),
  }));
  assert.deepEqual(listed, [
    { kind: 'content', name: 'both.txt', copy: 'both (conflict node-0 today).txt' },
    { kind: 'name', name: 'taken', copy: 'taken (conflict node-0 today)' },
  ]);
});

test('a file that one side deleted and the other changed is kept and listed', async () => {
  await using sides = await scene(
    (inode) => [
      ...newFile(inode(), 'deleted here', 'old'),
      ...newFile(inode(), 'deleted there', 'old'),
      ...newDirectory(inode(), 'directory'),
    ],
    ({ losing }) => [
      ...unlinked('deleted here'),
      written(inodeAt(losing, 'deleted there'), 'here'),
      ...newFile(losing.allocateInode(), 'inside', 'inside here', inodeAt(losing, 'directory')),
    ],
    ({ staying }) => [
      ...unlinked('deleted there'),
      written(inodeAt(staying, 'deleted here'), 'there'),
      { operation: { kind: 'rmdir', parent: ROOT_INODE, name: name('directory'), time: TIME } },
    ],
  );
  await sides.merge();
  assert.deepEqual(tree(sides, sides.staying), [
    'deleted here: there',
    'deleted there: here',
    'directory/',
    'directory/inside: inside here',
  ]);
  const kinds = sides.staying.reads.conflicts.list(10).map(({ kind }) => kind);
  assert.deepEqual(kinds.toSorted(), ['deleted', 'directory', 'removed']);
});

test('a rotation of names on one side is done again', async () => {
  await using sides = await scene(
    (inode) => [...newFile(inode(), 'log', 'second'), ...newFile(inode(), 'log.1', 'first')],
    ({ losing }) => [
      ...renamed({ parent: ROOT_INODE, name: name('log.1') }, ROOT_INODE, name('log.2')),
      ...renamed({ parent: ROOT_INODE, name: name('log') }, ROOT_INODE, name('log.1')),
      ...newFile(losing.allocateInode(), 'log', 'third'),
    ],
    () => [],
  );
  await sides.merge();
  assert.deepEqual(tree(sides, sides.staying), ['log.1: second', 'log.2: first', 'log: third']);
});

test('where no log tells who changed what, everything that differs is kept twice', async () => {
  await using sides = await scene(
    (inode) => [...newFile(inode(), 'changed', 'old'), ...newFile(inode(), 'deleted', 'old')],
    ({ losing }) => [
      written(inodeAt(losing, 'changed'), 'here'),
      ...unlinked('deleted'),
      ...newFile(losing.allocateInode(), 'new', 'new here'),
    ],
    () => [],
  );
  await sides.merge({ knows: false });
  assert.deepEqual(tree(sides, sides.staying), [
    'changed (conflict node-0 today): here',
    'changed: old',
    'deleted: old',
    'new: new here',
  ]);
});

for (const dies of [false, true]) {
  test(`random changes on both sides: nothing is lost${dies ? ', also when the merge dies in between' : ''}`, async () => {
    for (let seed = 1; seed <= ROUNDS; seed++) await randomRound(seed, dies);
  });
}

async function randomRound(seed: number, dies: boolean): Promise<void> {
  const random = randomOf(seed);
  const about = `seed ${seed}`;
  await using sides = await openSides();
  const { losing, staying } = sides;
  for (let step = 0; step < 40; step++) await sides.base(randomChange(losing, random, `base ${step}`));
  await sides.part();
  for (let step = 0; step < 25; step++) {
    await sides.change(losing, randomChange(losing, random, `here ${step}`));
    await sides.change(staying, randomChange(staying, random, `there ${step}`));
  }
  const [hereContents, thereContents] = [contents(sides, losing), contents(sides, staying)];
  const [here, there] = [sides.touched(losing), sides.touched(staying)];
  const before = walk(staying.reads);
  const lives = (side: Metadata, inode: Inode) => (side.reads.inode(inode)?.links ?? 0) > 0;

  if (dies) {
    for (let proposalsMax = 1; proposalsMax < 12; proposalsMax += 3) {
      await sides.merge({ proposalsMax }).catch((error: unknown) => {
        if (!String(error).includes('the process died')) throw error;
      });
    }
  }
  await sides.merge();

  const after = contents(sides, staying);
  const expected = new Set([
    ...[...hereContents].filter((text) => text.startsWith('here') || thereContents.has(text)),
    ...[...thereContents].filter((text) => text.startsWith('there')),
  ]);
  const lost = [...expected].filter((text) => !after.has(text));
  assert.deepEqual(lost, [], about);
  for (const { inode, isDirectory } of before) {
    if (isDirectory || here.inodes.get(inode) !== 'content' || there.inodes.has(inode)) continue;
    if (!lives(losing, inode) || !lives(staying, inode)) continue;
    const text = sides.content(staying.reads, inode);
    assert.equal(text, sides.content(losing.reads, inode), `${about}: changed by one side`);
  }
  for (const { parent, name, inode } of before) {
    const onlyHere = here.names.has(nameKey(parent, name)) && !there.names.has(nameKey(parent, name));
    if (onlyHere || losing.reads.inode(inode) === undefined || lives(losing, inode)) continue;
    assert.ok(lives(staying, inode), `${about}: what the losing side did not take away stays`);
  }
  await staying.commit();
  assert.deepEqual(findings(sides.folder.database), [], about);
  const state = dumpState(sides.folder.database);
  await sides.merge();
  await staying.commit();
  assert.equal(
    namesOf(dumpState(sides.folder.database)),
    namesOf(state),
    `${about}: a second merge changes nothing`,
  );
}

/** Names and conflicts: files without a name, and versions, may be other ones. */
function namesOf(dump: string): string {
  return dump
    .split('\n== ')
    .filter((table) => table.startsWith('dentry') || table.startsWith('conflict'))
    .join('\n');
}

test('names of versions that are put aside keep the ending, fit, and take any bytes', () => {
  const named = (text: string, number = 1) =>
    Buffer.from(conflictName(Buffer.from(text), 'alpha 2026', number)).toString();
  assert.equal(named('report.txt'), 'report (conflict alpha 2026).txt');
  assert.equal(named('report.txt', 2), 'report (conflict alpha 2026 2).txt');
  assert.equal(named('.profile'), '.profile (conflict alpha 2026)');
  const long = conflictName(Buffer.from(`${'ä'.repeat(125)}.txt`), 'alpha 2026', 1);
  assert.ok(long.length <= 255 && long.length > 250);
  assert.ok(!Buffer.from(long).toString().includes('\ufffd'));
  const bytes = conflictName(Buffer.from([0xff, 0xfe, 0x2e, 0x80]), 'alpha 2026', 1);
  assert.deepEqual([...bytes.subarray(0, 2)], [0xff, 0xfe]);
  assert.deepEqual([...bytes.subarray(-2)], [0x2e, 0x80]);
});
