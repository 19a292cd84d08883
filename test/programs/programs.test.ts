/**
 * Real programs in the mount: version control, archives, copies, builds and shell tools. They use the file system
 * in ways nobody thinks of, and tell by themselves when something is wrong.
 */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { requirePackage, run } from '../support/requirements.ts';
import { openTarget } from '../support/target.ts';

const target = await openTarget();
const TIMEOUT_MS = 180_000;

/** A test with a folder in the mount and one outside of it. */
function program(name: string, body: (inside: string, outside: string) => void): void {
  test(name, { timeout: TIMEOUT_MS }, () => {
    const inside = mkdtempSync(join(target.directory, 'program-'));
    const outside = mkdtempSync(join(tmpdir(), 'warren-program-'));
    try {
      body(inside, outside);
    } finally {
      rmSync(inside, { recursive: true, force: true });
      rmSync(outside, { recursive: true, force: true });
    }
  });
}

/** A tree with folders, odd names, links, modes and files from empty to large. Answers the number of files. */
function makeTree(root: string, files: number): number {
  for (let index = 0; index < files; index += 1) {
    const folder = join(root, `folder-${index % 40}`, `sub ${index % 7}`);
    mkdirSync(folder, { recursive: true });
    const bytes = index % 500 === 0 ? 700_000 : (index * 37) % 9000;
    writeFileSync(join(folder, `file-${index}.txt`), Buffer.alloc(bytes, `line of ${index}\n`), {
      mode: index % 5 === 0 ? 0o755 : 0o640,
    });
  }
  run('ln', ['-s', 'folder-1', join(root, 'a symlink')]);
  run('ln', [join(root, 'folder-0', 'sub 0', 'file-0.txt'), join(root, 'hard-link')]);
  return files + 2;
}

const same = (a: string, b: string): string => run('diff', ['-r', '--no-dereference', a, b]);

program('git clones three thousand files into the mount, checks, commits and collects', (inside, outside) => {
  const git = requirePackage('git', 'git');
  const identity = [
    '-c',
    'user.name=Test',
    '-c',
    'user.email=test@example.org',
    '-c',
    'init.defaultBranch=main',
  ];
  const source = join(outside, 'source');
  mkdirSync(source);
  makeTree(source, 3000);
  const at = (place: string, ...words: string[]): string => run(git, [...identity, '-C', place, ...words]);
  at(source, 'init', '-q');
  at(source, 'add', '-A');
  at(source, 'commit', '-q', '-m', 'All files');
  const clone = join(inside, 'clone');
  run(git, ['clone', '-q', '--no-hardlinks', source, clone]);
  at(clone, 'fsck', '--full', '--strict');
  assert.equal(at(clone, 'status', '--porcelain'), '');
  writeFileSync(join(clone, 'hard-link'), 'changed');
  at(clone, 'checkout', '-q', '-b', 'branch');
  at(clone, 'commit', '-q', '-am', 'A change');
  at(clone, 'checkout', '-q', 'main');
  at(clone, 'merge', '-q', 'branch');
  at(clone, 'gc', '-q', '--prune=now');
  at(clone, 'fsck', '--full', '--strict');
  at(clone, 'reset', '-q', '--hard', 'HEAD~1');
  assert.equal(at(clone, 'status', '--porcelain'), '');
  run('diff', ['-r', '--no-dereference', '-x', '.git', source, clone]);
});

program('tar packs and unpacks without a difference', (inside, outside) => {
  makeTree(outside, 1500);
  run('tar', ['-cf', join(inside, 'all.tar'), '-C', outside, '.']);
  mkdirSync(join(inside, 'unpacked'));
  run('tar', ['-xpf', join(inside, 'all.tar'), '-C', join(inside, 'unpacked')]);
  same(outside, join(inside, 'unpacked'));
  run('tar', ['--compare', '-f', join(inside, 'all.tar'), '-C', join(inside, 'unpacked')]);
});

