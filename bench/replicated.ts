/**
 * What copies cost: stores of whole chunks into one local store, beside stores through the replicated one with two
 * copies pushed to stores in the same process (`node bench/replicated.ts [options]`).
 *
 * Three stores on one disk write three times the bytes; so beside the plain local store stands a local store that
 * writes each chunk into three directories. Rounds alternate; the figures are medians.
 */

import { randomFillSync } from 'node:crypto';
import path from 'node:path';
import process from 'node:process';
import { mkdir } from 'node:fs/promises';
import { Command } from 'commander';
import type { ChunkStore } from '../daemon/chunks/interface.ts';
import { openChunkStore } from '../daemon/chunks/open.ts';
import { replicatedChunks } from '../daemon/chunks/replicated-chunks.ts';
import type { Member } from '../daemon/protocol/cluster.ts';
import { CHUNK_BYTES_MAX, type NodeId } from '../daemon/protocol/ids.ts';
import { systemClock } from '../daemon/runtime/clock.ts';
import type { Log } from '../daemon/runtime/log.ts';
import { fakeNetwork } from '../test/support/fake-peers.ts';
import { parseBytes, parseCount } from './options.ts';
import { figure, median, table } from './report.ts';
import { withSession } from './session.ts';

const MIB = 1024 * 1024;
const NODES = ['a', 'b', 'c'] as NodeId[];
const STORES_IN_FLIGHT = 4;
const KINDS = ['local', 'local, three times', 'replicated, factor 3'] as const;
const quiet: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  room: () => quiet,
};

const options = new Command()
  .option('--bytes <size>', 'bytes stored in a round', parseBytes, 128 * MIB)
  .option('--rounds <n>', 'rounds', parseCount, 3)
  .option('--disk <disk>', 'here or loop', 'here')
  .parse()
  .opts<{ bytes: number; rounds: number; disk: 'here' | 'loop' }>();

async function openStores(directory: string): Promise<ChunkStore[]> {
  const opened: ChunkStore[] = [];
  for (const id of NODES) {
    const own = path.join(directory, id);
    await mkdir(own, { recursive: true });
    opened.push(
      await openChunkStore({
        directory: own,
        log: quiet,
        clock: systemClock(),
        create: true,
        missingIsDamage: false,
      }),
    );
  }
  return opened;
}

function replicate(stores: readonly ChunkStore[]): ChunkStore[] {
  const network = fakeNetwork();
  const members = NODES.map(
    (id, number): Member => ({ id, number, role: 'auto', address: '', state: 'active', key: '' }),
  );
  for (const id of NODES) network.peers(id);
  return stores.map((local, index) =>
    replicatedChunks({
      local,
      peers: network.peers(NODES[index] ?? ('a' as NodeId)),
      cluster: {
        members: () => members,
        settings: () => ({ mode: 'replicated', factor: 3 }),
        leader: () => 'a' as NodeId,
      },
      rows: {
        chunksAfter: () => [],
        hasChunk: () => true,
        unsettled: () => undefined,
        barrier: () => Promise.resolve(),
      },
      clock: systemClock(),
      log: quiet,
    }),
  );
}

/** MiB/s of `store` over chunks that were never stored before. */
async function measure(store: (data: Buffer) => Promise<void>): Promise<number> {
  let left = Math.ceil(options.bytes / CHUNK_BYTES_MAX);
  const count = left;
  const buffers = Array.from({ length: STORES_IN_FLIGHT }, () =>
    Buffer.from(new SharedArrayBuffer(CHUNK_BYTES_MAX)),
  );
  for (const buffer of buffers) randomFillSync(buffer);
  const startMs = performance.now();
  await Promise.all(
    buffers.map(async (data) => {
      while (left > 0) {
        left -= 1;
        data.writeUInt32LE(left, 0);
        data.writeDoubleLE(performance.now(), 8);
        await store(data);
      }
    }),
  );
  return (count * CHUNK_BYTES_MAX) / MIB / ((performance.now() - startMs) / 1000);
}

const images = { kind: 'loop', bytes: options.rounds * 7 * options.bytes + 1024 * MIB } as const;
process.exitCode = await withSession(options.disk === 'loop' ? images : { kind: 'here' }, async (session) => {
  const results = new Map<string, number[]>(KINDS.map((kind) => [kind, []]));
  for (let round = 0; round < options.rounds; round += 1) {
    for (const kind of KINDS) {
      const stores = await openStores(path.join(session.directory, `${round}-${KINDS.indexOf(kind)}`));
      const used = kind === 'replicated, factor 3' ? replicate(stores) : stores;
      const targets = kind === 'local, three times' ? used : used.slice(0, 1);
      const speed = await measure(async (data) => {
        const hashes = await Promise.all(targets.map((target) => target.store(data)));
        for (const [index, hash] of hashes.entries()) targets[index]?.unpin(hash);
      });
      results.get(kind)?.push(speed);
      await Promise.all(used.map((store) => store.close()));
      if (used !== stores) await Promise.all(stores.map((store) => store.close()));
    }
  }
  const medians = [...results].map(([kind, speeds]) => [kind, median(speeds)] as const);
  const local = medians[0]?.[1] ?? 1;
  const rows = medians.map(([kind, speed]) => [kind, figure(speed), figure(speed / local)]);
  process.stdout.write(`${table(['stores of 4 MiB chunks', 'MiB/s', 'of local'], rows)}\n`);
  return 0;
});
