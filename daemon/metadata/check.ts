/**
 * Checks every invariant of `meta.db` by recounting it, and repairs what can be repaired without losing
 * anything: counts are set to what was counted, an inode without a name comes to `lost+found`, a name without
 * an inode goes. What would need a guess (damaged pages, overlapping extents, a missing chunk row) is reported.
 *
 * Each rule is one query that finds what is wrong and, where it is safe, one statement that puts it right.
 * Works on a connection of its own; a repair needs the daemon to be stopped.
 */

import type { DatabaseSync } from 'node:sqlite';
import { INODES_PER_MEMBER, MEMBER_NUMBER_MAX } from '../protocol/cluster.ts';
import { CHUNK_BYTES_MAX } from '../protocol/ids.ts';
import type { Finding } from '../protocol/control-api.ts';
import { query } from './rows.ts';

interface Rule {
  /** Stable name of the invariant. */
  readonly code: string;
  /** Rows of what is wrong; the first column is put into the message for `%`. */
  readonly find: string;
  readonly message: string;
  /** Puts every row of `find` right; without it the finding is a loss. */
  readonly repair?: string;
}

const DIRECTORY = 0o040000;
/** `.` and `..` have 1 and 2; an entry has its operation's version plus 2. */
const FIRST_ENTRY_COOKIE = 3;
const TYPE = 0o170000;
const isDirectory = `(mode & ${TYPE}) = ${DIRECTORY}`;
const LINKS_SHOULD_BE = `CASE WHEN (i.mode & ${TYPE}) = ${DIRECTORY}
  THEN CASE WHEN i.inode = 1 OR EXISTS (SELECT 1 FROM named n WHERE n.inode = i.inode)
    THEN 2 + coalesce((SELECT s.directories FROM subdirectories s WHERE s.parent = i.inode), 0) ELSE 0 END
  ELSE coalesce((SELECT n.names FROM named n WHERE n.inode = i.inode), 0) END`;

/** An allocation `a` without its inode, of no length, or over content or another allocation. No extent crosses a slot. */
const BAD_ALLOCATION = `a.length <= 0 OR a.offset < 0
  OR NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = a.inode)
  OR EXISTS (SELECT 1 FROM extent e WHERE e.inode = a.inode AND e.offset > a.offset - ${CHUNK_BYTES_MAX}
    AND e.offset < a.offset + a.length AND e.offset + e.length > a.offset)
  OR EXISTS (SELECT 1 FROM allocation b WHERE b.inode = a.inode AND b.offset > a.offset AND b.offset < a.offset + a.length)`;

