/**
 * What other nodes may ask of this node's chunks: to store one, to send one, which ones are here.
 *
 * Nothing a peer says is believed: bytes must have the hash that they come with, counts have limits, and a store
 * below the free-space reserve is refused (the local store's guard). Memory is bounded by gates: more requests than
 * fit wait, and the lane's back-pressure holds the sender.
 *
 * `chunk-have` with `verify` is the question of a node that wants to delete its copy. It is answered yes only for a
 * chunk that was just read and is right, that this node is a home of by its own view, and that it is not about to
 * delete itself. So two nodes with different views cannot both delete on the other's word.
 */

import { FsError } from '../protocol/errors.ts';
import { CHUNK_BYTES_MAX, type ChunkHash, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import type { Peers } from '../peers/interface.ts';
import { openByteGate } from '../runtime/byte-gate.ts';
import { type ChunkStore, ChunkLostError } from './interface.ts';
import { isChunkHash } from './layout.ts';
import { type ChunkName, type ChunkRows, HAVE_HASHES_MAX, HAVE_VERIFIED_MAX } from './replicated-options.ts';
import type { ViewOfCluster } from './replicated-view.ts';

/** Chunks from other nodes on their way to the disk. */
const PUT_BYTES_MAX = 64 * 1024 * 1024;
/** Chunks being read for other nodes. */
const GET_BYTES_MAX = 32 * 1024 * 1024;
/** Chunks being verified for other nodes: one after the other, it is background work. */
const VERIFY_BYTES_MAX = CHUNK_BYTES_MAX;
const WAITING_MAX = 16_384;
const NOTHING = Buffer.alloc(0);

export interface HandlerOptions {
  readonly local: ChunkStore;
  readonly peers: Peers;
  readonly view: ViewOfCluster;
  readonly rows: ChunkRows;
  /** A peer was told that the chunk is here: a deletion that was decided before must think again. */
  readonly onPromised: (hash: ChunkHash) => void;
  /** This node is about to delete the chunk. */
  readonly isGoing: (hash: ChunkHash) => boolean;
  /** The chunk was found damaged or missing where it should be. */
  readonly onLacking: (chunk: ChunkName, reason: string) => void;
  /** A chunk arrived that may have been lacking. */
  readonly onStored: (hash: ChunkHash) => void;
}

export function handleChunkCalls(options: HandlerOptions): void {
  const { local, peers, view, rows } = options;
  const puts = openByteGate({ bytesMax: PUT_BYTES_MAX, waitingMax: WAITING_MAX });
  const gets = openByteGate({ bytesMax: GET_BYTES_MAX, waitingMax: WAITING_MAX });
  const verifications = openByteGate({ bytesMax: VERIFY_BYTES_MAX, waitingMax: WAITING_MAX });

  peers.handle('chunk-put', async (_from, { hash }, bytes) => {
    requireHash(hash);
    if (bytes.length === 0 || bytes.length > CHUNK_BYTES_MAX)
      throw new FsError('EINVAL', `a chunk has 1 to ${CHUNK_BYTES_MAX} bytes and not ${bytes.length}`);
    options.onPromised(hash);
    await puts.run(bytes.length, async () => {
      if (bytes.length <= SMALL_CHUNK_BYTES_MAX) {
        local.reserve(bytes.length);
        await local.settle([{ hash, data: bytes }]);
      } else {
        local.unpin(await local.store(bytes, { expected: hash }));
      }
    });
    options.onPromised(hash);
    options.onStored(hash);
    return { answer: { stored: true as const } };
  });

  peers.handle('chunk-get', async (_from, { hash }) => {
    requireHash(hash);
    const small = rows.unsettled(hash) ?? readSmall(hash);
    if (small !== undefined) return { answer: { size: small.length }, bytes: [small] };
    const stored = await local.stat(hash);
    if (stored === undefined || stored.size > CHUNK_BYTES_MAX) return { answer: { size: -1 } };
    const data = await gets.run(stored.size, () => readWhole({ hash, size: stored.size }));
    return data === undefined
      ? { answer: { size: -1 } }
      : { answer: { size: data.length }, bytes: [data.length === 0 ? NOTHING : data] };
  });

  peers.handle('chunk-have', async (_from, { hashes, verify }) => {
    const limit = verify ? HAVE_VERIFIED_MAX : HAVE_HASHES_MAX;
    if (!Array.isArray(hashes) || hashes.length > limit)
      throw new FsError('EINVAL', `one question is about at most ${limit} chunks`);
    const have: boolean[] = [];
    for (const hash of hashes) {
      requireHash(hash);
      have.push(await (verify ? holdsVerified(hash) : holds(hash)));
    }
    return { answer: { have } };
  });

  function readSmall(hash: ChunkHash): Uint8Array | undefined {
    try {
      return local.readSmall(hash);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      options.onLacking({ hash, size: SMALL_CHUNK_BYTES_MAX }, error.message);
      return undefined;
    }
  }

  async function readWhole(chunk: ChunkName): Promise<Buffer | undefined> {
    const data = Buffer.allocUnsafeSlow(chunk.size);
    try {
      await local.read(chunk, 0, data);
      return data;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      // Its size is that of the damaged file; the row knows the right one, and a scan finds it.
      if (error instanceof ChunkLostError && error.loss === 'damaged')
        options.onLacking(chunk, error.message);
      return undefined;
    }
  }

  async function holds(hash: ChunkHash): Promise<boolean> {
    if (options.isGoing(hash)) return false;
    options.onPromised(hash);
    if (rows.unsettled(hash) !== undefined) return true;
    return (await local.holds(hash)) !== undefined && !options.isGoing(hash);
  }

  async function holdsVerified(hash: ChunkHash): Promise<boolean> {
    const stored = await local.holds(hash);
    if (stored === undefined) return false;
    const chunk = { hash, size: stored.size };
    if (!view.isHome(chunk, view.self)) return false;
    const health = await verifications.run(stored.size, () => local.verify(chunk, { setAside: true }));
    if (health.kind === 'bad') options.onLacking(chunk, health.reason);
    return health.kind === 'ok' && view.isHome(chunk, view.self) && !options.isGoing(hash);
  }
}

function requireHash(hash: unknown): asserts hash is ChunkHash {
  if (typeof hash !== 'string' || !isChunkHash(hash))
    throw new FsError('EINVAL', 'a chunk is named by 64 hexadecimal digits');
}
