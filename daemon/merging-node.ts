/** The merge of a node wired to its chunks, its metadata and the log of the leader. */

import type { ReplicatedChunks } from './chunks/replicated-chunks.ts';
import { type Merging, startMerging } from './merge/merging.ts';
import type { Metadata } from './metadata/metadata.ts';
import type { PeerNetwork } from './peers/peers.ts';
import type { EncodedEntry } from './protocol/cluster.ts';
import type { NodeId, Version } from './protocol/ids.ts';
import { joinEntries } from './protocol/peer-api.ts';
import type { Replication } from './replication/interface.ts';
import type { Clock } from './runtime/clock.ts';
import type { Log } from './runtime/log.ts';

const ENTRIES_WITHIN_MS = 30_000;

/** Answers `entries`, too. */
export function mergingOf(options: {
  readonly self: NodeId;
  readonly dataDirectory: string;
  readonly metadata: Metadata;
  readonly replication: Replication;
  readonly chunks: ReplicatedChunks;
  readonly peers: PeerNetwork;
  leaderId(): NodeId | null;
  readonly clock: Clock;
  readonly log: Log;
}): Merging {
  const { self, metadata, chunks, peers } = options;
  peers.handle('entries', (_from, { after, bytesMax }) => {
    const entries = metadata.stateMachine.entriesAfter(after, bytesMax);
    if (entries === undefined) return Promise.resolve({ answer: { sizes: null } });
    const { sizes, bytes } = joinEntries(entries);
    return Promise.resolve({ answer: { sizes }, bytes });
  });

  async function entriesOfLeader(
    after: Version,
    bytesMax: number,
  ): Promise<readonly EncodedEntry[] | undefined> {
    const leader = options.leaderId();
    if (leader === null || leader === self) return undefined;
    const { answer, bytes } = await peers.call(
      leader,
      'entries',
      { after, bytesMax },
      { timeoutMs: ENTRIES_WITHIN_MS },
    );
    let at = 0;
    return answer.sizes?.map((size, index) => {
      const body = bytes.subarray(at, at + size);
      at += size;
      return { version: (after + 1 + index) as Version, body };
    });
  }

  return startMerging({
    ...options,
    entriesOfLeader,
    chunks: {
      read: (chunk, offset, target) => chunks.read(chunk, offset, target),
      store: (data) => chunks.store(data),
      unpin: (hash) => chunks.unpin(hash),
      small: async (hash) =>
        metadata.unsettled(hash) ?? chunks.readSmall(hash) ?? (await chunks.fetchSmall(hash)),
      keepAll: () => chunks.keepAll(),
    },
  });
}
