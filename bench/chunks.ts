/**
 * The chunk store alone, beside plain files with the same bytes: `node bench/chunks.ts [options]`.
 *
 * It tells what verified reads cost without FUSE and metadata. Both sides read the same chunk files: plain with
 * one `fs.read` for each request on descriptors that are open, the store after it was opened anew, so that every
 * chunk is at its first touch. Rounds alternate; the figures are medians, the ratio compares these.
 */

import { randomBytes } from 'node:crypto';
import { fdatasyncSync, openSync, closeSync, read, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { Command } from 'commander';
import { chunkPath, layoutOf } from '../daemon/chunks/layout.ts';
import { openChunkStore } from '../daemon/chunks/open.ts';
import { CHUNK_BYTES_MAX, type ChunkHash } from '../daemon/protocol/ids.ts';
import { systemClock } from '../daemon/runtime/clock.ts';
import type { Log } from '../daemon/runtime/log.ts';
import { parseBytes, parseCount } from './options.ts';
import { figure, median, table } from './report.ts';
import { dropCaches, type Session, withSession } from './session.ts';

const MIB = 1024 * 1024;
const RANDOM_BYTES = 4096;
const SEQUENTIAL_BYTES = MIB;
const SEQUENTIAL_IN_FLIGHT = 4;
const STORES_IN_FLIGHT = 4;
const EQUAL_CHUNKS = 256;

interface Options {
  readonly bytes: number;
  readonly reads: number;
  readonly rounds: number;
  readonly disk: 'here' | 'loop';
}

type ReadAt = (chunk: number, offset: number, target: Buffer) => Promise<void>;

const options = new Command()
  .description('The chunk store beside plain files.')
  .option('--bytes <bytes>', 'of all chunks together', parseBytes, 512 * MIB)
  .option('--reads <count>', 'random reads in a round', parseCount, 2000)
  .option('--rounds <count>', 'of each reading', parseCount, 3)
  .option('--disk <kind>', 'here or loop', 'here')
  .parse()
  .opts<Options>();
const silent: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: (text) => process.stderr.write(`${text}\n`),
  room: () => silent,
};
process.exitCode = await withSession(
  options.disk === 'loop' ? { kind: 'loop', bytes: 2 * options.bytes + 1024 * MIB } : { kind: 'here' },
  measure,
);

async function measure(session: Session): Promise<number> {
  const directory = path.join(session.directory, 'store');
  await mkdir(directory);
  const count = Math.max(1, Math.floor(options.bytes / CHUNK_BYTES_MAX));
  const seconds = new Map<string, number[]>();
  const note = (name: string, value: number) => seconds.set(name, [...(seconds.get(name) ?? []), value]);

  const bodies = Array.from({ length: 8 }, () => randomBytes(CHUNK_BYTES_MAX));
  note('write plain', await timed(() => writePlain(path.join(session.directory, 'plain'), bodies, count)));
  const hashes: ChunkHash[] = [];
  note('write store', await timed(() => storeAll(directory, bodies, count, hashes)));
  const order = randomOrder(count);
  for (let round = 0; round < options.rounds; round += 1) {
    for (const target of ['plain', 'store']) {
      await dropCaches(session.signal);
      await withReader(target, directory, hashes, async (readAt) => {
        note(`random ${target}`, await timed(() => readRandom(readAt, order)));
      });
      await dropCaches(session.signal);
      await withReader(target, directory, hashes, async (readAt) => {
        note(`cold ${target}`, await timed(() => readSequential(readAt, count)));
        note(`warm ${target}`, await timed(() => readSequential(readAt, count)));
      });
    }
  }
  note('equal store', await timed(() => storeEqual(directory)));

  const of = (name: string) => median(seconds.get(name) ?? []);
  const row = (what: string, name: string, amount: number, unit: string) => [
    what,
    unit,
    figure(amount / of(`${name} plain`)),
    figure(amount / of(`${name} store`)),
    figure(of(`${name} plain`) / of(`${name} store`)),
  ];
  const mebibytes = (count * CHUNK_BYTES_MAX) / MIB;
  const rows = [
    row('write and sync each 4 MiB', 'write', mebibytes, 'MiB/s'),
    row('random read 4 KiB, cold', 'random', options.reads, 'reads/s'),
    row('sequential read 1 MiB, cold', 'cold', mebibytes, 'MiB/s'),
    row('sequential read 1 MiB, warm', 'warm', mebibytes, 'MiB/s'),
    ['the same 4 MiB again and again', 'MiB/s', '', figure((EQUAL_CHUNKS * 4) / of('equal store')), ''],
  ];
  process.stdout.write(`${table(['what', 'unit', 'plain', 'store', 'ratio'], rows, 2)}\n`);
  return 0;
}

