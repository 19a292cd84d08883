/**
 * A whole older state in a file of its own, for a merge: the side of a partition that lost (daemon/merge).
 *
 * The copy is that of one version, with an index from inodes to names, and the small chunks that `small.db` did not
 * have yet. Large chunks, and small ones that were settled, stay where they are: whoever keeps a state sees to it that
 * they are not deleted. Nothing else writes to the file.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import { backup, DatabaseSync } from 'node:sqlite';
import type { ChunkHash, Inode, Name } from '../protocol/ids.ts';
import { clusterState } from './cluster-state.ts';
import { openConnection } from './connection.ts';
import { syncDirectory } from './durable-folder.ts';
import { type MetadataReads, metadataReads } from './reads.ts';
import { hashToBytes } from './rows.ts';

export interface Place {
  readonly parent: Inode;
  readonly name: Name;
}

export interface KeptState extends Disposable {
  readonly reads: MetadataReads;
  /** Every name of the inode. */
  names(inode: Inode): Place[];
  /** Every inode that has a name. */
  inodes(): Inode[];
  /** A small chunk that had not been settled. */
  small(hash: ChunkHash): Uint8Array | undefined;
}

/** `waiting`: small chunks that the copy brings itself. Errors: those of the disk; no file is left then. */
export async function keepState(
  databasePath: string,
  file: string,
  waiting: readonly { readonly hash: ChunkHash; readonly data: Uint8Array }[],
): Promise<void> {
  const source = new DatabaseSync(databasePath, { readOnly: true, timeout: 5000 });
  try {
    source.exec('BEGIN');
    source.prepare('SELECT count(*) FROM setting').get();
    await backup(source, file);
  } catch (error) {
    fs.rmSync(file, { force: true });
    throw error;
  } finally {
    source.close();
  }
  const copy = new DatabaseSync(file);
  try {
    copy.exec(`PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; BEGIN;
      CREATE INDEX kept_names ON dentry (inode);
      CREATE TABLE kept_small (hash BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT, WITHOUT ROWID;`);
    const insert = copy.prepare('INSERT OR IGNORE INTO kept_small VALUES (?, ?)');
    for (const { hash, data } of waiting) insert.run(hashToBytes(hash), data);
    copy.exec('COMMIT');
  } finally {
    copy.close();
  }
  syncDirectory(path.dirname(file));
}

/** Errors: METADATA_MISSING, METADATA_DAMAGED. */
export function openKeptState(file: string): KeptState {
  const connection = openConnection(file, false);
  const names = connection.query('SELECT parent, name FROM dentry WHERE inode = ?');
  const inodes = connection.query('SELECT DISTINCT inode FROM dentry');
  const small = connection.query('SELECT data FROM kept_small WHERE hash = ?');
  return {
    reads: metadataReads(connection, clusterState(connection)),
    names: (inode) =>
      names.all(inode).map((row) => ({ parent: row[0] as Inode, name: row[1] as Uint8Array })),
    inodes: () => inodes.all().map((row) => row[0] as Inode),
    small: (hash) => small.get(hashToBytes(hash))?.[0] as Uint8Array | undefined,
    [Symbol.dispose]: () => connection.close(),
  };
}
