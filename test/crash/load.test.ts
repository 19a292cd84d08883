/**
 * The load and its check, on a plain directory: what is right passes, and every kind of damage is found. A check
 * that cannot fail would prove nothing about the daemon.
 */

import assert from 'node:assert/strict';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyLoad } from '../support/load.ts';
import { startLoad } from '../support/load-process.ts';

test('the check of the load passes what is right and finds what is wrong', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'warren-load-'));
  const [directory, journal] = [join(folder, 'files'), join(folder, 'journal')];
  try {
    mkdirSync(directory);
    {
      await using load = startLoad({ directory, journal, seed: 5 });
      await load.reached(800);
    }
    assert.equal(verifyLoad(directory, journal, 'close'), 24);
    assert.equal(verifyLoad(directory, journal, 'fsync'), 24);
    const spoil = (name: string, action: (path: string) => void, words: RegExp): void => {
      const path = join(directory, name);
      const before = readFileSync(path);
      action(path);
      assert.throws(() => verifyLoad(directory, journal, 'fsync'), words, name);
      writeFileSync(path, before);
      verifyLoad(directory, journal, 'fsync');
    };
    spoil('log-1', (path) => truncateSync(path, 5), /acknowledged/);
    spoil('log-2', (path) => rmSync(path), /is missing/);
    spoil('log-3', (path) => appendFileSync(path, 'more'), /were written|was appended/);
    spoil('blocks-1', (path) => writeFileSync(path, Buffer.alloc(163_840, 'torn')), /block/);
    writeFileSync(join(directory, 'whole-1'), 'half');
    assert.throws(() => verifyLoad(directory, journal, 'fsync'), /no allowed version/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
