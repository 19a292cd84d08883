/**
 * The schema of `meta.db` and the chain of migrations.
 *
 * Keys are inodes; a path exists nowhere here. `dentry.cookie` is the place of an entry in listings: it is the
 * version of the operation that made the entry, so it never moves and never comes back. A file's bytes are the
 * rows of `extent`; extents of a file never overlap and never cross a slot (a multiple of CHUNK_BYTES_MAX).
 * `chunk.refs` is the number of extents that name the chunk. `inode.stored` is the sum of the lengths of the
 * file's extents. `inode.parent` is the `..` of a directory and 0 for everything else.
 *
 * `setting` says which state this is: `version` is the last operation that is in it, `settled` the last one
 * whose small chunks are all in `small.db` (the only thing here that differs between nodes), `inodes`, `stored` and
 * `allocated` are running totals. `next_inode` is where the numbers of format 1 ended (inode-numbers.ts).
 * `allocation` holds the ranges that fallocate set aside and that have no content yet.
 *
 * `member`, `epoch` (each leadership with its first operation) and `cluster_setting` (values in JSON) are empty on a
 * node that never was in a cluster. `epoch` does not list the operations before the first leadership: epoch 1.
 *
 * `conflict` lists what two sides of a partition changed differently, by the version that added it.
 *
 * The root directory has mode 16877 (040755).
 *
 * `user_version` is the format version. A newer one is refused; an older one is migrated, one step each.
 */

import type { DatabaseSync } from 'node:sqlite';
import { WarrenError } from '../protocol/errors.ts';

/** Each entry brings a database from version `index` to `index + 1`, inside one transaction. */
const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE inode (
    inode INTEGER PRIMARY KEY,
    mode INTEGER NOT NULL,
    links INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    rdev INTEGER NOT NULL,
    size INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    atime_s INTEGER NOT NULL, atime_ns INTEGER NOT NULL,
    mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    target BLOB
  ) STRICT;
  CREATE TABLE dentry (
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    type INTEGER NOT NULL,
    cookie INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX dentry_cookie ON dentry (parent, cookie);
  CREATE TABLE extent (
    inode INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    chunk_offset INTEGER NOT NULL,
    PRIMARY KEY (inode, offset)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE chunk (
    chunk INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    bytes INTEGER NOT NULL,
    refs INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX chunk_unreferenced ON chunk (chunk) WHERE refs = 0;
  CREATE TABLE xattr (
    inode INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (inode, name)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE orphan (inode INTEGER PRIMARY KEY) STRICT;
  CREATE TABLE setting (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  INSERT INTO setting VALUES ('next_inode', 2), ('version', 0), ('settled', 0), ('inodes', 1), ('stored', 0);
  INSERT INTO inode VALUES (1, 16877, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, NULL);
  `,
  `
  CREATE TABLE member (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    role TEXT NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL,
    key TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,
    first_version INTEGER NOT NULL UNIQUE,
    leader TEXT NOT NULL
  ) STRICT;
  CREATE TABLE cluster_setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  `,
  `
  CREATE TABLE allocation (
    inode INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (inode, offset)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO setting VALUES ('allocated', 0);
  `,
  `
  CREATE TABLE conflict (
    conflict INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    node TEXT NOT NULL,
    time_s INTEGER NOT NULL, time_ns INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    copy_parent INTEGER,
    copy_name BLOB,
    copy_inode INTEGER
  ) STRICT;
  `,
];

export const METADATA_FORMAT_VERSION = MIGRATIONS.length;

/** Brings the database to METADATA_FORMAT_VERSION. Errors: METADATA_TOO_NEW. */
export function migrate(database: DatabaseSync, path: string): void {
  const found = Number(database.prepare('PRAGMA user_version').get()?.['user_version'] ?? 0);
  if (found > METADATA_FORMAT_VERSION) {
    throw new WarrenError({
      code: 'METADATA_TOO_NEW',
      message: `${path} has format version ${found}; this Warren knows versions up to ${METADATA_FORMAT_VERSION}.`,
      hint: 'Run the newer Warren that wrote it. Nothing was changed.',
    });
  }
  for (let version = found; version < METADATA_FORMAT_VERSION; version++) {
    database.exec('BEGIN IMMEDIATE');
    database.exec(MIGRATIONS[version] ?? '');
    database.exec(`PRAGMA user_version = ${version + 1}`);
    database.exec('COMMIT');
  }
}