async function timed(work: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Content that no other chunk has. */
function bodyOf(bodies: readonly Buffer[], index: number): Buffer {
  const body = bodies[index % bodies.length] ?? Buffer.alloc(0);
  body.writeUInt32LE(index, 0);
  return body;
}

async function writePlain(directory: string, bodies: readonly Buffer[], count: number): Promise<void> {
  await mkdir(directory);
  for (let index = 0; index < count; index += 1) {
    const descriptor = openSync(path.join(directory, String(index)), 'wx');
    writeSync(descriptor, bodyOf(bodies, index));
    fdatasyncSync(descriptor);
    closeSync(descriptor);
  }
}

async function storeAll(
  directory: string,
  bodies: readonly Buffer[],
  count: number,
  hashes: ChunkHash[],
): Promise<void> {
  const store = await openStore(directory);
  await inFlight(count, STORES_IN_FLIGHT, async (index) => {
    const hash = await store.store(bodyOf(bodies, index));
    hashes[index] = hash;
    store.unpin(hash);
  });
  await store.close();
}

async function storeEqual(directory: string): Promise<void> {
  const store = await openStore(directory);
  const zeros = Buffer.from(new SharedArrayBuffer(CHUNK_BYTES_MAX));
  await inFlight(EQUAL_CHUNKS, STORES_IN_FLIGHT, async () => store.unpin(await store.store(zeros)));
  await store.close();
}

function openStore(directory: string) {
  return openChunkStore({ directory, log: silent, clock: systemClock(), create: true });
}

async function withReader(
  target: string,
  directory: string,
  hashes: readonly ChunkHash[],
  work: (readAt: ReadAt) => Promise<void>,
): Promise<void> {
  if (target === 'store') {
    const store = await openStore(directory);
    // A daemon that serves reads has its threads and modules loaded.
    store.unpin(await store.store(randomBytes(CHUNK_BYTES_MAX)));
    const chunks = hashes.map((hash) => ({ hash, size: CHUNK_BYTES_MAX }));
    await work((chunk, offset, into) =>
      store.read(chunks[chunk] ?? { hash: '' as ChunkHash, size: 0 }, offset, into),
    );
    await store.close();
    return;
  }
  const layout = layoutOf(directory);
  const descriptors = hashes.map((hash) => openSync(chunkPath(layout, hash), 'r'));
  await work(
    (chunk, offset, into) =>
      new Promise((resolve, reject) => {
        read(descriptors[chunk] ?? -1, into, 0, into.length, offset, (error) =>
          error === null ? resolve() : reject(error),
        );
      }),
  );
  for (const descriptor of descriptors) closeSync(descriptor);
}

function randomOrder(count: number): readonly { chunk: number; offset: number }[] {
  const pages = CHUNK_BYTES_MAX / RANDOM_BYTES;
  return Array.from({ length: options.reads }, () => ({
    chunk: Math.floor(Math.random() * count),
    offset: Math.floor(Math.random() * pages) * RANDOM_BYTES,
  }));
}

async function readRandom(
  readAt: ReadAt,
  order: readonly { chunk: number; offset: number }[],
): Promise<void> {
  const target = Buffer.alloc(RANDOM_BYTES);
  for (const { chunk, offset } of order) await readAt(chunk, offset, target);
}

async function readSequential(readAt: ReadAt, count: number): Promise<void> {
  const parts = CHUNK_BYTES_MAX / SEQUENTIAL_BYTES;
  const targets = Array.from({ length: SEQUENTIAL_IN_FLIGHT }, () => Buffer.alloc(SEQUENTIAL_BYTES));
  await inFlight(count * parts, SEQUENTIAL_IN_FLIGHT, async (index, slot) => {
    const target = targets[slot];
    if (target !== undefined)
      await readAt(Math.floor(index / parts), (index % parts) * SEQUENTIAL_BYTES, target);
  });
}

/** Runs `work` for 0 to `count - 1` in order, `width` at a time; `slot` says which of these. */
async function inFlight(
  count: number,
  width: number,
  work: (index: number, slot: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  async function runSlot(slot: number): Promise<void> {
    for (let index = next++; index < count; index = next++) await work(index, slot);
  }
  await Promise.all(Array.from({ length: width }, (_, slot) => runSlot(slot)));
}
