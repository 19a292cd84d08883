/** State machines on real databases, and random operations that mostly succeed. */

import type { EncodedEntry, Member } from '../../daemon/protocol/cluster.ts';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import type { ChunkHash, Epoch, Inode, NodeId, Version } from '../../daemon/protocol/ids.ts';
import { ROOT_INODE } from '../../daemon/protocol/ids.ts';
import type { Operation } from '../../daemon/protocol/operations.ts';
import { DIRECTORY, FILE, make, name, TIME, writeOf } from './folder.ts';

export const EPOCH = 256 as Epoch;

export function member(number: number): Member {
  const id = `node-${number}` as NodeId;
  return { id, number, role: 'auto', address: `${id}:7420`, state: 'active', key: `key-${number}` };
}

/** Proposes in the machine's current epoch; answers the entry, or undefined when the operation was refused. */
export async function propose(
  metadata: Metadata,
  operation: Operation,
  payload: ReadonlyMap<ChunkHash, Uint8Array> = new Map(),
  sequence = 0,
): Promise<EncodedEntry | undefined> {
  const machine = metadata.stateMachine;
  const { epoch: last, version } = machine.position();
  const epoch = operation.kind === 'lead' ? operation.epoch : version === 0 ? (1 as Epoch) : last;
  const tag = sequence === 0 ? null : { session: 'test', sequence };
  try {
    const { entry, written } = machine.propose({ epoch, operation, payload, tag });
    await written;
    return entry;
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

export function everything(metadata: Metadata, after = 0): EncodedEntry[] {
  const entries: EncodedEntry[] = [];
  for (let version = after as Version; ; ) {
    const piece = metadata.stateMachine.entriesAfter(version, Number.POSITIVE_INFINITY) ?? [];
    if (piece.length === 0) return entries;
    entries.push(...piece);
    version = piece.at(-1)!.version;
  }
}

/** Makes the machine the leader of a cluster of two: nothing is agreed by itself from here on. */
export async function lead(metadata: Metadata, epoch = EPOCH): Promise<void> {
  await propose(metadata, { kind: 'lead', leader: 'node-0' as NodeId, epoch });
  await propose(metadata, { kind: 'member', member: member(0) });
  await propose(metadata, { kind: 'member', member: member(1) });
}

/** A small generator of numbers in [0, 1), the same for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Random operations over a few directories, names and contents, so that they meet each other. */
export function operationsOf(seed: number): (metadata: Metadata) => {
  operation: Operation;
  payload: ReadonlyMap<ChunkHash, Uint8Array>;
} {
  const random = randomOf(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const inodes: Inode[] = [];
  const directories: Inode[] = [ROOT_INODE];
  const anyName = (): Uint8Array => name(`n${below(40)}`);
  const anyDirectory = (): Inode => (below(2) === 0 ? ROOT_INODE : directories[below(directories.length)]!);
  const anyInode = (): Inode => inodes[below(inodes.length)] ?? (999_999 as Inode);

  return (metadata) => {
    const none = new Map<ChunkHash, Uint8Array>();
    const plain = (operation: Operation) => ({ operation, payload: none });
    switch (below(12)) {
      case 0: {
        const inode = metadata.allocateInode();
        directories.push(inode);
        return plain(make(inode, `n${below(40)}`, DIRECTORY, anyDirectory()));
      }
      case 1:
      case 2:
      case 3: {
        const inode = metadata.allocateInode();
        inodes.push(inode);
        return plain(make(inode, `n${below(40)}`, FILE, anyDirectory()));
      }
      case 4:
        return plain({ kind: 'unlink', parent: anyDirectory(), name: anyName(), time: TIME });
      case 5:
        return plain({
          kind: 'rename',
          from: { parent: anyDirectory(), name: anyName() },
          to: { parent: anyDirectory(), name: anyName() },
          noReplace: false,
          exchange: below(4) === 0,
          time: TIME,
        });
      case 6:
        return plain({ kind: 'rmdir', parent: anyDirectory(), name: anyName(), time: TIME });
      case 7: {
        const hashes = metadata.reads.unreferencedChunks(5).map(({ hash }) => hash);
        return plain({ kind: 'drop-chunks', hashes });
      }
      case 8:
        return plain({ kind: 'reclaim', inodes: metadata.reads.orphans(3), extentsMax: 10 });
      case 9:
        return plain({
          kind: 'attributes',
          inode: anyInode(),
          mode: FILE,
          xattrs: [{ name: name('user.a'), value: below(2) === 0 ? null : name(`v${below(3)}`) }],
          time: TIME,
        });
      default: {
        const data = Buffer.alloc(1 + below(200), `content ${below(20)} `);
        return writeOf(anyInode(), below(10) * 100, data);
      }
    }
  };
}
