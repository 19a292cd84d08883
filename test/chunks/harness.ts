/** A chunk store in a directory of its own, with the damage it reports and ways to hurt its files. */

import { hash as digest, randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { ChunkStore, SmallChunk } from '../../daemon/chunks/interface.ts';
import { chunkPath, layoutOf } from '../../daemon/chunks/layout.ts';
import { type ChunkDamage, openChunkStore } from '../../daemon/chunks/open.ts';
import type { ChunkHash } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import type { Log } from '../../daemon/runtime/log.ts';

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  room: () => silentLog,
};

export interface Fixture {
  readonly directory: string;
  store: ChunkStore;
  readonly damage: ChunkDamage[];
  path(hash: ChunkHash): string;
  /** Closes the store and opens it again: nothing is known of any chunk then. */
  reopen(): Promise<void>;
  flip(hash: ChunkHash, offset: number): void;
  quarantined(): string[];
  leftovers(): string[];
}

export async function openFixture(
  t: TestContext,
  disk?: { mount: string; release(): void },
): Promise<Fixture> {
  const directory = mkdtempSync(join(disk?.mount ?? tmpdir(), 'warren-chunks-'));
  const layout = layoutOf(directory);
  const damage: ChunkDamage[] = [];
  const open = (create: boolean) =>
    openChunkStore({
      directory,
      log: silentLog,
      clock: systemClock(),
      onDamage: (item) => damage.push(item),
      create,
    });
  const fixture: Fixture = {
    directory,
    store: await open(true),
    damage,
    path: (hash) => chunkPath(layout, hash),
    async reopen() {
      await fixture.store.close();
      fixture.store = await open(false);
    },
    flip(hash, offset) {
      const bytes = readFileSync(chunkPath(layout, hash));
      bytes[offset] = bytes[offset]! ^ 1;
      writeFileSync(chunkPath(layout, hash), bytes);
    },
    quarantined: () => readdirSync(layout.quarantine).sort(),
    leftovers: () => readdirSync(layout.temporary),
  };
  t.after(async () => {
    await fixture.store.close();
    if (disk === undefined) rmSync(directory, { recursive: true, force: true });
    else disk.release();
  });
  return fixture;
}

export function hashOf(data: Uint8Array): ChunkHash {
  return digest('sha256', data) as ChunkHash;
}

export function smallChunk(bytes: number): SmallChunk {
  const data = randomBytes(bytes);
  return { hash: hashOf(data), data };
}

export async function readChunk(
  store: ChunkStore,
  hash: ChunkHash,
  range: { size: number; offset?: number; length?: number },
): Promise<Buffer> {
  const offset = range.offset ?? 0;
  const target = Buffer.alloc(range.length ?? range.size - offset);
  await store.read({ hash, size: range.size }, offset, target);
  return target;
}

/** Reads enough other chunks that nothing of earlier ones is served from memory. */
export async function pushOutOfMemory(store: ChunkStore): Promise<void> {
  for (let index = 0; index < 8; index += 1) {
    const data = randomBytes(100);
    const hash = await store.store(data);
    store.unpin(hash);
    // A verification borrows memory, so each one displaces what was used longest ago.
    await store.verify({ hash, size: data.length });
  }
}