program('rsync copies once and has nothing to do the second time', (inside, outside) => {
  const rsync = requirePackage('rsync', 'rsync');
  makeTree(outside, 1500);
  const words = ['-aHAX', '-i', `${outside}/`, `${inside}/copy/`];
  assert.ok(run(rsync, words).split('\n').length > 1500);
  assert.equal(run(rsync, words), '');
  same(outside, join(inside, 'copy'));
  assert.equal(run(rsync, ['-aHAXc', '-i', `${inside}/copy/`, `${outside}/`]), '');
});

program('a C project of 60 files builds with make -j2, and again after a change', (inside) => {
  requirePackage('make', 'make');
  requirePackage('gcc', 'gcc');
  for (let index = 0; index < 60; index += 1) {
    writeFileSync(
      join(inside, `part${index}.c`),
      `#include "all.h"\nint part${index}(int x) { return x * ${index} + ${index === 0 ? 'x' : `part${index - 1}(x)`}; }\n`,
    );
  }
  const header = Array.from({ length: 60 }, (_, index) => `int part${index}(int x);\n`).join('');
  writeFileSync(join(inside, 'all.h'), header);
  writeFileSync(
    join(inside, 'main.c'),
    '#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", part59(2)); }\n',
  );
  writeFileSync(
    join(inside, 'Makefile'),
    'OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nall: $(OBJECTS)\n\tgcc -o program $(OBJECTS)\n%.o: %.c all.h\n\tgcc -O1 -c $< -o $@\n',
  );
  run('make', ['-j2'], { cwd: inside });
  // 2 * (0 + 1 + ... + 59) + 2
  assert.equal(run(join(inside, 'program'), []).trim(), '3542');
  run('touch', [join(inside, 'part7.c')]);
  const again = run('make', ['-j2'], { cwd: inside });
  assert.equal(
    again.split('\n').filter((line) => line.includes(' -c ')).length,
    1,
    'only the touched file is built anew',
  );
});

program('sed -i, vim-like replacement, cp --reflink=auto, mv and find behave', (inside) => {
  makeTree(inside, 400);
  const file = join(inside, 'folder-1', 'sub 1', 'file-1.txt');
  run('sed', ['-i', 's/line/LINE/', file]);
  assert.match(readFileSync(file, 'utf8'), /^LINE of 1/);
  writeFileSync(`${file}.swp`, 'new text');
  run('mv', ['-f', `${file}.swp`, file]);
  assert.equal(readFileSync(file, 'utf8'), 'new text');
  run('cp', ['-a', '--reflink=auto', join(inside, 'folder-3'), join(inside, 'copy')]);
  same(join(inside, 'folder-3'), join(inside, 'copy'));
  assert.equal(
    run('find', [inside, '-name', 'file-*.txt', '-type', 'f']).trim().split('\n').length,
    400 + 10,
  );
  assert.equal(run('find', [inside, '-type', 'l']).trim().split('\n').length, 1);
  run('rm', ['-rf', join(inside, 'copy')]);
  assert.ok(!readdirSync(inside).includes('copy'));
});

program('du counts what was written and df shows it', (inside) => {
  const blocks = (): number => Number(run('du', ['-sk', inside]).split('\t')[0]);
  const before = blocks();
  run('dd', [
    'if=/dev/urandom',
    `of=${join(inside, 'data')}`,
    'bs=1M',
    'count=20',
    'conv=fsync',
    'status=none',
  ]);
  assert.ok(blocks() - before >= 20_000 && blocks() - before < 24_000);
  run('truncate', ['-s', '1G', join(inside, 'sparse')]);
  assert.ok(blocks() - before < 24_000, 'a hole uses no space');
  assert.equal(statSync(join(inside, 'sparse')).size, 2 ** 30);
  const columns = run('df', ['-k', '--output=size,used,avail', inside])
    .trim()
    .split('\n')[1]!
    .trim()
    .split(/\s+/)
    .map(Number);
  assert.ok(columns[0]! > 0 && columns[2]! > 0 && columns[2]! <= columns[0]!);
});
