/** Metadata in a temporary folder, and operations with the fields that a test does not care about filled in. */

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { checkMetadata } from '../../daemon/metadata/check.ts';
import { type Metadata, type MetadataOptions, openMetadata } from '../../daemon/metadata/metadata.ts';
import type { Finding } from '../../daemon/protocol/control-api.ts';
import { type ChunkHash, type Inode, ROOT_INODE, type Timestamp } from '../../daemon/protocol/ids.ts';
import type { NewExtent, Operation } from '../../daemon/protocol/operations.ts';
import type { Log } from '../../daemon/runtime/log.ts';

export const TIME: Timestamp = { seconds: 1000, nanoseconds: 5 };
export const DIRECTORY = 0o040755;
export const FILE = 0o100644;

export function silentLog(lines: string[] = []): Log {
  const log: Log = {
    debug: () => undefined,
    info: () => undefined,
    warn: (message) => void lines.push(message),
    error: (message) => void lines.push(message),
    room: () => log,
  };
  return log;
}

export interface Folder extends Disposable {
  readonly directory: string;
  readonly database: string;
  readonly lines: string[];
  open(options?: Partial<MetadataOptions>): Metadata;
}

export function openFolder(): Folder {
  const directory = mkdtempSync(join(tmpdir(), 'warren-metadata-'));
  const lines: string[] = [];
  return {
    directory,
    database: join(directory, 'meta.db'),
    lines,
    open: (options = {}) => openMetadata({ directory, create: true, log: silentLog(lines), ...options }),
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  };
}

export function name(text: string): Uint8Array {
  return Buffer.from(text);
}

export function make(inode: Inode, text: string, mode = FILE, parent: Inode = ROOT_INODE): Operation {
  return {
    kind: 'make',
    inode,
    entry: { parent, name: name(text) },
    mode,
    uid: 0,
    gid: 0,
    rdev: 0,
    target: null,
    xattrs: [],
    time: TIME,
  };
}

export async function makeFile(metadata: Metadata, text: string, parent?: Inode): Promise<Inode> {
  const inode = metadata.allocateInode();
  await metadata.propose(make(inode, text, FILE, parent));
  return inode;
}

export async function makeDirectory(metadata: Metadata, text: string, parent?: Inode): Promise<Inode> {
  const inode = metadata.allocateInode();
  await metadata.propose(make(inode, text, DIRECTORY, parent));
  return inode;
}

export function chunkOf(data: Uint8Array): ChunkHash {
  return createHash('sha256').update(data).digest('hex') as ChunkHash;
}

/** The `write` operation for small data and the payload that goes with it. */
export function writeOf(
  inode: Inode,
  offset: number,
  data: Uint8Array,
): { operation: Operation; payload: Map<ChunkHash, Uint8Array> } {
  const hash = chunkOf(data);
  const extent: NewExtent = {
    offset,
    length: data.length,
    hash,
    chunkBytes: data.length,
    chunkOffset: 0,
  };
  return {
    operation: { kind: 'write', inode, extents: [extent], sizeAtLeast: offset + data.length, time: TIME },
    payload: new Map([[hash, data]]),
  };
}

/** Every rule over what is committed now; the metadata may be open. */
export function findings(database: string, { repair = false } = {}): Finding[] {
  const connection = new DatabaseSync(database, { readOnly: !repair });
  try {
    connection.exec('PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0');
    return [...checkMetadata(connection, { repair })];
  } finally {
    connection.close();
  }
}
