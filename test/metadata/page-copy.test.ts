/**
 * The second copy of the pages of meta.db: damage to any page is healed, at the opening and while it is open; damage
 * to both copies of a page is told; no crash and no lost write of the copy makes it worse than it was.
 */

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { type Metadata, openMetadata } from '../../daemon/metadata/metadata.ts';
import { type Inode, ROOT_INODE } from '../../daemon/protocol/ids.ts';
import {
  findings,
  type Folder,
  makeDirectory,
  makeFile,
  name,
  openFolder,
  silentLog,
  TIME,
} from './folder.ts';

const PAGE_BYTES = 4096;
const FILES = 3000;

const copyOf = (folder: Folder): string => join(folder.directory, 'meta.copy');
const pagesOf = (file: string): number => fs.statSync(file).size / PAGE_BYTES;

async function fill(metadata: Metadata, count: number, prefix: string): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, index) => makeFile(metadata, `${prefix}-${index}`)));
}

/** Closed, with free pages in the file, and a whole copy. */
async function filled(): Promise<Folder> {
  const folder = openFolder();
  const metadata = folder.open();
  await fill(metadata, FILES, 'file');
  const directory = await makeDirectory(metadata, 'directory');
  for (let index = 0; index < 500; index++) await makeFile(metadata, `inner-${index}`, directory);
  for (let index = 0; index < 500; index++) {
    await metadata.propose({ kind: 'unlink', parent: directory, name: name(`inner-${index}`), time: TIME });
  }
  assert.deepEqual(await metadata.verifyPages({ pauseMs: 0 }), []);
  await metadata.close();
  return folder;
}

function flip(file: string, page: number, at: number): void {
  const descriptor = fs.openSync(file, 'r+');
  const byte = Buffer.alloc(1);
  const offset = (page - 1) * PAGE_BYTES + at;
  fs.readSync(descriptor, byte, 0, 1, offset);
  byte[0]! ^= 1 << (at % 8);
  fs.writeSync(descriptor, byte, 0, 1, offset);
  fs.closeSync(descriptor);
}

function isWhole(metadata: Metadata): void {
  assert.equal(metadata.reads.list(ROOT_INODE, 0, FILES * 2).length, FILES + 1);
  assert.equal(metadata.reads.child(ROOT_INODE, name('file-77'))?.inode, 79 as Inode);
}

test('a flipped byte in any page is healed before anything reads it', async () => {
  using folder = await filled();
  const right = fs.readFileSync(folder.database);
  const pages = pagesOf(folder.database);
  const database = new DatabaseSync(folder.database, { readOnly: true });
  const kinds = new Set(
    database
      .prepare('SELECT pagetype FROM dbstat')
      .all()
      .map((row) => row['pagetype']),
  );
  const free = Number(database.prepare('PRAGMA freelist_count').get()?.['freelist_count']);
  database.close();
  assert.ok(kinds.has('internal') && kinds.has('leaf'));
  assert.ok(free > 0, 'there are free pages');
  // The header (magic, page size, counters), then each page once, at changing places.
  const flips = [0, 17, 28, 40, 68, 92].map((at) => ({ page: 1, at }));
  for (let page = 1; page <= pages; page++) flips.push({ page, at: (page * 397) % PAGE_BYTES });
  for (const { page, at } of flips.slice(0, 12)) {
    flip(folder.database, page, at);
    const metadata = folder.open();
    assert.equal(metadata.status().healedPages, 1, `page ${page} at ${at}`);
    isWhole(metadata);
    await metadata.close();
    assert.ok(fs.readFileSync(folder.database).equals(right));
  }
  // All of them at once.
  for (const { page, at } of flips.slice(6)) flip(folder.database, page, at);
  const metadata = folder.open();
  assert.equal(metadata.status().healedPages, pages);
  assert.match(folder.lines.join('\n'), /damaged pages were put back from meta\.copy/);
  assert.deepEqual(await metadata.verifyPages({ pauseMs: 0 }), []);
  isWhole(metadata);
  await metadata.close();
  assert.deepEqual(findings(folder.database), []);
});

test('a truncated meta.db is made whole, and one that is gone comes back with a repair', async () => {
  using folder = await filled();
  const right = fs.readFileSync(folder.database);
  for (const bytes of [0, 100, PAGE_BYTES * 2, right.length - 1]) {
    fs.truncateSync(folder.database, bytes);
    const metadata = folder.open();
    isWhole(metadata);
    await metadata.close();
    assert.ok(fs.readFileSync(folder.database).equals(right));
  }
  fs.rmSync(folder.database);
  const restored = folder.open({ salvage: true });
  isWhole(restored);
  await restored.close();
  assert.deepEqual(findings(folder.database), []);
});