/** In this order: a repair may rely on those before it. */
const RULES: readonly Rule[] = [
  {
    code: 'entry-without-inode',
    find: "SELECT parent || '/' || hex(name) FROM dentry d WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = d.inode)",
    message: 'the name % (directory inode/hexadecimal name) refers to no inode',
    repair: 'DELETE FROM dentry WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = dentry.inode)',
  },
  {
    code: 'entry-outside-directory',
    find: `SELECT parent || '/' || hex(name) FROM dentry d WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = d.parent AND ${isDirectory})`,
    message: 'the name % is in something that is no directory',
    repair: `DELETE FROM dentry WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = dentry.parent AND ${isDirectory})`,
  },
  {
    code: 'entry-name',
    find: "SELECT parent || '/' || hex(name) FROM dentry WHERE length(name) = 0 OR length(name) > 255 OR name IN (x'2e', x'2e2e') OR instr(name, x'2f') > 0 OR instr(name, x'00') > 0",
    message: 'the name % is not one that a file can have',
  },
  {
    code: 'entry-type',
    find: `SELECT d.parent || '/' || hex(d.name) FROM dentry d JOIN inode i ON i.inode = d.inode WHERE d.type <> (i.mode & ${TYPE})`,
    message: 'the name % says another type than its inode',
    repair: `UPDATE dentry SET type = (SELECT i.mode & ${TYPE} FROM inode i WHERE i.inode = dentry.inode)`,
  },
  {
    code: 'directory-names',
    find: `SELECT inode FROM dentry WHERE type = ${DIRECTORY} GROUP BY inode HAVING count(*) > 1`,
    message: 'directory inode % has more than one name',
  },
  {
    code: 'directory-parent',
    find: `SELECT i.inode FROM inode i JOIN dentry d ON d.inode = i.inode WHERE (i.mode & ${TYPE}) = ${DIRECTORY} AND i.parent <> d.parent`,
    message: 'directory inode % names another parent than the directory it is in',
    repair: `UPDATE inode SET parent = (SELECT n.parent FROM named n WHERE n.inode = inode.inode)
      WHERE ${isDirectory} AND EXISTS (SELECT 1 FROM named n WHERE n.inode = inode.inode)`,
  },
  {
    code: 'directory-unreachable',
    find: `WITH RECURSIVE reached(inode) AS (SELECT 1 UNION SELECT d.inode FROM reached r JOIN dentry d ON d.parent = r.inode AND d.type = ${DIRECTORY})
      SELECT i.inode FROM inode i WHERE ${isDirectory} AND i.links > 0 AND EXISTS (SELECT 1 FROM named n WHERE n.inode = i.inode)
      AND i.inode NOT IN (SELECT inode FROM reached)`,
    message: 'directory inode % cannot be reached from the root',
  },
  {
    code: 'inode-type',
    find: `SELECT inode FROM inode WHERE (mode & ${TYPE}) NOT IN (4096, 8192, 16384, 24576, 32768, 40960, 49152) OR mode < 0 OR mode > 65535 OR size < 0 OR links < 0`,
    message: 'inode % has a type, size or link count that cannot be',
  },
  {
    code: 'symlink-target',
    find: `SELECT inode FROM inode WHERE ((mode & ${TYPE}) = 40960) <> (target IS NOT NULL)`,
    message: 'inode % is a symbolic link without a target, or has one and is none',
  },
  {
    code: 'inode-without-name',
    find: `SELECT i.inode FROM inode i WHERE i.inode <> 1 AND NOT EXISTS (SELECT 1 FROM named n WHERE n.inode = i.inode)
      AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.inode = i.inode)`,
    message: 'inode % has no name and is not known as an orphan (--repair puts it into lost+found)',
    repair: 'lost+found',
  },
  {
    code: 'orphan-with-name',
    find: 'SELECT o.inode FROM orphan o WHERE EXISTS (SELECT 1 FROM named n WHERE n.inode = o.inode) OR NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = o.inode)',
    message: 'inode % is listed as an orphan and is none',
    repair:
      'DELETE FROM orphan WHERE EXISTS (SELECT 1 FROM named n WHERE n.inode = orphan.inode) OR NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = orphan.inode)',
  },
  {
    code: 'link-count',
    find: `SELECT i.inode || ' (' || i.links || ' instead of ' || (${LINKS_SHOULD_BE}) || ')' FROM inode i WHERE i.links <> (${LINKS_SHOULD_BE})`,
    message: 'inode % has a wrong link count',
    repair: `UPDATE inode AS i SET links = (${LINKS_SHOULD_BE}) WHERE i.links <> (${LINKS_SHOULD_BE})`,
  },
  {
    code: 'extent-without-inode',
    find: 'SELECT e.inode FROM extent e WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = e.inode)',
    message: 'an extent belongs to inode %, which is not there',
    repair: 'DELETE FROM extent WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = extent.inode)',
  },
  {
    code: 'extent-without-chunk',
    find: "SELECT e.inode || ' at ' || e.offset FROM extent e WHERE NOT EXISTS (SELECT 1 FROM chunk c WHERE c.chunk = e.chunk)",
    message: 'the extent of inode % names no chunk: its bytes are lost',
  },
  {
    code: 'extent-shape',
    find: `SELECT e.inode || ' at ' || e.offset FROM extent e JOIN chunk c ON c.chunk = e.chunk WHERE e.length <= 0 OR e.offset < 0
      OR e.chunk_offset < 0 OR e.chunk_offset + e.length > c.bytes OR e.offset / ${CHUNK_BYTES_MAX} <> (e.offset + e.length - 1) / ${CHUNK_BYTES_MAX}`,
    message: 'the extent of inode % does not lie within its chunk or slot',
  },
  {
    code: 'extent-overlap',
    find: `SELECT inode || ' at ' || offset FROM (SELECT inode, offset, lag(offset + length) OVER (PARTITION BY inode ORDER BY offset) AS before FROM extent) WHERE before > offset`,
    message: 'the extent of inode % overlaps the one before it',
  },
  {
    code: 'extent-past-end',
    find: "SELECT e.inode || ' at ' || e.offset FROM extent e JOIN inode i ON i.inode = e.inode WHERE e.offset + e.length > i.size",
    message: 'the extent of inode % reaches past the end of the file',
  },
  {
    code: 'stored-bytes',
    find: 'SELECT i.inode FROM inode i WHERE i.stored <> (SELECT coalesce(sum(e.length), 0) FROM extent e WHERE e.inode = i.inode)',
    message: 'inode % has a wrong count of stored bytes',
    repair:
      'UPDATE inode SET stored = (SELECT coalesce(sum(e.length), 0) FROM extent e WHERE e.inode = inode.inode)',
  },
  {
    code: 'allocation-shape',
    find: `SELECT a.inode || ' at ' || a.offset FROM allocation a WHERE ${BAD_ALLOCATION}`,
    message: 'the space set aside for inode % belongs to nothing or overlaps content',
    repair: `DELETE FROM allocation AS a WHERE ${BAD_ALLOCATION}`,
  },
  {
    code: 'chunk-references',
    find: `SELECT lower(hex(c.hash)) FROM chunk c LEFT JOIN (SELECT chunk, count(*) AS n FROM extent GROUP BY chunk) e ON e.chunk = c.chunk WHERE c.refs <> coalesce(e.n, 0)`,
    message: 'chunk % has a wrong reference count',
    repair: `UPDATE chunk SET refs = (SELECT count(*) FROM extent e WHERE e.chunk = chunk.chunk)
      WHERE chunk IN (SELECT c.chunk FROM chunk c LEFT JOIN (SELECT chunk, count(*) AS n FROM extent GROUP BY chunk) e ON e.chunk = c.chunk WHERE c.refs <> coalesce(e.n, 0))`,
  },
  {
    code: 'chunk-shape',
    find: `SELECT lower(hex(hash)) FROM chunk WHERE length(hash) <> 32 OR bytes <= 0 OR bytes > ${CHUNK_BYTES_MAX}`,
    message: 'chunk % has a size or hash that cannot be',
  },
  {
    code: 'xattr-without-inode',
    find: 'SELECT x.inode FROM xattr x WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = x.inode)',
    message: 'an extended attribute belongs to inode %, which is not there',
    repair: 'DELETE FROM xattr WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = xattr.inode)',
  },
  {
    code: 'member-number',
    find: `SELECT id FROM member m WHERE number NOT BETWEEN 0 AND ${MEMBER_NUMBER_MAX} OR EXISTS (SELECT 1 FROM member o WHERE o.number = m.number AND o.id <> m.id)`,
    message: 'member % has a number that cannot be, or that another one has too',
  },
  {
    code: 'epoch-order',
    find: `SELECT epoch FROM (SELECT epoch, first_version, lag(first_version) OVER (ORDER BY epoch) AS before FROM epoch)
      WHERE first_version <= coalesce(before, 0) OR first_version > (SELECT value FROM setting WHERE key = 'version')`,
    message: 'epoch % does not begin after the one before it and within the log',
  },
  {
    code: 'totals',
    find: `SELECT key FROM setting WHERE (key = 'inodes' AND value <> (SELECT count(*) FROM inode))
      OR (key = 'stored' AND value <> (SELECT coalesce(sum(length), 0) FROM extent))
      OR (key = 'allocated' AND value <> (SELECT coalesce(sum(length), 0) FROM allocation))`,
    message: 'the running total "%" is wrong',
    repair: `UPDATE setting SET value = CASE key WHEN 'inodes' THEN (SELECT count(*) FROM inode)
      WHEN 'stored' THEN (SELECT coalesce(sum(length), 0) FROM extent)
      ELSE (SELECT coalesce(sum(length), 0) FROM allocation) END WHERE key IN ('inodes', 'stored', 'allocated')`,
  },
];

