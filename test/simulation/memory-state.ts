/**
 * A small state machine in memory, with a disk that outlives its process: the protocol is tried on it thousands of
 * times. Names and what was written to them, members, settings, leaderships. Its log is kept short on purpose, so that
 * copies are needed, and its "database file" follows at some distance, so that taking back is sometimes impossible.
 */

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { Packr } from 'msgpackr';
import type {
  ClusterSettings,
  EncodedEntry,
  EpochStart,
  LogPosition,
  Member,
  OperationTag,
} from '../../daemon/protocol/cluster.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import type { ChunkHash, Epoch, Version } from '../../daemon/protocol/ids.ts';
import type { Operation } from '../../daemon/protocol/operations.ts';
import type { Applied, Rewound, StateMachine } from '../../daemon/replication/state-machine.ts';

const CHECKPOINT_ENTRIES = 16;
const KEPT_ENTRIES = 48;

interface Content {
  position: LogPosition;
  files: Record<string, string[]>;
  byInode: Record<number, string>;
  members: Member[];
  settings: ClusterSettings;
  epochs: EpochStart[];
}

interface Decoded {
  readonly epoch: Epoch;
  readonly operation: Operation;
  readonly payload: [ChunkHash, Uint8Array][];
  readonly tag: OperationTag | null;
}

export interface Disk {
  /** The database file: the state at some version, all of it durable. */
  base: Buffer;
  /** The log behind and around it, in order; up to `durable` it survives a power cut. */
  log: EncodedEntry[];
  durable: number;
  readonly directory: string;
  files: number;
}

const packr = new Packr({ useRecords: false, moreTypes: true });

export function emptyDisk(directory: string, members: readonly Member[], settings: ClusterSettings): Disk {
  const content: Content = {
    position: { epoch: 0 as Epoch, version: 0 as Version },
    files: {},
    byInode: {},
    members: [...members],
    settings,
    epochs: [],
  };
  return { base: packr.pack(content), log: [], durable: 0, directory, files: 0 };
}

/** The power is cut: what was not durable is gone. */
export function losePower(disk: Disk): void {
  disk.log = disk.log.filter(({ version }) => version <= disk.durable);
}

export interface MemoryState extends StateMachine {
  dump(): string;
}

