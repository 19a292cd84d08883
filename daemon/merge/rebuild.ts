/**
 * Makes a file of the state that lost anew in the state that stays: first without a name, so that nobody sees half of
 * it. Its large chunks are stored again (that is cheap where they are, and sends them to their homes), the bytes of small
 * ones travel in the operations.
 *
 * A crash leaves a file without a name, which is freed like any other.
 */

import type { ExtentRow, InodeRow } from '../metadata/rows.ts';
import { FsError } from '../protocol/errors.ts';
import { type ChunkHash, FILE_BYTES_MAX, type Inode, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import type { XattrChange } from '../protocol/operations.ts';
import type { MergeWorld } from './world.ts';

/** One `write` carries at most this many extents and about this many bytes; large chunks count none. */
const EXTENTS_MAX = 256;
const PAYLOAD_BYTES_MAX = 1024 * 1024;
/** Large chunks that are stored for one `write`: as many are in memory, one after the other. */
const LARGE_MAX = 16;

/** Answers its number: the old one where `number` says so and it is free. Errors: FsError; those of the chunks. */
export async function rebuild(world: MergeWorld, row: InodeRow, number: Inode | undefined): Promise<Inode> {
  const inode = await make(world, row, number ?? world.allocateInode());
  const { losing } = world;
  let batch: ExtentRow[] = [];
  let payloadBytes = 0;
  let large = 0;
  for (const extent of losing.reads.extents(row.inode, 0, FILE_BYTES_MAX)) {
    const isLarge = extent.chunkBytes > SMALL_CHUNK_BYTES_MAX;
    batch.push(extent);
    payloadBytes += isLarge ? 0 : extent.chunkBytes;
    large += isLarge ? 1 : 0;
    if (batch.length < EXTENTS_MAX && payloadBytes < PAYLOAD_BYTES_MAX && large < LARGE_MAX) continue;
    await write(world, inode, batch);
    [batch, payloadBytes, large] = [[], 0, 0];
  }
  if (batch.length > 0) await write(world, inode, batch);
  await world.propose({
    kind: 'attributes',
    inode,
    // Last, because writing clears nothing here but changes the time.
    ...(row.target === null && row.size > 0 ? { size: row.size } : {}),
    mode: row.mode,
    atime: row.atime,
    mtime: row.mtime,
    xattrs: [],
    time: world.now(),
  });
  return inode;
}

async function make(world: MergeWorld, row: InodeRow, wanted: Inode): Promise<Inode> {
  const { mode, uid, gid, rdev, target } = row;
  const xattrs: XattrChange[] = world.losing.reads.xattrs(row.inode);
  const time = world.now();
  for (let inode = wanted; ; inode = world.allocateInode()) {
    if (world.reads.inode(inode) !== undefined) continue;
    try {
      await world.propose({ kind: 'make', inode, entry: null, mode, uid, gid, rdev, target, xattrs, time });
      return inode;
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'EEXIST') throw error;
    }
  }
}

async function write(world: MergeWorld, inode: Inode, extents: readonly ExtentRow[]): Promise<void> {
  const pinned: ChunkHash[] = [];
  const payload = new Map<ChunkHash, Uint8Array>();
  try {
    for (const { hash, chunkBytes } of extents) {
      if (payload.has(hash) || pinned.includes(hash)) continue;
      if (chunkBytes <= SMALL_CHUNK_BYTES_MAX) {
        payload.set(hash, world.losing.small(hash) ?? (await world.chunks.small(hash)));
        continue;
      }
      const data = Buffer.from(new SharedArrayBuffer(chunkBytes));
      await world.chunks.read({ hash, size: chunkBytes }, 0, data);
      pinned.push(await world.chunks.store(data));
    }
    await world.propose(
      {
        kind: 'write',
        inode,
        extents: extents.map(({ offset, length, hash, chunkBytes, chunkOffset }) => ({
          ...{ offset, length, hash, chunkBytes, chunkOffset },
        })),
        sizeAtLeast: extents.reduce((end, { offset, length }) => Math.max(end, offset + length), 0),
        time: world.now(),
      },
      payload,
    );
  } finally {
    for (const hash of pinned) world.chunks.unpin(hash);
  }
}