/** Names and subdirectories counted once: `dentry` has no index by inode, which no request needs. */
const COUNT_NAMES = `
  DROP TABLE IF EXISTS temp.named;
  CREATE TEMP TABLE named (inode INTEGER PRIMARY KEY, names INTEGER, parent INTEGER);
  INSERT INTO named SELECT inode, count(*), max(parent) FROM dentry GROUP BY inode;
  DROP TABLE IF EXISTS temp.subdirectories;
  CREATE TEMP TABLE subdirectories (parent INTEGER PRIMARY KEY, directories INTEGER);
  INSERT INTO subdirectories SELECT parent, count(*) FROM dentry WHERE type = ${DIRECTORY} GROUP BY parent;
`;

export interface MetadataCounts {
  readonly inodes: number;
  readonly entries: number;
  readonly extents: number;
  readonly chunks: number;
}

export function countRows(database: DatabaseSync): MetadataCounts {
  const count = (table: string) => query(database, `SELECT count(*) FROM ${table}`).get()?.[0] as number;
  return {
    inodes: count('inode'),
    entries: count('dentry'),
    extents: count('extent'),
    chunks: count('chunk'),
  };
}

export interface CheckOptions {
  /** Put right what is safe: the connection must be writable and the daemon stopped. */
  readonly repair: boolean;
  /** Asked before each rule; answers whether the connection sees a newer state from here on. */
  readonly renew?: () => boolean;
}

