/**
 * Directories of the state that lost, in the state that stays: found where they still are, made anew where the other
 * side does not have them. Both made one of the same name: they become one. The other side removed it while this one
 * changed something in it: it is there again, and a conflict says so.
 */

import type { InodeRow } from '../metadata/rows.ts';
import { FsError } from '../protocol/errors.ts';
import type { Inode } from '../protocol/ids.ts';
import { defined } from '../runtime/assert.ts';
import { conflictName } from './conflict-name.ts';
import { nameKey } from './touched.ts';
import { DIRECTORY, isDirectory, liveRow, type MergeWorld, sameAttributes } from './world.ts';

const TRIES_MAX = 100;

export interface Directories {
  /** The number that a directory of the state that lost has now. Errors: FsError. */
  current(inode: Inode): Promise<Inode>;
  /** Moves directories that only the side that lost moved. */
  move(inodes: readonly Inode[]): Promise<void>;
  /** Modes and owners that only the side that lost changed. */
  attributes(inodes: readonly Inode[]): Promise<void>;
}

export function mergeDirectories(world: MergeWorld): Directories {
  const { losing, reads, here, there } = world;
  const known = new Map<Inode, Inode>();

  async function current(inode: Inode): Promise<Inode> {
    const before = known.get(inode);
    if (before !== undefined && liveRow(reads, before) !== undefined) return before;
    const now = liveRow(reads, inode);
    const found = now !== undefined && isDirectory(now) ? inode : await make(inode);
    known.set(inode, found);
    return found;
  }

  async function make(inode: Inode): Promise<Inode> {
    const row = defined(losing.reads.inode(inode), `directory ${inode} is in the state that lost`);
    const place = defined(losing.names(inode)[0], `directory ${inode} has a name in the state that lost`);
    const parent = await current(place.parent);
    for (let number = 0; number < TRIES_MAX; number++) {
      const name = number === 0 ? place.name : conflictName(place.name, world.label, number);
      const there = reads.dentry(parent, name);
      if (there?.type === DIRECTORY) return there.inode;
      if (there !== undefined) continue;
      const made = reads.inode(inode) === undefined ? inode : world.allocateInode();
      try {
        await propose(row, made, parent, name);
      } catch (error) {
        if (!(error instanceof FsError) || error.code !== 'EEXIST') throw error;
        number--;
        continue;
      }
      if (number > 0) await conflict('name', parent, place.name, { parent, name, inode: made });
      else if (here !== undefined && !here.made.has(inode)) await conflict('directory', parent, name, null);
      return made;
    }
    throw new FsError('EEXIST', 'no free name for a directory of the other side of a partition');
  }

  function propose(row: InodeRow, inode: Inode, parent: Inode, name: Uint8Array) {
    const { mode, uid, gid } = row;
    return world.propose({
      ...{ kind: 'make', inode, entry: { parent, name }, mode, uid, gid, rdev: 0, target: null },
      xattrs: losing.reads.xattrs(row.inode),
      time: world.now(),
    });
  }

  function conflict(
    kind: 'name' | 'directory',
    parent: Inode,
    name: Uint8Array,
    copy: { parent: Inode; name: Uint8Array; inode: Inode } | null,
  ) {
    const { node } = world;
    return world.propose({
      kind: 'conflict-add',
      conflict: { kind, node, time: world.now(), parent, name, copy },
    });
  }

  async function moveOne(inode: Inode): Promise<void> {
    const now = liveRow(reads, inode);
    const wanted = losing.names(inode)[0];
    if (now === undefined || wanted === undefined || there === undefined) return;
    if (here === undefined || !here.names.has(nameKey(wanted.parent, wanted.name))) return;
    const name = reads.nameIn(now.parent, inode);
    const parent = await current(wanted.parent);
    if (name === undefined || there.names.has(nameKey(now.parent, name))) return;
    if (parent === now.parent && Buffer.from(name).equals(wanted.name)) return;
    if (reads.dentry(parent, wanted.name) !== undefined) return;
    try {
      await world.propose({
        kind: 'rename',
        from: { parent: now.parent, name },
        to: { parent, name: wanted.name },
        noReplace: true,
        exchange: false,
        time: world.now(),
      });
    } catch (error) {
      // Below itself, by what the other side moved; or somebody was quicker. It stays where it is.
      if (!(error instanceof FsError) || !['EINVAL', 'EEXIST', 'ENOENT'].includes(error.code)) throw error;
      world.warn('a directory keeps the place that the other side has for it', { inode });
    }
  }

  async function attributesOf(inode: Inode): Promise<void> {
    const now = liveRow(reads, inode);
    const row = losing.reads.inode(inode);
    if (now === undefined || row === undefined || sameAttributes(now, row)) return;
    if (here?.inodes.has(inode) !== true || there?.inodes.has(inode) !== false) return;
    const { mode, uid, gid, mtime } = row;
    const xattrs = losing.reads.xattrs(inode);
    await world.propose({ kind: 'attributes', inode, mode, uid, gid, mtime, xattrs, time: world.now() });
  }

  return {
    current,
    async move(inodes) {
      for (const inode of inodes) await moveOne(inode);
    },
    async attributes(inodes) {
      for (const inode of inodes) await attributesOf(inode);
    },
  };
}
