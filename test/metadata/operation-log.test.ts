import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32 as crcOf } from 'node:zlib';
import { hasLog, logReach, readLog, SEGMENT_BYTES } from '../../daemon/metadata/log-reading.ts';
import { ENTRY_BYTES_MAX, type OperationLog, openOperationLog } from '../../daemon/metadata/operation-log.ts';
import { requireRoot } from '../support/requirements.ts';

const SPARE_WAIT_MS = 20_000;

const HEADER_BYTES = 32;
const LARGE = 1_000_000;

async function inFolder(body: (directory: string) => Promise<void> | void): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'warren-log-'));
  try {
    await body(join(folder, 'log'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function append(log: OperationLog, from: number, to: number, bytes = 100): void {
  for (let version = from; version <= to; version++) log.append(version, bodyOf(version, bytes));
  log.write();
}

function bodyOf(version: number, bytes: number): Buffer {
  const body = Buffer.alloc(bytes, version & 0xff);
  body.writeUInt32LE(version, 0);
  return body;
}

/** Versions that can be read; their bodies are checked. */
function versions(directory: string, after = 0): number[] {
  return Array.from(readLog(directory, after), ({ version, body }) => {
    assert.equal(body.readUInt32LE(0), version);
    return version;
  });
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

const segmentsOf = (directory: string): string[] =>
  readdirSync(directory)
    .filter((name) => name.endsWith('.log'))
    .sort()
    .map((name) => join(directory, name));

test('what was written is read back, from any version on, over several openings', () =>
  inFolder(async (directory) => {
    assert.ok(!hasLog(directory));
    assert.deepEqual(versions(directory), []);
    for (const [from, to] of [
      [1, 10],
      [11, 11],
      [12, 40],
    ] as const) {
      const log = openOperationLog(directory, from - 1);
      append(log, from, to);
      await log.sync();
      log.close();
    }
    assert.ok(hasLog(directory));
    assert.deepEqual(versions(directory), range(1, 40));
    assert.deepEqual(versions(directory, 11), range(12, 40));
    assert.deepEqual(versions(directory, 40), []);
  }));

test('an entry is there once it is written, without a sync or a close', () =>
  inFolder((directory) => {
    const log = openOperationLog(directory, 0);
    log.append(1, bodyOf(1, 50));
    assert.deepEqual(versions(directory), []);
    log.write();
    assert.deepEqual(versions(directory), [1]);
    log.close();
  }));

test('a full segment is followed by the next; an entry of the greatest length fits', () =>
  inFolder(async (directory) => {
    const log = openOperationLog(directory, 0);
    for (let version = 1; version <= 40; version++) append(log, version, version, LARGE);
    append(log, 41, 43, ENTRY_BYTES_MAX);
    assert.throws(() => log.append(44, Buffer.alloc(ENTRY_BYTES_MAX + 1)), /limit/);
    await log.sync();
    assert.equal(segmentsOf(directory).length, 4);
    assert.ok(segmentsOf(directory).every((file) => statSync(file).size === SEGMENT_BYTES));
    assert.deepEqual(versions(directory), range(1, 43));
    log.close();
  }));

for (const [name, damage] of [
  ['cut off', (file: string, end: number) => truncateSync(file, end - 3)],
  ['changed', (file: string, end: number) => scribble(file, end - 3)],
  ['without its first bytes', (file: string, end: number) => scribble(file, end - 107)],
] as const) {
  test(`a last entry that is ${name} ends the log before it, and appending goes on`, () =>
    inFolder((directory) => {
      const log = openOperationLog(directory, 0);
      append(log, 1, 10);
      log.close();
      const [file] = segmentsOf(directory);
      damage(file!, HEADER_BYTES + 10 * 108);
      assert.deepEqual(versions(directory), range(1, 9));
      assert.equal(logReach(directory).durable, 0, 'it was never said to be durable');
      const again = openOperationLog(directory, 9);
      append(again, 10, 12);
      again.close();
      assert.deepEqual(versions(directory), range(1, 12));
    }));
}

test('segments behind the state go, and their space is used again without old entries showing', () =>
  inFolder(async (directory) => {
    const log = openOperationLog(directory, 0);
    for (let version = 1; version <= 50; version++) append(log, version, version, LARGE);
    await log.sync();
    assert.equal(segmentsOf(directory).length, 4);
    log.trim(15, SEGMENT_BYTES);
    assert.equal(segmentsOf(directory).length, 4, 'version 16 is in the first segment');
    log.trim(40, 3 * SEGMENT_BYTES);
    assert.equal(segmentsOf(directory).length, 3, 'the newest bytes are kept');
    log.trim(50, SEGMENT_BYTES);
    assert.equal(segmentsOf(directory).length, 1);
    const first = logReach(directory).first;
    assert.deepEqual(versions(directory, first - 1), range(first, 50));
    // The next segment lies over an old one, whose entries are longer than these.
    for (let version = 51; version <= 70; version++) append(log, version, version, LARGE);
    append(log, 71, 75, 10);
    await log.sync();
    assert.deepEqual(versions(directory, 50), range(51, 75));
    log.close();
    // One that was being made when the log closed goes when it is done.
    const limitMs = performance.now() + SPARE_WAIT_MS;
    while (readdirSync(directory).some((name) => name.startsWith('spare'))) {
      assert.ok(performance.now() < limitMs, 'a spare segment was left behind');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }));

test('what was durable and cannot be read is known as lost', () =>
  inFolder(async (directory) => {
    const log = openOperationLog(directory, 0);
    for (let version = 1; version <= 50; version++) {
      append(log, version, version, LARGE);
      await log.sync();
    }
    log.close();
    const files = segmentsOf(directory);
    const { durable } = logReach(directory);
    assert.ok(durable > 40 && durable <= 50, String(durable));
    renameSync(files[1]!, join(directory, 'aside'));
    const readable = versions(directory);
    assert.ok(readable.at(-1)! < durable && logReach(directory).durable === durable);
    renameSync(join(directory, 'aside'), files[1]!);
    scribble(files[1]!, 3 * LARGE);
    assert.ok(versions(directory).at(-1)! < durable);
    rmSync(files[0]!);
    assert.ok(logReach(directory).first > 1);
  }));

test('a newer format is refused', () =>
  inFolder((directory) => {
    mkdirSync(directory);
    const log = openOperationLog(directory, 0);
    append(log, 1, 1);
    log.close();
    const [file] = segmentsOf(directory);
    const content = readFileSync(file!);
    content.writeUInt32LE(99, 4);
    content.writeUInt32LE(crcOf(content.subarray(0, 24)), 24);
    writeFileSync(file!, content);
    assert.throws(() => versions(directory), { code: 'LOG_TOO_NEW' });
  }));

test('no space for the next segment: an error before anything changed, nothing written is lost', () =>
  inFolder((directory) => {
    requireRoot();
    mkdirSync(directory);
    // One segment and a half.
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', directory]).status, 0);
    try {
      const log = openOperationLog(directory, 0);
      let version = 0;
      assert.throws(
        () => {
          for (; version < 30; version++) {
            log.makeRoom(LARGE);
            append(log, version + 1, version + 1, LARGE);
          }
        },
        { code: 'ENOSPC' },
      );
      assert.equal(version, 16);
      assert.deepEqual(versions(directory), range(1, 16));
      assert.equal(segmentsOf(directory).length, 1, 'no half-made segment stays');
      log.close();
    } finally {
      spawnSync('umount', ['-l', directory]);
    }
  }));

function scribble(file: string, at: number): void {
  const descriptor = openSync(file, 'r+');
  writeSync(descriptor, Buffer.from([0xde, 0xad]), 0, 2, at);
  closeSync(descriptor);
}