/** `sync` makes a sync take simulated time. */
export function openMemoryState(disk: Disk, sync: () => Promise<void>): MemoryState {
  let content = packr.unpack(disk.base) as Content;
  const applyListeners = new Set<(applied: Applied) => void>();
  const rewindListeners = new Set<(change: Rewound) => void>();
  let committed = content.position.version as number;

  function refuse(operation: Operation): void {
    const { files } = content;
    switch (operation.kind) {
      case 'make':
        if (operation.entry !== null && nameOf(operation.entry.name) in files) throw new FsError('EEXIST');
        break;
      case 'unlink':
        if (!(nameOf(operation.name) in files)) throw new FsError('ENOENT');
        break;
      case 'rename':
        if (!(nameOf(operation.from.name) in files)) throw new FsError('ENOENT');
        if (operation.noReplace && nameOf(operation.to.name) in files) throw new FsError('EEXIST');
        break;
      case 'write':
        if (!(operation.inode in content.byInode)) throw new FsError('ENOENT');
        break;
      default:
    }
  }

  function change(operation: Operation, version: Version, epoch: Epoch): void {
    const { files, byInode } = content;
    switch (operation.kind) {
      case 'make': {
        const name = nameOf(operation.entry!.name);
        files[name] = [String(operation.inode)];
        byInode[operation.inode] = name;
        break;
      }
      case 'unlink': {
        const name = nameOf(operation.name);
        delete byInode[Number(files[name]![0])];
        delete files[name];
        break;
      }
      case 'rename': {
        const from = nameOf(operation.from.name);
        const to = nameOf(operation.to.name);
        if (from === to) break;
        if (to in files) delete byInode[Number(files[to]![0])];
        files[to] = files[from]!;
        byInode[Number(files[to][0])] = to;
        delete files[from];
        break;
      }
      case 'write':
        files[byInode[operation.inode]!]!.push(operation.extents[0]?.hash ?? '');
        break;
      case 'lead':
        content.epochs = [...content.epochs, { epoch: operation.epoch, first: version }];
        break;
      case 'member':
        content.members = [
          ...content.members.filter(({ id }) => id !== operation.member.id),
          operation.member,
        ];
        break;
      case 'settings':
        content.settings = { ...content.settings, ...operation.settings };
        break;
      default:
    }
    content.position = { epoch, version };
  }

  function apply(decoded: Decoded, version: Version): Applied {
    refuse(decoded.operation);
    change(decoded.operation, version, decoded.epoch);
    return {
      epoch: decoded.epoch,
      operation: decoded.operation,
      payload: new Map(decoded.payload),
      tag: decoded.tag,
      version,
      outcome: {},
    };
  }

  function tell(applied: Applied): void {
    for (const listener of applyListeners) listener(applied);
  }

  function replay(): void {
    for (const { version, body } of disk.log) {
      if (version > content.position.version) apply(packr.unpack(body) as Decoded, version);
    }
  }
  replay();

  function checkpoint(): void {
    const limit = Math.min(committed, disk.durable);
    const base = packr.unpack(disk.base) as Content;
    if (limit - base.position.version < CHECKPOINT_ENTRIES) return;
    const now = content;
    content = base;
    for (const { version, body } of disk.log) {
      if (version > base.position.version && version <= limit) apply(packr.unpack(body) as Decoded, version);
    }
    disk.base = packr.pack(content);
    content = now;
    disk.log = disk.log.filter(({ version }) => version > limit - KEPT_ENTRIES);
  }

  return {
    position: () => content.position,
    epochs: () => content.epochs,
    members: () => content.members,
    settings: () => content.settings,
    durableVersion: () => disk.durable as Version,
    propose({ epoch, operation, payload, tag }) {
      const version = (content.position.version + 1) as Version;
      const decoded: Decoded = { epoch, operation, payload: [...payload], tag };
      const applied = apply(decoded, version);
      const entry = { version, body: packr.pack(decoded) };
      disk.log.push(entry);
      tell(applied);
      return { entry, outcome: {}, written: Promise.resolve() };
    },
    append(entries) {
      for (const { version, body } of entries) {
        if (version !== content.position.version + 1) throw new Error(`entry ${version} does not follow`);
        const copy = Buffer.from(body);
        const applied = apply(packr.unpack(copy) as Decoded, version);
        disk.log.push({ version, body: copy });
        tell(applied);
      }
      return Promise.resolve();
    },
    entriesAfter(version, bytesMax) {
      const oldest = disk.log[0]?.version ?? content.position.version + 1;
      if (version + 1 < oldest) return undefined;
      const found: EncodedEntry[] = [];
      let bytes = 0;
      for (const entry of disk.log) {
        if (entry.version <= version) continue;
        if (bytes >= bytesMax && found.length > 0) break;
        bytes += entry.body.length;
        found.push(entry);
      }
      return found;
    },
    setCommitted(version) {
      committed = version;
      checkpoint();
    },
    async barrier() {
      const { version, epoch } = content.position;
      await sync();
      if (content.position.version >= version && content.position.epoch >= epoch) {
        disk.durable = Math.max(disk.durable, version);
      }
      checkpoint();
    },
    async takeBack(version) {
      await sync();
      const base = packr.unpack(disk.base) as Content;
      if (base.position.version > version) return undefined;
      const taken: Applied[] = disk.log
        .filter((entry) => entry.version > version)
        .map((entry) => {
          const { payload, ...rest } = packr.unpack(entry.body) as Decoded;
          return { ...rest, payload: new Map(payload), version: entry.version, outcome: {} };
        });
      disk.log = disk.log.filter((entry) => entry.version <= version);
      disk.durable = Math.min(disk.durable, version);
      committed = Math.min(committed, version);
      content = base;
      replay();
      for (const listener of rewindListeners) listener({ kind: 'taken-back', entries: taken });
      return taken;
    },
    async snapshot() {
      await sync();
      const file = path.join(disk.directory, `copy-${++disk.files}`);
      const bytes = packr.pack(content);
      writeFileSync(file, bytes);
      return {
        position: content.position,
        path: file,
        size: bytes.length,
        release() {
          rmSync(file, { force: true });
          return Promise.resolve();
        },
      };
    },
    async restore(file, position) {
      await sync();
      disk.base = readFileSync(file);
      rmSync(file);
      disk.log = [];
      disk.durable = position.version;
      committed = position.version;
      content = packr.unpack(disk.base) as Content;
      for (const listener of rewindListeners) listener({ kind: 'restored', position });
    },
    onApplied(listener) {
      applyListeners.add(listener);
      return () => applyListeners.delete(listener);
    },
    onRewound(listener) {
      rewindListeners.add(listener);
      return () => rewindListeners.delete(listener);
    },
    encodeProposal: (operation, payload) => packr.pack([operation, [...payload]]),
    decodeProposal(bytes) {
      const [operation, payload] = packr.unpack(bytes) as [Operation, [ChunkHash, Uint8Array][]];
      return { operation, payload: new Map(payload) };
    },
    dump: () =>
      JSON.stringify({
        ...content,
        files: Object.entries(content.files).sort(([a], [b]) => (a < b ? -1 : 1)),
      }),
  };
}

function nameOf(name: Uint8Array): string {
  return Buffer.from(name).toString();
}