/** Findings, rule by rule. */
export function* checkMetadata(database: DatabaseSync, options: CheckOptions): Generator<Finding> {
  for (const row of query(database, 'PRAGMA integrity_check(100)').all()) {
    const text = String(row[0]);
    if (text !== 'ok') yield { code: 'database-damaged', message: `meta.db: ${text}`, state: 'loss' };
  }
  database.exec(COUNT_NAMES);
  for (const rule of RULES) {
    if (options.renew?.() === true) database.exec(COUNT_NAMES);
    const rows = query(database, rule.find).all();
    if (rows.length === 0) continue;
    const repaired = options.repair && rule.repair !== undefined;
    if (repaired) {
      repairRule(
        database,
        rule,
        rows.map((row) => row[0] as number),
      );
      database.exec(COUNT_NAMES);
    }
    for (const row of rows) {
      yield {
        code: rule.code,
        message: rule.message.replace('%', String(row[0])),
        state: repaired ? 'repaired' : rule.repair === undefined ? 'loss' : 'safe',
      };
    }
  }
}

function repairRule(database: DatabaseSync, rule: Rule, found: readonly number[]): void {
  database.exec('BEGIN IMMEDIATE');
  if (rule.repair === 'lost+found') putIntoLostAndFound(database, found);
  else database.exec(rule.repair ?? '');
  database.exec('COMMIT');
}

