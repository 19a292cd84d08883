/**
 * The replicated state of a `meta.db` as text: equal for two nodes exactly when they hold the same. Leaves out what
 * may differ: how far small chunks are settled, the numbers of chunk rows, and where the numbers of format 1 ended.
 */

import { DatabaseSync } from 'node:sqlite';

const TABLES: Readonly<Record<string, string>> = {
  inode: 'SELECT * FROM inode ORDER BY inode',
  dentry: 'SELECT * FROM dentry ORDER BY parent, name',
  extent: `SELECT e.inode, e.offset, e.length, c.hash, e.chunk_offset FROM extent e JOIN chunk c ON c.chunk = e.chunk
    ORDER BY e.inode, e.offset`,
  chunk: 'SELECT hash, bytes, refs FROM chunk ORDER BY hash',
  xattr: 'SELECT * FROM xattr ORDER BY inode, name',
  allocation: 'SELECT * FROM allocation ORDER BY inode, offset',
  orphan: 'SELECT * FROM orphan ORDER BY inode',
  setting: "SELECT * FROM setting WHERE key IN ('version', 'inodes', 'stored', 'allocated') ORDER BY key",
  member: 'SELECT * FROM member ORDER BY id',
  epoch: 'SELECT * FROM epoch ORDER BY epoch',
  conflict: 'SELECT * FROM conflict ORDER BY conflict',
  cluster_setting: 'SELECT * FROM cluster_setting ORDER BY key',
};

/** Of what is committed: call `Metadata.commit` before. */
export function dumpState(databasePath: string): string {
  const database = new DatabaseSync(databasePath, { readOnly: true });
  try {
    return Object.entries(TABLES)
      .flatMap(([table, sql]) => [
        `== ${table}`,
        ...database
          .prepare(sql)
          .all()
          .map((row) => JSON.stringify(Object.values(row), bytesAsText)),
      ])
      .join('\n');
  } finally {
    database.close();
  }
}

function bytesAsText(_key: string, value: unknown): unknown {
  return value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value;
}
