/** Open files of one mount: their numbers, and which inodes are open for writing. */

import type { Inode } from '../../protocol/ids.ts';
import { O } from './protocol.ts';
import type { Session } from './session.ts';

/** A number for an open file, unique within the mount. */
export function newHandle(session: Session): number {
  return ++session.lastHandle;
}

/** `flags` are those of open(2) and RELEASE. */
export function noteOpened(session: Session, inode: Inode, flags: number): void {
  if ((flags & O.ACCMODE) !== 0) session.writers.set(inode, (session.writers.get(inode) ?? 0) + 1);
}

export function noteReleased(session: Session, inode: Inode, flags: number): void {
  if ((flags & O.ACCMODE) === 0) return;
  const left = (session.writers.get(inode) ?? 1) - 1;
  if (left > 0) session.writers.set(inode, left);
  else session.writers.delete(inode);
}