/** Gives each inode the name `#inode` in `/lost+found`; counts are put right by the rules that follow. */
function putIntoLostAndFound(database: DatabaseSync, inodes: readonly number[]): void {
  const name = Buffer.from('lost+found');
  const existing = query(database, 'SELECT inode FROM dentry WHERE parent = 1 AND name = ?').get(name);
  const insert = database.prepare(
    'INSERT OR IGNORE INTO dentry SELECT ?, ?, inode, mode & 61440, ? FROM inode WHERE inode = ?',
  );
  let directory = existing?.[0] as number | undefined;
  if (directory === undefined) {
    // Numbers go on from the highest one that is there (inode-numbers.ts), so this one is not given again.
    directory = query(
      database,
      `SELECT max((SELECT max(inode) + 1 FROM inode WHERE inode < ${INODES_PER_MEMBER}),
         (SELECT value FROM setting WHERE key = 'next_inode'))`,
    ).get()?.[0] as number;
    database
      .prepare(
        'INSERT INTO inode SELECT ?, 16832, 2, 0, 0, 0, 0, 0, ctime_s, 0, ctime_s, 0, ctime_s, 0, 1, NULL FROM inode WHERE inode = 1',
      )
      .run(directory);
    insert.run(1, name, freeCookies(database, 1, 1)[0] ?? null, directory);
  }
  const cookies = freeCookies(database, directory, inodes.length);
  for (const [index, inode] of inodes.entries()) {
    insert.run(directory, Buffer.from(`#${inode}`), cookies[index] ?? null, inode);
    database.prepare(`UPDATE inode SET parent = ? WHERE inode = ? AND ${isDirectory}`).run(directory, inode);
  }
}

/**
 * Cookies that no entry of the directory has, from the first one on. Greater ones than those in use would meet the
 * entries of operations to come, whose cookies follow from their versions; every inode was made by an operation,
 * so there are enough below.
 */
function freeCookies(database: DatabaseSync, parent: number, count: number): number[] {
  const used = query(database, 'SELECT cookie FROM dentry WHERE parent = ? ORDER BY cookie');
  const free: number[] = [];
  let next = FIRST_ENTRY_COOKIE;
  for (const row of used.iterate(parent)) {
    for (; next < (row[0] as number) && free.length < count; next++) free.push(next);
    next = Math.max(next, (row[0] as number) + 1);
  }
  for (; free.length < count; next++) free.push(next);
  return free;
}

export interface CheckedChunk {
  /** Row of the chunk. */
  readonly chunk: number;
  readonly hash: Uint8Array;
  readonly bytes: number;
  readonly refs: number;
}

/** Chunks to list at once: a read transaction is as short as that. */
export const CHUNK_BATCH = 1000;

/** Up to `limit` chunks with a row greater than `after`, by row. */
export function listChunks(database: DatabaseSync, after: number, limit: number): CheckedChunk[] {
  const rows = query(
    database,
    'SELECT chunk, hash, bytes, refs FROM chunk WHERE chunk > ? ORDER BY chunk LIMIT ?',
  );
  return rows.all(after, limit).map((row) => ({
    chunk: row[0] as number,
    hash: row[1] as Uint8Array,
    bytes: row[2] as number,
    refs: row[3] as number,
  }));
}

const PATHS_MAX = 3;
const DEPTH_MAX = 200;

/**
 * Up to three paths of files that use the chunk, for a person to read; names as UTF-8 where they are. None when only
 * files use it that were removed and wait to be freed.
 */
export function pathsOfChunk(database: DatabaseSync, hash: Uint8Array): string[] {
  const inodes = query(
    database,
    `SELECT DISTINCT e.inode FROM extent e JOIN chunk c ON c.chunk = e.chunk WHERE c.hash = ?
     AND e.inode NOT IN (SELECT inode FROM orphan) LIMIT ${PATHS_MAX}`,
  ).all(hash);
  const parentOf = query(database, 'SELECT parent, name FROM dentry WHERE inode = ? LIMIT 1');
  return inodes.map((row) => {
    const names: string[] = [];
    let inode = row[0] as number;
    for (let depth = 0; depth < DEPTH_MAX && inode !== 1; depth++) {
      const entry = parentOf.get(inode);
      if (entry === undefined) return `inode ${row[0] as number} (no name)`;
      names.unshift(Buffer.from(entry[1] as Uint8Array).toString('utf8'));
      inode = entry[0] as number;
    }
    return `/${names.join('/')}`;
  });
}