test('damage while it is open is healed by a comparison, also for what was read before', async () => {
  using folder = await filled();
  const right = fs.readFileSync(folder.database);
  const metadata = folder.open();
  assert.deepEqual(await metadata.verifyPages({ pauseMs: 0 }), []);
  isWhole(metadata);
  for (let page = 1; page <= pagesOf(folder.database); page++)
    flip(folder.database, page, (page * 31) % 4096);
  assert.deepEqual(await metadata.verifyPages({ pauseMs: 0 }), []);
  assert.equal(metadata.status().healedPages, pagesOf(folder.database));
  isWhole(metadata);
  assert.ok(fs.readFileSync(folder.database).equals(right));
  await fill(metadata, 300, 'later');
  await metadata.close();
  assert.deepEqual(findings(folder.database), []);
});

test('a page that is damaged in both is named, the others are healed', async () => {
  using folder = await filled();
  const pages = pagesOf(folder.database);
  flip(folder.database, pages - 3, 2000);
  flip(copyOf(folder), pages - 3, 2001);
  flip(folder.database, pages - 2, 2000);
  flip(copyOf(folder), pages - 1, 2000);
  const metadata = folder.open();
  assert.equal(metadata.status().healedPages, 1);
  const found = await metadata.verifyPages({ pauseMs: 0 });
  assert.deepEqual(
    found.map(({ page }) => page),
    [pages - 3],
  );
  assert.deepEqual(metadata.status().damagedPages, found);
  await metadata.close();
  const [one, other] = [folder.database, copyOf(folder)].map((file) => fs.readFileSync(file)) as [
    Buffer,
    Buffer,
  ];
  for (let page = 1; page <= pages; page++) {
    const range = [(page - 1) * PAGE_BYTES, page * PAGE_BYTES] as const;
    assert.equal(one.subarray(...range).equals(other.subarray(...range)), page !== pages - 3, `page ${page}`);
  }
});

test('a copy that is gone, cut short or of another time is brought back in step', async () => {
  using folder = await filled();
  const old = fs.readFileSync(copyOf(folder));
  let metadata = folder.open();
  await fill(metadata, FILES, 'more');
  await metadata.close();
  for (const spoil of [
    () => fs.rmSync(copyOf(folder)),
    () => fs.truncateSync(copyOf(folder), 5 * PAGE_BYTES + 7),
    () => fs.writeFileSync(copyOf(folder), old),
  ]) {
    spoil();
    metadata = folder.open();
    assert.deepEqual(await metadata.verifyPages({ pauseMs: 0 }), []);
    await makeFile(metadata, `after-${fs.statSync(copyOf(folder)).size}-${String(spoil).length}`);
    await metadata.close();
    assert.ok(fs.readFileSync(copyOf(folder)).equals(fs.readFileSync(folder.database)));
  }
});

test('a crash at any moment leaves a state whose pages can all be healed', async () => {
  using folder = await filled();
  const metadata = folder.open();
  const crashes = fs.mkdtempSync(join(folder.directory, 'crashes-'));
  for (let round = 0; round < 8; round++) {
    // Enough for a checkpoint to start; the crash meets it before, in its middle, or after.
    await fill(metadata, 4000, `round-${round}`);
    await metadata.commit();
    await new Promise((resolve) => void setTimeout(resolve, round * 5));
    const directory = join(crashes, String(round));
    fs.mkdirSync(directory);
    for (const file of ['meta.copy', 'meta.db', 'meta.sums', 'meta.copy.sums', 'meta.db-wal', 'log']) {
      const from = join(folder.directory, file);
      if (fs.existsSync(from)) fs.cpSync(from, join(directory, file), { recursive: true });
    }
  }
  await metadata.close();
  for (const crash of fs.readdirSync(crashes)) {
    const directory = join(crashes, crash);
    let opened = openMetadata({ directory, create: false, log: silentLog() });
    assert.equal(opened.status().healedPages, 0);
    assert.deepEqual(await opened.verifyPages({ pauseMs: 0 }), []);
    await opened.close();
    const file = join(directory, 'meta.db');
    for (let page = 1; page <= pagesOf(file); page++) flip(file, page, (page * 7) % PAGE_BYTES);
    opened = openMetadata({ directory, create: false, log: silentLog() });
    assert.equal(opened.status().healedPages, pagesOf(file));
    await opened.close();
    assert.deepEqual(findings(file), []);
  }
});

test('without a place for the copy everything goes on, and it is told', async () => {
  using folder = openFolder();
  fs.mkdirSync(copyOf(folder));
  const metadata = folder.open();
  await fill(metadata, 300, 'file');
  assert.deepEqual(await metadata.verifyPages({ pauseMs: 0 }), []);
  await metadata.close();
  assert.match(folder.lines.join('\n'), /meta\.copy cannot be written/);
  assert.deepEqual(findings(folder.database), []);
});
