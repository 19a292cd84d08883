/**
 * Brings what the side of a partition that lost had acknowledged into the state that stays.
 *
 * The rule: what only the losing side changed is done again, in place; what both changed stays as the other side has it,
 * and the losing version is put beside it under a name that says so, with a row in the list of conflicts. What one
 * side deleted and the other changed is kept. Where it is not known what a side touched (its log did not reach back),
 * everything counts as touched by both: more copies are put aside then, and nothing is replaced or deleted.
 *
 * What can go wrong, and the answer:
 * - people go on working meanwhile: what they touch counts as touched by the other side from that moment on, and every
 *   step is refused by the state when what it replaces or removes is not as it was seen (`settle-name`, `replace`);
 * - a crash in between: each step looks at the state first, and finished ones are remembered, so the merge runs again;
 * - names in a circle (an exchange): a name is given away only when the file that has it has another one.
 *
 * Invariants: no content that has a name in the losing state is without a name afterwards, and nothing of the other side
 * is deleted that it changed.
 */

import type { InodeRow } from '../metadata/rows.ts';
import type { ConflictKind } from '../protocol/conflict.ts';
import { FsError } from '../protocol/errors.ts';
import type { Inode, Name } from '../protocol/ids.ts';
import { conflictName } from './conflict-name.ts';
import { mergeDirectories } from './directories.ts';
import { rebuild } from './rebuild.ts';
import { nameKey, type TouchedName } from './touched.ts';
import { DIRECTORY, isDirectory, liveRow, type MergeWorld, sameAttributes, sameContent } from './world.ts';

/** Somebody else may change the same thing at the same time, but not this often. */
const TRIES_MAX = 20;
const NAMES_MAX = 1000;

export interface MergeResult {
  /** Made or changed in place. */
  merged: number;
  /** Put aside. */
  conflicts: number;
}

interface WantedName extends TouchedName {
  readonly inode: Inode;
}

