/**
 * Two sides of a partition for tests of the merge: two real metadata states that went apart from one base by random
 * changes, and what is needed to merge the first into the second.
 */

import { join } from 'node:path';
import { type MergeResult, merge } from '../../daemon/merge/merge.ts';
import { noteTouched, nothingTouched, type Touched } from '../../daemon/merge/touched.ts';
import { decodeEntry } from '../../daemon/metadata/entry-codec.ts';
import { openKeptState } from '../../daemon/metadata/kept-state.ts';
import type { Metadata } from '../../daemon/metadata/metadata.ts';
import type { MetadataReads } from '../../daemon/metadata/reads.ts';
import {
  type ChunkHash,
  type Epoch,
  FILE_BYTES_MAX,
  type Inode,
  type Name,
  type NodeId,
  ROOT_INODE,
} from '../../daemon/protocol/ids.ts';
import type { Operation } from '../../daemon/protocol/operations.ts';
import { DIRECTORY, FILE, type Folder, make, name, openFolder, TIME, writeOf } from '../metadata/folder.ts';
import { EPOCH, everything, lead, propose } from '../metadata/machines.ts';

export interface Found {
  readonly parent: Inode;
  readonly name: Name;
  readonly inode: Inode;
  readonly isDirectory: boolean;
}

export interface Sides extends AsyncDisposable {
  readonly losing: Metadata;
  readonly staying: Metadata;
  readonly folder: Folder;
  /** Applies to both. Only before `part`. */
  base(change: Change): Promise<void>;
  part(): Promise<void>;
  /** On one side; a refusal is no error. */
  change(side: Metadata, change: Change): Promise<void>;
  touched(side: Metadata): Touched;
  /** Content of a file: each write brings a chunk of its own. */
  content(reads: MetadataReads, inode: Inode): string;
  /** `proposalsMax`: the process dies there. `knows`: what each side touched is known. */
  merge(options?: { proposalsMax?: number; knows?: boolean }): Promise<MergeResult>;
}

export type Change = readonly { operation: Operation; payload?: Map<ChunkHash, Uint8Array> }[];

const CONTENT_BYTES = 64;

export function written(inode: Inode, text: string) {
  return writeOf(inode, 0, Buffer.from(text.padEnd(CONTENT_BYTES)));
}

export function newFile(inode: Inode, at: string, text: string, parent: Inode = ROOT_INODE): Change {
  return [{ operation: make(inode, at, FILE, parent) }, written(inode, text)];
}

export function newDirectory(inode: Inode, at: string, parent: Inode = ROOT_INODE): Change {
  return [{ operation: make(inode, at, DIRECTORY, parent) }];
}

export function renamed(from: Found | { parent: Inode; name: Name }, parent: Inode, to: Name): Change {
  const time = TIME;
  return [
    {
      operation: {
        ...{ kind: 'rename', from: { parent: from.parent, name: from.name }, to: { parent, name: to } },
        ...{ noReplace: false, exchange: false, time },
      },
    },
  ];
}

/** Everything that has a name. */
export function walk(reads: MetadataReads, parent: Inode = ROOT_INODE): Found[] {
  return reads.list(parent, 0, 10_000).flatMap(({ name, inode, type }) => {
    const found = { parent, name: Buffer.from(name), inode, isDirectory: type === (DIRECTORY & 0o170000) };
    return found.isDirectory ? [found, ...walk(reads, inode)] : [found];
  });
}

