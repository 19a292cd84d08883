/**
 * Gets a chunk that is not here, or not any more, from a node that has it: its homes first, then every other
 * storing node. What comes is verified against its hash before anybody sees it; a node that sends anything else is
 * named in the log and the next one is asked.
 *
 * One fetch serves everybody who waits for the chunk. What was fetched stays in a little memory, so that a
 * sequential read of a chunk that is kept elsewhere fetches it once and not for each 128 KiB. A chunk whose home is
 * here is also stored; readers do not wait for that.
 */

import { hash as digest } from 'node:crypto';
import { FsError } from '../protocol/errors.ts';
import { CHUNK_BYTES_MAX, type ChunkHash, type NodeId, SMALL_CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import { PeerError, type Peers } from '../peers/interface.ts';
import { openByteGate } from '../runtime/byte-gate.ts';
import { describeError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';
import { openLru } from '../runtime/lru.ts';
import { formatBytes } from '../protocol/units.ts';
import type { ChunkStore } from './interface.ts';
import type { ChunkName } from './replicated-options.ts';
import type { ViewOfCluster } from './replicated-view.ts';

/** Being fetched at once. */
const FETCH_BYTES_MAX = 32 * 1024 * 1024;
const FETCHES_WAITING_MAX = 16_384;
/** Fetched chunks in memory: eight whole ones, for a few sequential readers and their prefetches. */
const KEPT_BYTES_MAX = 32 * 1024 * 1024;

export interface Fetched {
  /** Verified; shared by all who asked: not to be changed. */
  readonly data: Buffer;
  /** The chunk is durable here: false when it is not to be, or could not be. */
  readonly kept: Promise<boolean>;
}

/** Nobody who could be asked has the chunk. `lost`: everybody was asked. */
export class ChunkNowhereError extends FsError {
  readonly lost: boolean;
  constructor(detail: string, lost: boolean) {
    super('EIO', detail);
    this.lost = lost;
  }
}

export interface Fetcher {
  /** Fetched bytes that are in memory. */
  peek(hash: ChunkHash): Buffer | undefined;
  /**
   * `sizeHint`: about how many bytes will come. `keep`: store it here. Errors: ChunkNowhereError with a sentence
   * that names the nodes.
   */
  fetch(hash: ChunkHash, options: { sizeHint: number; keep: boolean }): Promise<Fetched>;
  /** Starts a fetch of what will be read soon, if that is easy. Never fails. */
  prefetch(chunk: ChunkName): void;
  figures(): { readonly fetched: number; readonly fetchedBytes: number; readonly refusedBytes: number };
}

export function openFetcher(options: {
  local: ChunkStore;
  peers: Peers;
  view: ViewOfCluster;
  log: Log;
}): Fetcher {
  const { local, peers, view, log } = options;
  const gate = openByteGate({ bytesMax: FETCH_BYTES_MAX, waitingMax: FETCHES_WAITING_MAX });
  const running = new Map<ChunkHash, { readonly keep: boolean; readonly done: Promise<Fetched> }>();
  const memory = openLru<ChunkHash, Buffer>({ weightMax: KEPT_BYTES_MAX });
  const figures = { fetched: 0, fetchedBytes: 0, refusedBytes: 0 };

  /** The bytes as the node sends them, or undefined when it has none. */
  async function askFor(node: NodeId, hash: ChunkHash, size: number): Promise<Buffer | undefined> {
    const { answer, bytes } = await peers.call(
      node,
      'chunk-get',
      { hash },
      { timeoutMs: view.timeoutMs(size) },
    );
    return answer.size < 0 ? undefined : bytes;
  }

  async function fetchOnce(hash: ChunkHash, size: number, keep: boolean): Promise<Fetched> {
    const reasons: string[] = [];
    let everybody = true;
    for (const node of view.sources(hash)) {
      if (!view.isHere(node)) {
        reasons.push(`${node} is away`);
        everybody = false;
        continue;
      }
      let data: Buffer | undefined;
      try {
        data = await askFor(node, hash, size);
      } catch (error) {
        if (!(error instanceof PeerError)) throw error;
        reasons.push(`${node} did not answer (${error.message})`);
        everybody = false;
        continue;
      }
      if (data === undefined) {
        reasons.push(`${node} does not have it`);
        continue;
      }
      const accepted = data.length <= CHUNK_BYTES_MAX ? await accept(hash, data, keep) : undefined;
      if (accepted === undefined) {
        figures.refusedBytes += data.length;
        log.error(`${node} sent ${formatBytes(data.length)} that are not chunk ${hash}`, { node, hash });
        reasons.push(`${node} sent other bytes`);
        continue;
      }
      figures.fetched += 1;
      figures.fetchedBytes += data.length;
      return accepted;
    }
    const asked = reasons.length === 0 ? 'there is no other node that stores chunks' : reasons.join(', ');
    throw new ChunkNowhereError(`chunk ${hash} is not on this node: ${asked}`, everybody);
  }

  /** Verifies, and stores when it is to be kept; undefined when the bytes are not the chunk's. */
  async function accept(hash: ChunkHash, data: Buffer, keep: boolean): Promise<Fetched | undefined> {
    if (data.length <= SMALL_CHUNK_BYTES_MAX) {
      if (digest('sha256', data) !== hash) return undefined;
      return { data, kept: keep ? storing(hash, local.settle([{ hash, data }])) : Promise.resolve(false) };
    }
    if (!keep) {
      return (await local.hash(data)) === hash ? { data, kept: Promise.resolve(false) } : undefined;
    }
    const hashed = Promise.withResolvers<ChunkHash | undefined>();
    const stored = local.store(data, { expected: hash, onHash: hashed.resolve });
    const kept = storing(
      hash,
      stored.then(() => local.unpin(hash)),
    );
    // A store may fail before it knows the hash: no space.
    void kept.then(() => hashed.resolve(undefined));
    const actual = (await hashed.promise) ?? (await local.hash(data));
    return actual === hash ? { data, kept } : undefined;
  }

  function storing(hash: ChunkHash, stored: Promise<void>): Promise<boolean> {
    return stored.then(
      () => true,
      (error: unknown) => {
        log.warn(`chunk ${hash} was fetched but could not be kept`, { hash, reason: describeError(error) });
        return false;
      },
    );
  }

  function fetch(hash: ChunkHash, size: number, keep: boolean): Promise<Fetched> {
    const now = running.get(hash);
    if (now !== undefined && (now.keep || !keep)) return now.done;
    const { promise: done, resolve, reject } = Promise.withResolvers<Fetched>();
    void gate.run(size, async () => {
      try {
        const fetched = await fetchOnce(hash, size, keep);
        resolve(fetched);
        // Its bytes are in memory until the disk has them: the next fetch waits for that, the readers do not.
        await fetched.kept;
      } catch (error) {
        reject(error);
      }
    });
    const entry = { keep, done };
    running.set(hash, entry);
    const ended = (): void => {
      if (running.get(hash) === entry) running.delete(hash);
    };
    done.then(({ data }) => {
      memory.set(hash, data, data.length);
      ended();
    }, ended);
    return done;
  }

  return {
    peek: (hash) => memory.get(hash),
    fetch: (hash, { sizeHint, keep }) => fetch(hash, sizeHint, keep),
    prefetch({ hash, size }) {
      if (memory.peek(hash) !== undefined || running.has(hash)) return;
      if (gate.waiting > 0 || gate.bytes + size > FETCH_BYTES_MAX) return;
      // The read that follows meets the failure and reports it.
      void local.stat(hash).then(
        (stored) => {
          if (stored === undefined) return fetch(hash, size, false).catch(() => undefined);
          local.prefetch({ hash, size });
          return undefined;
        },
        () => undefined,
      );
    },
    figures: () => ({ ...figures }),
  };
}
