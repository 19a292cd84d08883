/** The sums of the pages of meta.db: every flipped byte is found, and no crash makes a false alarm. */

import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import { openMetadata } from '../../daemon/metadata/metadata.ts';
import { readPageSums, writePageSums } from '../../daemon/metadata/page-sums.ts';
import { findings, makeFile, openFolder, silentLog } from './folder.ts';

const PAGE_BYTES = 4096;

async function fill(metadata: Metadata, count: number, prefix = 'file'): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, index) => makeFile(metadata, `${prefix}-${index}`)));
}

async function damagedPages(metadata: Metadata): Promise<number[]> {
  return (await metadata.verifyPages({ pauseMs: 0 })).map(({ page }) => page);
}

function flip(file: string, offset: number): void {
  const content = readFileSync(file);
  content[offset]! ^= 1;
  writeFileSync(file, content);
}

test('what is damaged in both copies is found, named with its table, and gone after a renewal', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  await fill(metadata, 2000);
  await metadata.close();
  assert.ok(!existsSync(`${folder.database}-wal`), 'a clean end leaves no WAL');
  const pages = statSync(folder.database).size / PAGE_BYTES;
  assert.equal(readPageSums(join(folder.directory, 'meta.sums'))?.sums.length, pages);

  // In the bytes of rows, where SQLite sees nothing: the last bytes of a leaf of the table `inode`.
  const database = new DatabaseSync(folder.database, { readOnly: true });
  const row = database
    .prepare("SELECT pageno FROM dbstat WHERE name = 'inode' AND pagetype = 'leaf' ORDER BY pageno DESC")
    .get();
  database.close();
  const page = Number(row?.['pageno']);
  for (const file of [folder.database, join(folder.directory, 'meta.copy')]) {
    flip(file, page * PAGE_BYTES - 10);
    flip(file, (pages - 1) * PAGE_BYTES + 2000);
  }
  metadata = folder.open();
  const found = await metadata.verifyPages({ pauseMs: 0 });
  assert.deepEqual(
    found.map((damage) => damage.page),
    [page, pages].sort((a, b) => a - b),
  );
  assert.equal(found.find((damage) => damage.page === page)?.table, 'inode');
  assert.deepEqual(metadata.status().damagedPages, found);
  assert.match(folder.lines.join('\n'), /meta\.db is damaged: 2 pages/);
  await metadata.renewPageSums();
  assert.deepEqual(await damagedPages(metadata), []);
  await metadata.close();
});

test('pages stay right through checkpoints and openings', async () => {
  using folder = openFolder();
  for (let round = 0; round < 4; round++) {
    const metadata = folder.open();
    assert.deepEqual(await damagedPages(metadata), [], `round ${round}`);
    // More than one checkpoint's worth of operations in one of them.
    await fill(metadata, round === 2 ? 21_000 : 300, `round-${round}`);
    assert.deepEqual(await damagedPages(metadata), []);
    await metadata.close();
  }
  assert.deepEqual(findings(folder.database), []);
});

test('a copy taken at any moment, as after a crash, raises no false alarm', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  const copies: string[] = [];
  try {
    for (let round = 0; round < 12; round++) {
      // Enough for a checkpoint to start; the copy meets it before, in its middle, or after.
      await fill(metadata, 4000, `round-${round}`);
      await metadata.commit();
      await new Promise((resolve) => setTimeout(resolve, round * 4));
      const copy = mkdtempSync(join(tmpdir(), 'warren-copy-'));
      copies.push(copy);
      // The order of a disk that stops: the database first could mix an old page with a newer WAL only.
      for (const file of ['meta.db', 'meta.sums', 'meta.db-wal', 'log']) {
        if (existsSync(join(folder.directory, file))) {
          cpSync(join(folder.directory, file), join(copy, file), { recursive: true });
        }
      }
    }
    for (const copy of copies) {
      const opened = openMetadata({ directory: copy, create: false, log: silentLog() });
      assert.deepEqual(await damagedPages(opened), []);
      await opened.close();
      assert.deepEqual(findings(join(copy, 'meta.db')), []);
      const again = openMetadata({ directory: copy, create: false, log: silentLog() });
      assert.deepEqual(await damagedPages(again), []);
      await again.close();
    }
  } finally {
    await metadata.close();
    for (const copy of copies) rmSync(copy, { recursive: true, force: true });
  }
});

test('a refused start leaves the WAL and the sums as they are', async () => {
  using folder = openFolder();
  const metadata = folder.open();
  await fill(metadata, 3000);
  await metadata.commit();
  const copy = mkdtempSync(join(tmpdir(), 'warren-copy-'));
  try {
    for (const file of ['meta.db', 'meta.db-wal']) cpSync(join(folder.directory, file), join(copy, file));
    const before = [readFileSync(join(copy, 'meta.db')), readFileSync(join(copy, 'meta.db-wal'))];
    assert.throws(() => openMetadata({ directory: copy, create: false, log: silentLog() }), {
      code: 'LOG_MISSING',
    });
    assert.ok(readFileSync(join(copy, 'meta.db')).equals(before[0]!));
    assert.ok(readFileSync(join(copy, 'meta.db-wal')).equals(before[1]!));
  } finally {
    await metadata.close();
    rmSync(copy, { recursive: true, force: true });
  }
});

test('missing or damaged sums are taken from their copy, or made anew', async () => {
  using folder = openFolder();
  let metadata = folder.open();
  await fill(metadata, 500);
  await metadata.close();
  const one = join(folder.directory, 'meta.sums');
  const other = join(folder.directory, 'meta.copy.sums');
  const right = readPageSums(one);
  assert.deepEqual(readPageSums(other), right);
  for (const files of [[one], [other], [one, other]]) {
    for (const spoil of [
      rmSync,
      (file: string) => writeFileSync(file, 'no'),
      (file: string) => flip(file, 30),
    ]) {
      for (const file of files) spoil(file);
      for (const file of files) assert.equal(readPageSums(file), undefined);
      // With one of them left, a damaged page is still found.
      const isDamaged = files.length === 1;
      if (isDamaged) flip(folder.database, 3 * PAGE_BYTES + 100);
      metadata = folder.open();
      assert.equal(metadata.status().healedPages, isDamaged ? 1 : 0);
      assert.deepEqual(await damagedPages(metadata), []);
      await metadata.close();
      for (const file of [one, other]) assert.deepEqual(readPageSums(file), right);
    }
  }
});

test('sums are read back as they were written', () => {
  using folder = openFolder();
  const file = join(folder.directory, 'some.sums');
  const sums = Uint32Array.from([0, 1, 0xffff_ffff]);
  writePageSums(file, { pageBytes: PAGE_BYTES, sums });
  assert.deepEqual(readPageSums(file), { pageBytes: PAGE_BYTES, sums });
  assert.ok(!existsSync(`${file}.new`));
});
