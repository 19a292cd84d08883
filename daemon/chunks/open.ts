/**
 * Opens the chunk store of a data directory, or says what is in the way.
 *
 * Making a store: small.db first, then `chunks/`. So `chunks/` without small.db is never an unfinished store
 * but one that lost its database, and is refused: opening an empty one instead would turn every small file
 * into holes without a word. An unreadable
 * small.db without `chunks/` is an unfinished one, which is made anew.
 *
 * Opening clears `tmp/` (chunks that were being written when the daemon ended; nothing refers to them) and
 * syncs the directories, so that what an earlier daemon left in memory is durable before it is trusted.
 */

import * as fs from 'node:fs';
import { join } from 'node:path';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { ChunkHash } from '../protocol/ids.ts';
import type { ChunkStore } from './interface.ts';
import { type Layout, layoutOf, SMALL_DB } from './layout.ts';
import { createSmallDb, openSmallDb } from './small-db.ts';
import { startChunkStore } from './store.ts';

export interface ChunkDamage {
  readonly hash: ChunkHash;
  readonly reason: string;
}

export interface ChunkStoreOptions {
  /** The data directory; it exists. */
  readonly directory: string;
  readonly log: Log;
  readonly clock: Clock;
  /** Called for each chunk found missing or damaged, after its file was set aside. */
  readonly onDamage?: (damage: ChunkDamage) => void;
  /** A read of a chunk file that is not there is damage. Default: true; false where other nodes may have it. */
  readonly missingIsDamage?: boolean;
  /** Make what is not there yet. Default: false. */
  readonly create?: boolean;
  /** Move a small.db that cannot be read to quarantine/ and go on with an empty one. Default: false. */
  readonly rebuildSmallDb?: boolean;
}

/**
 * Errors: WarrenError CHUNK_STORE_MISSING, SMALL_DB_MISSING, SMALL_DB_DAMAGED, SMALL_DB_NEWER,
 * DATA_DIRECTORY_MISSING, DATA_DIRECTORY_READ_ONLY, DATA_DIRECTORY_NOT_WRITABLE, DATA_DIRECTORY_UNUSABLE.
 */
export async function openChunkStore(options: ChunkStoreOptions): Promise<ChunkStore> {
  const layout = layoutOf(options.directory);
  try {
    makeLayout(layout, options);
    clearTemporary(layout);
    return startChunkStore({
      layout,
      database: openSmallDb(layout.smallDb),
      log: options.log.room('chunks'),
      clock: options.clock,
      onDamage: options.onDamage ?? (() => undefined),
      missingIsDamage: options.missingIsDamage ?? true,
    });
  } catch (error) {
    throw asOpenError(error, layout.directory);
  }
}

function makeLayout(layout: Layout, options: ChunkStoreOptions): void {
  const hasChunks = fs.existsSync(layout.chunks);
  if (!hasChunks && options.create !== true) {
    throw new WarrenError({
      code: 'CHUNK_STORE_MISSING',
      message: `There is no chunk store in ${layout.directory}: ${layout.chunks} does not exist`,
      hint: 'check the data directory in the configuration (is its disk mounted?), or make one with `warren init -d DIR`',
    });
  }
  fs.mkdirSync(layout.temporary, { recursive: true, mode: 0o700 });
  fs.mkdirSync(layout.quarantine, { recursive: true, mode: 0o700 });
  probe(layout);
  if (!hasChunks) finishSmallDb(layout);
  if (options.rebuildSmallDb === true) rebuildSmallDb(layout);
  // All 256 first directories at once: 3 ms here, and one directory less to make durable for each new shard.
  for (let first = 0; first < 256; first += 1) {
    fs.mkdirSync(join(layout.chunks, first.toString(16).padStart(2, '0')), { recursive: true, mode: 0o700 });
  }
  for (const directory of [layout.chunks, layout.directory]) syncDirectory(directory);
}

/** Finds a directory that cannot be written now, rather than at the first write. A full disk may start. */
function probe(layout: Layout): void {
  const path = join(layout.temporary, 'probe');
  try {
    fs.writeFileSync(path, '');
    fs.rmSync(path);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error;
  }
}

/** Makes small.db, also where a power cut ended its making; `chunks/` is not there, so nothing refers to it yet. */
function finishSmallDb(layout: Layout): void {
  try {
    openSmallDb(layout.smallDb).close();
    return;
  } catch (error) {
    if (!(error instanceof WarrenError) || error.code === 'SMALL_DB_NEWER') throw error;
  }
  for (const ending of ['', '-wal', '-shm', '-journal'])
    fs.rmSync(`${layout.smallDb}${ending}`, { force: true });
  createSmallDb(layout.smallDb);
  syncDirectory(layout.directory);
}

function rebuildSmallDb(layout: Layout): void {
  try {
    openSmallDb(layout.smallDb).close();
    return;
  } catch (error) {
    if (!(error instanceof WarrenError) || error.code === 'SMALL_DB_NEWER') throw error;
  }
  let version = 1;
  while (fs.existsSync(join(layout.quarantine, `${SMALL_DB}.${version}`))) version += 1;
  // The WAL belongs to its database: a new one must never see the old one's.
  for (const ending of ['', '-wal', '-shm']) {
    const from = `${layout.smallDb}${ending}`;
    if (fs.existsSync(from)) fs.renameSync(from, join(layout.quarantine, `${SMALL_DB}.${version}${ending}`));
  }
  createSmallDb(layout.smallDb);
}

function clearTemporary(layout: Layout): void {
  for (const name of fs.readdirSync(layout.temporary)) fs.rmSync(join(layout.temporary, name));
}

function syncDirectory(path: string): void {
  const descriptor = fs.openSync(path, 'r');
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

function asOpenError(error: unknown, directory: string): unknown {
  const code = systemErrorCode(error);
  if (error instanceof WarrenError || code === undefined) return error;
  const reason = error instanceof Error ? error.message : String(error);
  switch (code) {
    case 'EROFS':
      return new WarrenError({
        code: 'DATA_DIRECTORY_READ_ONLY',
        message: `The disk of ${directory} is mounted read-only (${reason})`,
        hint: 'a disk turns read-only after an error: see `dmesg`, check it with fsck, then mount it writable again',
        cause: error,
      });
    case 'EACCES':
    case 'EPERM':
      return new WarrenError({
        code: 'DATA_DIRECTORY_NOT_WRITABLE',
        message: `Warren may not write in ${directory} (${reason})`,
        hint: `give the directory to the user that runs warrend: chown -R USER ${directory}`,
        cause: error,
      });
    case 'ENOENT':
      return new WarrenError({
        code: 'DATA_DIRECTORY_MISSING',
        message: `The data directory ${directory} does not exist (${reason})`,
        hint: 'check the path in the configuration (is its disk mounted?), or make one with `warren init -d DIR`',
        cause: error,
      });
    default:
      return new WarrenError({
        code: 'DATA_DIRECTORY_UNUSABLE',
        message: `The data directory ${directory} cannot be used (${reason})`,
        hint: 'correct what the message names, then start again; nothing was changed',
        cause: error,
      });
  }
}
