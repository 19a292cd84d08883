/**
 * Which files use some chunks, for a person to read. There is no index for this, because no request needs it: the
 * extents are scanned once and the names once, however many chunks are asked for. Runs in a worker.
 */

import type { DatabaseSync } from 'node:sqlite';
import type { ChunkHash } from '../protocol/ids.ts';
import { hashFromBytes, query } from './rows.ts';

/** Chunks that are asked for at once. */
export const CHUNK_FILES_MAX = 1000;
/** Paths that are named for one chunk. */
const PATHS_MAX = 3;
const DEPTH_MAX = 1000;

export interface ChunkFiles {
  readonly hash: ChunkHash;
  readonly bytes: number;
  /** How many files use it, those that were removed and wait to be freed left out. */
  readonly files: number;
  /** Paths of some of them; bytes that are no UTF-8 are replaced. */
  readonly paths: readonly string[];
}

/** In the order of `hashes`; chunks that are not there any more are left out. */
export function filesOfChunks(database: DatabaseSync, hashes: readonly ChunkHash[]): ChunkFiles[] {
  const known = query(
    database,
    'SELECT chunk, hash, bytes FROM chunk WHERE hash IN (SELECT unhex(value) FROM json_each(?))',
  ).all(JSON.stringify(hashes));
  const users = new Map<number, number[]>(known.map((row) => [row[0] as number, []]));
  const found = query(
    database,
    `SELECT DISTINCT chunk, inode FROM extent WHERE chunk IN (SELECT value FROM json_each(?))
     AND inode NOT IN (SELECT inode FROM orphan) ORDER BY chunk, inode`,
  ).all(JSON.stringify([...users.keys()]));
  for (const row of found) users.get(row[0] as number)?.push(row[1] as number);

  const named = new Set([...users.values()].flatMap((inodes) => inodes.slice(0, PATHS_MAX)));
  const paths = pathsOf(database, [...named]);
  const byHash = new Map<ChunkHash, ChunkFiles>();
  for (const row of known) {
    const hash = hashFromBytes(row[1] as Uint8Array);
    const inodes = users.get(row[0] as number) ?? [];
    byHash.set(hash, {
      hash,
      bytes: row[2] as number,
      files: inodes.length,
      paths: inodes.slice(0, PATHS_MAX).map((inode) => paths.get(inode) ?? `inode ${inode} (no name)`),
    });
  }
  return hashes.map((hash) => byHash.get(hash)).filter((files) => files !== undefined);
}

/** One path of each inode that has one. */
function pathsOf(database: DatabaseSync, inodes: readonly number[]): Map<number, string> {
  const entries = query(
    database,
    'SELECT inode, parent, name FROM dentry WHERE inode IN (SELECT value FROM json_each(?))',
  ).all(JSON.stringify(inodes));
  const parentOf = query(database, 'SELECT parent FROM inode WHERE inode = ?');
  const nameOf = query(database, 'SELECT name FROM dentry WHERE parent = ? AND inode = ?');
  const directories = new Map<number, string>([[1, '']]);

  function directory(inode: number, depth: number): string {
    const known = directories.get(inode);
    if (known !== undefined) return known;
    const parent = parentOf.get(inode)?.[0] as number | undefined;
    const name = parent === undefined ? undefined : nameOf.get(parent, inode)?.[0];
    if (parent === undefined || name === undefined || depth >= DEPTH_MAX) return `(directory ${inode})`;
    const path = `${directory(parent, depth + 1)}/${text(name)}`;
    directories.set(inode, path);
    return path;
  }

  const paths = new Map<number, string>();
  for (const row of entries) {
    const inode = row[0] as number;
    if (!paths.has(inode)) paths.set(inode, `${directory(row[1] as number, 0)}/${text(row[2])}`);
  }
  return paths;
}

function text(name: unknown): string {
  return Buffer.from(name as Uint8Array).toString('utf8');
}
