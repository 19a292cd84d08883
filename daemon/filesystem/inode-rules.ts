/** Rules of POSIX and Linux about the mode and the times of an inode, as pure functions. */

import type { InodeRow } from '../metadata/rows.ts';
import type { Timestamp } from '../protocol/ids.ts';

export const SETUID = 0o4000;
export const SETGID = 0o2000;
const GROUP_EXECUTE = 0o010;
const RELATIME_SECONDS = 24 * 60 * 60;

/** Without setuid, and without setgid where it means "run as the group" (the group may execute). */
export function withoutPrivileges(mode: number): number {
  const cleared = mode & ~SETUID;
  return (cleared & GROUP_EXECUTE) === 0 ? cleared : cleared & ~SETGID;
}

/** relatime: an access is noted when the last noted one is older than the last change, or a day old. */
export function isAccessStale(found: InodeRow, now: Timestamp): boolean {
  return (
    !isNewer(found.atime, found.mtime) ||
    !isNewer(found.atime, found.ctime) ||
    now.seconds - found.atime.seconds >= RELATIME_SECONDS
  );
}

export function isNewer(a: Timestamp, b: Timestamp): boolean {
  return a.seconds > b.seconds || (a.seconds === b.seconds && a.nanoseconds > b.nanoseconds);
}
