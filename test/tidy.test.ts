/**
 * The source has a test of its own: which room may import which, how long a file may be, that every file opens
 * with why it exists, that nothing lies around unused, and no loose ends.
 */

import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

const ROOT = dirname(import.meta.dirname);
const CODE_LINES_MAX = 500;
const TEST_LINES_MAX = 800;

/** What each room may import besides itself (DESIGN.md, section 3). `runtime` may know the ids and errors. */
const ROOMS: Record<string, readonly string[]> = {
  'daemon/protocol': [],
  'daemon/runtime': ['daemon/protocol'],
  'daemon/peers': ['daemon/protocol', 'daemon/runtime'],
  'daemon/cluster': ['daemon/peers', 'daemon/protocol', 'daemon/runtime'],
  'daemon/replication': ['daemon/cluster', 'daemon/peers', 'daemon/protocol', 'daemon/runtime'],
  'daemon/metadata': ['daemon/replication', 'daemon/protocol', 'daemon/runtime'],
  'daemon/chunks': [
    'daemon/replication',
    'daemon/cluster',
    'daemon/peers',
    'daemon/protocol',
    'daemon/runtime',
  ],
  'daemon/filesystem': ['daemon/metadata', 'daemon/chunks', 'daemon/protocol', 'daemon/runtime'],
  'daemon/merge': [
    'daemon/metadata',
    'daemon/chunks',
    'daemon/replication',
    'daemon/protocol',
    'daemon/runtime',
  ],
  'daemon/storage': ['daemon/metadata', 'daemon/chunks', 'daemon/protocol', 'daemon/runtime'],
  'daemon/fsck': ['daemon/storage', 'daemon/metadata', 'daemon/chunks', 'daemon/protocol', 'daemon/runtime'],
  'daemon/fuse': ['daemon/filesystem', 'daemon/protocol', 'daemon/runtime'],
  'daemon/gateways': ['daemon/filesystem', 'daemon/protocol', 'daemon/runtime'],
  'daemon/control': [
    'daemon/filesystem',
    'daemon/metadata',
    'daemon/chunks',
    'daemon/protocol',
    'daemon/runtime',
  ],
  console: ['daemon/protocol'],
  installer: ['daemon/protocol'],
};
/** The daemon's composition root is the files directly in daemon/: they alone may import every room. */
const isRoot = (file: string): boolean => /^daemon\/[^/]+\.ts$/.test(file);
/** Files that a person or the operating system starts. */
const MAIN_FILES = ['daemon/main.ts', 'console/main.ts', 'installer/main.ts'];

const sources = globSync('{daemon,console,installer}/**/*.{ts,tsx}', { cwd: ROOT }).sort();
const tests = globSync('{test,bench}/**/*.{ts,tsx}', { cwd: ROOT }).sort();
const textOf = new Map([...sources, ...tests].map((file) => [file, readFileSync(join(ROOT, file), 'utf8')]));

interface Import {
  readonly target: string;
  readonly typeOnly: boolean;
}

