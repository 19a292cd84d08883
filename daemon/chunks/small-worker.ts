/**
 * The thread that writes small.db, on a connection of its own: a commit with `synchronous=FULL` waits for the
 * disk, and so does a checkpoint, which SQLite runs after the commit that filled the WAL. The event loop only
 * reads.
 *
 * Block checksums are written with `synchronous=NORMAL`, which waits for no disk: a lost table costs one check of
 * its chunk. The WAL keeps the order, so the next settlement's fsync takes them along.
 */

import { hash as digest } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import { workerData } from 'node:worker_threads';
import { serveJobs } from '../runtime/worker-pool.ts';
import { HASH_BYTES, type SmallJobs } from './small-jobs.ts';
import { asSystemError } from './small-db.ts';

const { path } = workerData as { path: string };
const database = new DatabaseSync(path);
database.exec('PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -4096');
const select = database.prepare('SELECT data FROM small_chunk WHERE hash = ?');
const insert = database.prepare('INSERT OR IGNORE INTO small_chunk (hash, data) VALUES (?, ?)');
const update = database.prepare('UPDATE small_chunk SET data = ? WHERE hash = ?');
const remove = database.prepare('DELETE FROM small_chunk WHERE hash = ?');
const putSums = database.prepare('INSERT OR REPLACE INTO block_sums (hash, size, sums) VALUES (?, ?, ?)');
const removeSums = database.prepare('DELETE FROM block_sums WHERE hash = ?');

serveJobs<SmallJobs>({
  settle: ({ hashes, lengths, data }) => {
    const refused: number[] = [];
    transaction('FULL', () => {
      let offset = 0;
      for (const [index, length] of lengths.entries()) {
        const bytes = data.subarray(offset, offset + length);
        offset += length;
        if (!settleOne(hashAt(hashes, index), bytes)) refused.push(index);
      }
    });
    return { refused };
  },
  remove: ({ hashes }) => {
    // A transaction that changes nothing writes nothing: only rows that were there cost an fsync.
    transaction('FULL', () => {
      for (let index = 0; index * HASH_BYTES < hashes.length; index += 1) remove.run(hashAt(hashes, index));
    });
    transaction('NORMAL', () => {
      for (let index = 0; index * HASH_BYTES < hashes.length; index += 1)
        removeSums.run(hashAt(hashes, index));
    });
    return undefined;
  },
  keepSums: ({ hashes, sizes, lengths, sums }) => {
    transaction('NORMAL', () => {
      let first = 0;
      for (const [index, length] of lengths.entries()) {
        const own = sums.subarray(first, first + length);
        first += length;
        const bytes = new Uint8Array(own.buffer, own.byteOffset, own.byteLength);
        putSums.run(hashAt(hashes, index), sizes[index] ?? 0, bytes);
      }
    });
    return undefined;
  },
  close: () => {
    database.close();
    return undefined;
  },
});

function settleOne(hash: Uint8Array, data: Uint8Array): boolean {
  if (!digest('sha256', data, 'buffer').equals(hash)) return false;
  if (insert.run(hash, data).changes > 0) return true;
  const present = select.get(hash)?.['data'];
  if (!(present instanceof Uint8Array) || Buffer.compare(present, data) !== 0) update.run(data, hash);
  return true;
}

function hashAt(hashes: Uint8Array, index: number): Uint8Array {
  return hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
}

let synchronous = 'FULL';

function transaction(durability: 'FULL' | 'NORMAL', work: () => void): void {
  try {
    if (synchronous !== durability) {
      database.exec(`PRAGMA synchronous = ${durability}`);
      synchronous = durability;
    }
    database.exec('BEGIN IMMEDIATE');
    work();
    database.exec('COMMIT');
  } catch (error) {
    if (database.isTransaction) database.exec('ROLLBACK');
    throw asSystemError(error);
  }
}