export async function openSides(): Promise<Sides> {
  const folders = [openFolder(), openFolder()] as const;
  const losing = folders[0].open({ memberNumber: 0 });
  const staying = folders[1].open({ memberNumber: 1 });
  const bytes = new Map<ChunkHash, Uint8Array>();
  const done = new Set<string>();
  let common = 0;
  let merges = 0;
  await lead(losing);

  async function change(side: Metadata, changes: Change): Promise<void> {
    for (const { operation, payload = new Map<ChunkHash, Uint8Array>() } of changes) {
      for (const [hash, data] of payload) bytes.set(hash, data);
      await propose(side, operation, payload);
    }
  }

  function touched(side: Metadata): Touched {
    const found = nothingTouched();
    for (const { body } of everything(side, common)) {
      const { operation, tag } = decodeEntry(body);
      if (tag === null) noteTouched(found, operation);
    }
    return found;
  }

  return {
    losing,
    staying,
    folder: folders[1],
    base: (changes) => change(losing, changes),
    async part() {
      common = losing.stateMachine.position().version;
      await staying.stateMachine.append(everything(losing));
      const epoch = (EPOCH + 257) as Epoch;
      await propose(staying, { kind: 'lead', leader: 'node-1' as NodeId, epoch });
    },
    change: (side, changes) => change(side, changes),
    touched,
    content(reads, inode) {
      return reads
        .extents(inode, 0, FILE_BYTES_MAX)
        .map(({ hash }) =>
          Buffer.from(bytes.get(hash) ?? [])
            .toString()
            .trimEnd(),
        )
        .join();
    },
    async merge({ proposalsMax = Number.POSITIVE_INFINITY, knows = true } = {}) {
      const file = join(folders[0].directory, `kept-${++merges}.db`);
      await losing.keepState(file);
      using kept = openKeptState(file);
      let proposals = 0;
      return await merge({
        node: 'node-0' as NodeId,
        label: 'node-0 today',
        losing: kept,
        reads: staying.reads,
        here: knows ? touched(losing) : undefined,
        there: knows ? touched(staying) : undefined,
        chunks: {
          read: () => Promise.reject(new Error('there are no large chunks here')),
          store: () => Promise.reject(new Error('there are no large chunks here')),
          unpin: () => {},
          small: (hash) => Promise.resolve(bytes.get(hash) ?? Buffer.alloc(0)),
        },
        async propose(operation, payload = new Map()) {
          if (++proposals > proposalsMax) throw new Error('the process died');
          const { epoch } = staying.stateMachine.position();
          const tag = { session: 'merge', sequence: proposals };
          const { outcome, written } = staying.stateMachine.propose({ epoch, operation, payload, tag });
          await written;
          return outcome;
        },
        allocateInode: () => staying.allocateInode(),
        now: () => TIME,
        isDone: (step) => done.has(step),
        done: (step) => void done.add(step),
        warn: () => {},
      });
    },
    async [Symbol.asyncDispose]() {
      await losing.close();
      await staying.close();
      for (const folder of folders) folder[Symbol.dispose]();
    },
  };
}

/** One random change as a person would make it, on the state as it is. */
export function randomChange(side: Metadata, random: () => number, text: string): Change {
  const below = (limit: number) => Math.floor(random() * limit);
  const all = walk(side.reads);
  const files = all.filter(({ isDirectory }) => !isDirectory);
  const directories = all.filter(({ isDirectory }) => isDirectory);
  const file = files[below(files.length)];
  const directory = directories[below(directories.length)];
  const anywhere = below(3) === 0 ? ROOT_INODE : (directory?.inode ?? ROOT_INODE);
  const anyName = `n${below(12)}${['', '.txt', '.d'][below(3)]}`;
  const time = TIME;
  switch (below(11)) {
    case 0:
      return newDirectory(side.allocateInode(), anyName, anywhere);
    case 1:
    case 2:
      return newFile(side.allocateInode(), anyName, text, anywhere);
    case 3:
    case 4:
      return file === undefined ? [] : [written(file.inode, text)];
    case 5:
      return file === undefined
        ? []
        : [{ operation: { kind: 'unlink', parent: file.parent, name: file.name, time } }];
    case 6:
      return file === undefined ? [] : renamed(file, anywhere, name(anyName));
    case 7:
      return directory === undefined ? [] : renamed(directory, anywhere, name(anyName));
    case 8:
      return directory === undefined
        ? []
        : [{ operation: { kind: 'rmdir', parent: directory.parent, name: directory.name, time } }];
    case 9: {
      if (file === undefined) return [];
      // As editors save: a new file beside it, renamed over it.
      const inode = side.allocateInode();
      const temporary = { parent: file.parent, name: name('.saving') };
      return [...newFile(inode, '.saving', text, file.parent), ...renamed(temporary, file.parent, file.name)];
    }
    default: {
      if (file === undefined) return [];
      const { inode } = file;
      return [{ operation: { kind: 'link', inode, parent: anywhere, name: name(anyName), time } }];
    }
  }
}