/** The project's files that `file` imports, starts as a worker, or names in an `import()`. */
function importsOf(file: string): Import[] {
  const text = textOf.get(file) ?? '';
  const found: Import[] = [];
  const add = (specifier: string, typeOnly: boolean): void => {
    if (specifier.startsWith('.'))
      found.push({ target: normalize(join(dirname(file), specifier)), typeOnly });
  };
  for (const match of text.matchAll(/^\s*(?:import|export)\s(type\s)?[^;'"]*?from\s+['"]([^'"]+)['"]/gm)) {
    add(match[2]!, match[1] !== undefined);
  }
  for (const match of text.matchAll(/^\s*import\s+['"]([^'"]+)['"]/gm)) add(match[1]!, false);
  for (const match of text.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) add(match[1]!, false);
  for (const match of text.matchAll(/workerUrl\(\s*import\.meta\.url,\s*['"]([^'"]+)['"]/g))
    add(`${match[1]!}.ts`, false);
  return found;
}

const roomOf = (file: string): string | undefined =>
  Object.keys(ROOMS).find((room) => file.startsWith(`${room}/`));

/** Source without comments and string contents, so that words in them do not count. */
function bare(text: string): string {
  return text
    .replaceAll(/\/\*[\s\S]*?\*\//g, '')
    .replaceAll(/\/\/.*$/gm, '')
    .replaceAll(/'(?:[^'\\\n]|\\.)*'/g, "''");
}

function none(found: string[], rule: string): void {
  assert.equal(found.length, 0, `${rule}:\n${found.join('\n')}`);
}

test('imports run one way between rooms', () => {
  const found: string[] = [];
  for (const file of sources) {
    if (isRoot(file)) continue;
    const room = roomOf(file);
    if (room === undefined) {
      found.push(`${file} lies in no room`);
      continue;
    }
    for (const { target } of importsOf(file)) {
      const other = roomOf(target);
      if (other === room || (other !== undefined && ROOMS[room]!.includes(other))) continue;
      found.push(
        `${file} imports ${target}; ${room} may import ${ROOMS[room]!.join(', ') || 'no other room'}`,
      );
    }
  }
  none(found, 'imports against the direction of the rooms');
});

test('nothing imports a main file, and sources never import tests', () => {
  const found = sources.flatMap((file) =>
    importsOf(file)
      .filter(
        ({ target }) =>
          MAIN_FILES.includes(target) || target.startsWith('test/') || target.startsWith('bench/'),
      )
      .map(({ target }) => `${file} imports ${target}`),
  );
  none(found, 'forbidden imports');
});

test('every import names a file that exists', () => {
  const found = [...sources, ...tests].flatMap((file) =>
    importsOf(file)
      .filter(({ target }) => !existsSync(join(ROOT, target)))
      .map(({ target }) => `${file} names ${target}`),
  );
  none(found, 'missing files');
});

test('every source file is reachable from a main file', () => {
  const reached = new Set<string>();
  const queue = MAIN_FILES.filter((file) => textOf.has(file));
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (reached.has(file)) continue;
    reached.add(file);
    queue.push(...importsOf(file).map(({ target }) => target));
  }
  none(
    // Declarations of packages without types are found by the compiler.
    sources.filter((file) => !reached.has(file) && !file.endsWith('.d.ts')),
    'files that no main file reaches',
  );
});

test('no file is too long to read', () => {
  const found: string[] = [];
  for (const [file, text] of textOf) {
    const lines = text.split('\n').length;
    const limit = file.startsWith('test/') || file.startsWith('bench/') ? TEST_LINES_MAX : CODE_LINES_MAX;
    if (lines > limit) found.push(`${file} has ${lines} lines, at most ${limit}`);
  }
  none(found, 'long files');
});

test('every file opens with a comment that says why it exists', () => {
  const found: string[] = [];
  for (const [file, text] of textOf) {
    // A test's names say what it is for.
    if (file.endsWith('.test.ts')) continue;
    if (!/^(?:#![^\n]*\n)?\/\*\*[\s\S]{20,}?\*\//.test(text)) found.push(file);
  }
  none(found, 'files without an opening comment');
});

test('no loose ends and no untyped values', () => {
  const found: string[] = [];
  const loose = new RegExp(
    `\\b(${['TO', 'DO'].join('')}|${['FIX', 'ME'].join('')}|${['X', 'XX'].join('')})\\b`,
  );
  const untyped = new RegExp('(?:[:<,|(]\\s*|\\bas\\s+)any\\b(?!\\()');
  for (const [file, text] of textOf) {
    if (loose.test(text)) found.push(`${file}: a loose end`);
    const code = bare(text);
    if (untyped.test(code)) found.push(`${file}: an untyped value`);
    if (/@ts-(?:ignore|nocheck|expect-error)/.test(text)) found.push(`${file}: a silenced compiler`);
    if (/\b(?:test|it|describe|scenario)\.(?:only|skip|todo)\b/.test(code))
      found.push(`${file}: a skipped test`);
  }
  none(found, 'loose ends');
});
