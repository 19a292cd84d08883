/**
 * Asks whether the cluster would lose nothing without its draining nodes: every chunk is held, durably, by each of
 * its homes. Any node can ask; it walks the whole chunk table, so ask when the lacking figures say zero.
 */

import type { ChunkHash, NodeId } from '../protocol/ids.ts';
import { PeerError, type Peers } from '../peers/interface.ts';
import type { ChunkStore } from './interface.ts';
import { type ChunkRow, type ChunkRows, HAVE_HASHES_MAX } from './replicated-options.ts';
import type { ViewOfCluster } from './replicated-view.ts';

export interface HomesCheck {
  readonly checked: number;
  /** Chunks that some home has not confirmed. */
  readonly missing: number;
  readonly missingBytes: number;
  /** The first of them, with the home that did not confirm it. */
  readonly example: { readonly hash: ChunkHash; readonly node: NodeId } | undefined;
}

export async function checkHomes(options: {
  local: ChunkStore;
  peers: Peers;
  rows: ChunkRows;
  view: ViewOfCluster;
  signal: AbortSignal;
}): Promise<HomesCheck> {
  const { local, peers, rows, view, signal } = options;
  let checked = 0;
  let missing = 0;
  let missingBytes = 0;
  let example: HomesCheck['example'];

  async function held(node: NodeId, hashes: readonly ChunkHash[]): Promise<readonly boolean[]> {
    if (node === view.self) {
      return Promise.all(
        hashes.map(
          async (hash) => rows.unsettled(hash) !== undefined || (await local.holds(hash)) !== undefined,
        ),
      );
    }
    if (!view.isHere(node)) return [];
    try {
      // A home that was just started syncs what it finds: as if the bytes were moved.
      const timeoutMs = view.timeoutMs(hashes.length * 65_536);
      const { answer } = await peers.call(
        node,
        'chunk-have',
        { hashes, verify: false },
        { timeoutMs, signal },
      );
      return answer.have;
    } catch (error) {
      if (error instanceof PeerError && error.kind !== 'aborted') return [];
      throw error;
    }
  }

  for (let row = 0; ; ) {
    signal.throwIfAborted();
    const page = rows.chunksAfter(row, HAVE_HASHES_MAX);
    const last = page.at(-1);
    if (last === undefined) return { checked, missing, missingBytes, example };
    row = last.row;
    const byHome = new Map<NodeId, ChunkRow[]>();
    for (const chunk of page) {
      for (const home of view.homes({ hash: chunk.hash, size: chunk.bytes })) {
        const asked = byHome.get(home);
        if (asked === undefined) byHome.set(home, [chunk]);
        else asked.push(chunk);
      }
    }
    const unconfirmed = new Map<ChunkRow, NodeId>();
    await Promise.all(
      [...byHome].map(async ([home, chunks]) => {
        const have = await held(
          home,
          chunks.map(({ hash }) => hash),
        );
        for (const [index, chunk] of chunks.entries()) if (have[index] !== true) unconfirmed.set(chunk, home);
      }),
    );
    checked += page.length;
    for (const [chunk, node] of unconfirmed) {
      missing += 1;
      missingBytes += chunk.bytes;
      example ??= { hash: chunk.hash, node };
    }
  }
}
