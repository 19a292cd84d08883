/** The two names that every directory has and no row stores. */

import type { InodeRow } from '../metadata/rows.ts';
import type { DirectoryEntry } from './interface.ts';

const DIRECTORY = 0o040000;
const DOT = Buffer.from('.');
const DOT_DOT = Buffer.from('..');

/** `.` and `..`, as far as they come after `cookie`. */
export function dots(directory: InodeRow, cookie: number): DirectoryEntry[] {
  const entries: DirectoryEntry[] = [];
  if (cookie < 1) entries.push({ inode: directory.inode, name: DOT, type: DIRECTORY, cookie: 1 });
  if (cookie < 2) entries.push({ inode: directory.parent, name: DOT_DOT, type: DIRECTORY, cookie: 2 });
  return entries;
}
