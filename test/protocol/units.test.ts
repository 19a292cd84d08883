/** Durations, sizes and words as people write and read them. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { defaultNodeId } from '../../daemon/protocol/initialise.ts';
import { RELEASE } from '../../daemon/protocol/release.ts';
import { editDistance, nearestWord } from '../../daemon/protocol/text.ts';
import {
  formatBytes,
  formatCount,
  formatDuration,
  parseDurationMs,
  parseSizeBytes,
} from '../../daemon/protocol/units.ts';

test('durations and sizes parse strictly', () => {
  assert.deepEqual(
    ['500ms', '30s', '1.5 s', '2min', '1h'].map(parseDurationMs),
    [500, 30_000, 1500, 120_000, 3_600_000],
  );
  assert.deepEqual(['', '30', '-1s', '1 week', '1s2'].map(parseDurationMs), Array(5).fill(undefined));
  assert.deepEqual(['0', '64KiB', '1 MB', '2g', '0.5K'].map(parseSizeBytes), [
    0,
    65_536,
    1_048_576,
    2 ** 31,
    512,
  ]);
  assert.deepEqual(['', 'K', '-1', '1.5', '9999999P'].map(parseSizeBytes), Array(5).fill(undefined));
});

test('figures read well', () => {
  assert.deepEqual([0, 1023, 1536, 5 * 1024 ** 4].map(formatBytes), ['0 B', '1023 B', '1.5 KiB', '5.0 TiB']);
  assert.deepEqual([850, 12_000, 185_000, 86_400_000].map(formatDuration), [
    '850 ms',
    '12 s',
    '3 min 5 s',
    '1 d',
  ]);
  assert.deepEqual([0, 999, 1000, 1_234_567].map(formatCount), ['0', '999', '1,000', '1,234,567']);
});

test('the nearest word is near', () => {
  assert.equal(editDistance('kitten', 'sitting'), 3);
  assert.equal(nearestWord('pth', ['path', 'driver']), 'path');
  assert.equal(nearestWord('qqqqqq', ['path', 'driver']), undefined);
});

test('any host name gives a valid node id', () => {
  assert.deepEqual(
    ['alpha', 'a_b.lan', '-x-', 'ü', '', 'y'.repeat(80)].map((name) => defaultNodeId(name)),
    ['alpha', 'a_b.lan', 'x', 'node-1', 'node-1', 'y'.repeat(63)],
  );
});

test('the release constant is the one of package.json', () => {
  const packageFile = new URL('../../package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };
  assert.equal(RELEASE, version);
});
