/**
 * Numbers for new inodes. A number is never given twice, by nobody: not by two nodes, not after a crash, not after
 * the entry that used it was taken back.
 *
 * Each member has a range of its own (`firstInode`). How far it has been given is counted in a file of this node,
 * `inode-numbers-<member>`, which no rewinding touches. The file is written ahead: numbers below what it says may have
 * been given, so a start goes on from there and loses what was left of the step. A file that is gone (a backup
 * without it) is made up for by the database, which knows the highest number in the range.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import { firstInode, INODES_PER_MEMBER } from '../protocol/cluster.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { Inode } from '../protocol/ids.ts';
import type { Connection } from './connection.ts';
import { writeDurably } from './durable-folder.ts';

/** Numbers written ahead at once: one sync (some milliseconds) for so many new files. */
const STEP = 2 ** 20;

export interface InodeNumbers {
  /** Errors: those of the disk. */
  next(): Inode;
  /** The database was replaced: numbers that it holds are not given. */
  refresh(): void;
}

/** Errors: INODE_NUMBERS_DAMAGED. */
export function openInodeNumbers(
  directory: string,
  memberNumber: number,
  connection: Connection,
): InodeNumbers {
  const file = path.join(directory, `inode-numbers-${memberNumber}`);
  const first: number = firstInode(memberNumber);
  const end = (memberNumber + 1) * INODES_PER_MEMBER;
  const highest = connection.query('SELECT max(inode) FROM inode WHERE inode >= ? AND inode < ?');
  /** Where the numbers of format 1 end, all in the range of member 0. */
  const old = connection.query("SELECT value FROM setting WHERE key = 'next_inode'");
  let reserved = readFile();
  let next = Math.max(reserved, first);
  refresh();

  function refresh(): void {
    next = Math.max(next, ((highest.get(first, end)?.[0] as number | null | undefined) ?? 0) + 1);
    if (memberNumber === 0) next = Math.max(next, (old.get()?.[0] as number | undefined) ?? 0);
  }

  function readFile(): number {
    if (!fs.existsSync(file)) return 0;
    const value = Number(fs.readFileSync(file, 'utf8').trim());
    if (Number.isSafeInteger(value) && value >= first && value <= end) return value;
    throw new WarrenError({
      code: 'INODE_NUMBERS_DAMAGED',
      message: `${file} does not hold the number that the next new file gets.`,
      hint: `Write a number there that is greater than every inode number given so far and below ${end}, or restore the file from a backup.`,
    });
  }

  function reserve(): void {
    const target = Math.min(next + STEP, end);
    writeDurably(file, `${target}\n`);
    reserved = target;
  }

  return {
    next() {
      if (next >= reserved) reserve();
      return next++ as Inode;
    },
    refresh,
  };
}