/** Errors: those of proposals, chunks and disks; then it is run again. */
export async function merge(world: MergeWorld): Promise<MergeResult> {
  const { losing, reads, here, there } = world;
  const directories = mergeDirectories(world);
  const result: MergeResult = { merged: 0, conflicts: 0 };
  /** Numbers of files that were made anew. */
  const anew = new Map<Inode, Inode>();

  const touched = here === undefined ? losing.inodes() : touchedInodes(world);
  const rows = touched.map((inode) => losing.reads.inode(inode)).filter((row) => row !== undefined);
  const directoryInodes = rows.filter(isDirectory).map(({ inode }) => inode);
  const files = rows.filter((row) => !isDirectory(row));

  for (const inode of directoryInodes) {
    if (losing.names(inode).length > 0) await directories.current(inode);
  }
  await directories.move(directoryInodes);
  await directories.attributes(directoryInodes);
  for (const row of files) await retried(() => content(row));
  await names(wantedNames());
  for (const place of here?.names.values() ?? []) await retried(() => removal(place));
  return result;

  /** A file that both states have: its content and attributes. */
  async function content(row: InodeRow): Promise<void> {
    const { inode } = row;
    const now = liveRow(reads, inode);
    const places = losing.names(inode);
    const change = here === undefined ? 'content' : here.inodes.get(inode);
    const step = `content ${inode}`;
    if (now === undefined || places.length === 0 || change === undefined || world.isDone(step)) return;
    const same = sameContent({ reads: losing.reads, row }, { reads, row: now });
    if (same && (change === 'content' || sameAttributes(row, now)) && sameAttributes(row, now)) return;
    if (there?.inodes.has(inode) === false) {
      if (same) await setAttributes(row);
      else await replace(row, now);
      result.merged++;
    } else if (!same) {
      const [place] = places;
      if (place !== undefined) await putAside(row, place, 'content');
    }
    world.done(step);
  }

  async function setAttributes({ inode, mode, uid, gid, mtime }: InodeRow): Promise<void> {
    const xattrs = losing.reads.xattrs(inode);
    await world.propose({ kind: 'attributes', inode, mode, uid, gid, mtime, xattrs, time: world.now() });
  }

  async function replace(row: InodeRow, now: InodeRow): Promise<void> {
    const from = await rebuild(world, row, undefined);
    const { inode } = row;
    await world.propose({ kind: 'replace', inode, from, changed: now.ctime, time: world.now() });
  }

  /** Makes the losing version a file of its own, beside the place that it has in the losing state. */
  async function putAside(row: InodeRow, { parent, name }: TouchedName, kind: ConflictKind): Promise<void> {
    const directory = await directories.current(parent);
    if (isAsideAlready(row, directory, name)) return;
    const isLive = liveRow(reads, row.inode) !== undefined;
    const inode = await rebuild(world, row, isLive ? undefined : row.inode);
    const copy = await nameFreely(inode, directory, name);
    await addConflict(kind, { parent: directory, name }, { parent: directory, name: copy, inode });
    result.conflicts++;
  }

  /** By an earlier try that ended before it could be remembered. */
  function isAsideAlready(row: InodeRow, parent: Inode, name: Name): boolean {
    return reads.conflicts.list(Number.MAX_SAFE_INTEGER).some((conflict) => {
      const isThis = conflict.parent === parent && Buffer.from(conflict.name).equals(name);
      const copy = conflict.copy === null ? undefined : liveRow(reads, conflict.copy.inode);
      return isThis && copy !== undefined && sameContent({ reads: losing.reads, row }, { reads, row: copy });
    });
  }

  async function nameFreely(inode: Inode, parent: Inode, name: Name): Promise<Name> {
    for (let number = 1; number < NAMES_MAX; number++) {
      const free = conflictName(name, world.label, number);
      if (reads.dentry(parent, free) !== undefined) continue;
      if (await settle({ parent, name: free }, undefined, inode)) return free;
    }
    throw new FsError('EEXIST', 'no free name for a version of the other side of a partition');
  }

  async function addConflict(
    kind: ConflictKind,
    { parent, name }: TouchedName,
    copy: { parent: Inode; name: Name; inode: Inode } | null,
  ): Promise<void> {
    await world.propose({
      kind: 'conflict-add',
      conflict: { kind, node: world.node, time: world.now(), parent, name, copy },
    });
  }

  /** False: the name is not as it was seen any more. */
  async function settle(
    { parent, name }: TouchedName,
    found: InodeRow | undefined,
    inode: Inode | null,
  ): Promise<boolean> {
    const [expected, changed] = found === undefined ? [null, null] : [found.inode, found.ctime];
    const time = world.now();
    try {
      await world.propose({ kind: 'settle-name', parent, name, expected, changed, inode, time });
      return true;
    } catch (error) {
      if (error instanceof FsError && error.code === 'EAGAIN') return false;
      throw error;
    }
  }

  /** Names of files that the losing side gave, and every name of files that the other side does not have. */
  function wantedNames(): WantedName[] {
    const wanted = new Map<string, WantedName>();
    const want = (place: TouchedName, inode: Inode) => {
      wanted.set(nameKey(place.parent, place.name), { parent: place.parent, name: place.name, inode });
    };
    for (const place of here?.names.values() ?? []) {
      const entry = losing.reads.dentry(place.parent, place.name);
      if (entry !== undefined && entry.type !== DIRECTORY) want(place, entry.inode);
    }
    for (const { inode } of files) {
      if (liveRow(reads, inode) !== undefined) continue;
      for (const place of losing.names(inode)) want(place, inode);
    }
    return [...wanted.values()].filter((place) => !world.isDone(stepOf(place)));
  }

  function stepOf({ parent, name, inode }: WantedName): string {
    return `name ${inode} ${nameKey(parent, name)}`;
  }

  /** Again and again while some can be given: one may wait until the file that has the name has its own new one. */
  async function names(wanted: readonly WantedName[]): Promise<void> {
    let left = wanted;
    for (let before = left.length + 1; left.length > 0 && left.length < before; ) {
      before = left.length;
      const waiting: WantedName[] = [];
      for (const place of left) {
        if (await retried(() => give(place))) world.done(stepOf(place));
        else waiting.push(place);
      }
      left = waiting;
    }
    // What has a name already keeps the one that the other side has for it.
    for (const place of left) {
      const row = losing.reads.inode(place.inode);
      const isLive = liveRow(reads, anew.get(place.inode) ?? place.inode) !== undefined;
      if (row !== undefined && !isLive) await putAside(row, place, 'name');
      world.done(stepOf(place));
    }
  }

  /** Answers whether the name is settled, one way or the other. */
  async function give(place: WantedName): Promise<boolean> {
    const row = losing.reads.inode(place.inode);
    if (row === undefined) return true;
    const parent = await directories.current(place.parent);
    const at = { parent, name: place.name };
    const key = nameKey(place.parent, place.name);
    const live = liveRow(reads, anew.get(place.inode) ?? place.inode);
    const entry = reads.dentry(parent, place.name);
    if (entry !== undefined && entry.inode === live?.inode) return true;
    const isTouchedThere = there === undefined || there.names.has(key);
    if (live !== undefined && isTouchedThere) return true;
    const found = entry === undefined ? undefined : reads.inode(entry.inode);
    if (found !== undefined && !mayGo(found, isTouchedThere)) return false;
    const inode = live?.inode ?? (await rebuild(world, row, row.inode));
    if (!(await settle(at, found, inode))) throw new FsError('EAGAIN');
    if (live === undefined) {
      anew.set(place.inode, inode);
      result.merged++;
      // It was there before the histories parted, and the other side deleted it.
      if (here !== undefined && !here.made.has(place.inode)) await addConflict('deleted', at, null);
    }
    return true;
  }

  /** Whether a name may be taken from this file: only the losing side changed that, and nothing is lost by it. */
  function mayGo(found: InodeRow, isTouchedThere: boolean): boolean {
    if (isTouchedThere || isDirectory(found) || there?.inodes.has(found.inode) !== false) return false;
    return found.links > 1 || losing.names(found.inode).length === 0;
  }

  /** A name that the losing side took away. */
  async function removal({ parent, name }: TouchedName): Promise<void> {
    if (there === undefined || there.names.has(nameKey(parent, name))) return;
    if (losing.reads.dentry(parent, name) !== undefined) return;
    const entry = reads.dentry(parent, name);
    const found = entry === undefined ? undefined : reads.inode(entry.inode);
    if (entry === undefined || found === undefined) return;
    if (entry.type === DIRECTORY) {
      if (losing.names(found.inode).length === 0) await removeDirectory(parent, name);
      return;
    }
    if (mayGo(found, false)) {
      if (!(await settle({ parent, name }, found, null))) throw new FsError('EAGAIN');
      result.merged++;
      return;
    }
    const step = `deleted ${nameKey(parent, name)}`;
    if (losing.names(found.inode).length > 0 || world.isDone(step)) return;
    // Deleted on the losing side, changed on the other: kept.
    await addConflict('removed', { parent, name }, null);
    result.conflicts++;
    world.done(step);
  }

  async function removeDirectory(parent: Inode, name: Name): Promise<void> {
    try {
      await world.propose({ kind: 'rmdir', parent, name, time: world.now() });
    } catch (error) {
      // The other side has something in it.
      if (!(error instanceof FsError) || !['ENOTEMPTY', 'ENOENT', 'ENOTDIR'].includes(error.code))
        throw error;
    }
  }
}

function touchedInodes({ losing, here }: MergeWorld): Inode[] {
  const inodes = new Set<Inode>(here?.inodes.keys());
  for (const { parent, name } of here?.names.values() ?? []) {
    const entry = losing.reads.dentry(parent, name);
    if (entry !== undefined) inodes.add(entry.inode);
  }
  return [...inodes];
}

/** Anew while somebody else changes the same thing at the same time. */
async function retried<T>(step: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await step();
    } catch (error) {
      const isRace =
        error instanceof FsError && ['EAGAIN', 'ENOENT', 'ESTALE', 'EEXIST'].includes(error.code);
      if (!isRace || tries === TRIES_MAX) throw error;
    }
  }
}
