/**
 * fcntl locks and flock. The kernel keeps none of them itself: every request comes here.
 *
 * It tells when a process's locks end (FLUSH, at each close) and when a flock does (RELEASE), but not when an
 * open-file-description lock (F_OFD_SETLK) does: that one belongs to the file handle. So it is noted which
 * owners locked ranges through a handle, and their locks end with it. A handle is only a number for this.
 */

import { LOCK_END, type RangeLock } from '../../filesystem/interface.ts';
import { ERRNO } from '../../protocol/errors.ts';
import { big64, LK_FLOCK, putBig64, u64, word } from './protocol.ts';
import type { Request } from './request.ts';
import { replyEmpty, replyError, replySmall, type Session, settle } from './session.ts';

/** F_RDLCK, F_WRLCK, F_UNLCK. */
const TYPES = ['read', 'write', 'unlock'] as const;

export function getlk(session: Session, request: Request, words: Uint32Array): void {
  const lock = decode(words);
  if (lock === undefined) {
    replyError(session, request, ERRNO.EINVAL);
    return;
  }
  const owner = { mount: session.mount, owner: big64(words, 12) };
  settle(session, request, session.filesystem.getLock(request.inode, owner, lock), replyLock);
}

export function setlk(session: Session, request: Request, words: Uint32Array): void {
  setlkWith(session, request, words, false);
}

export function setlkw(session: Session, request: Request, words: Uint32Array): void {
  setlkWith(session, request, words, true);
}

/** The last close of a handle: no owner can have locks through it any more. */
export function releaseRanges(session: Session, request: Request, handle: number): void {
  const owners = session.rangeOwners.get(handle);
  if (owners === undefined) return;
  session.rangeOwners.delete(handle);
  const everything: RangeLock = { start: 0n, end: LOCK_END, type: 'unlock', pid: request.pid };
  for (const owner of owners) {
    const holder = { mount: session.mount, owner };
    void session.filesystem.setLock(request, request.inode, holder, everything, {
      wait: false,
      flock: false,
    });
  }
}

function noteOwner(session: Session, handle: number, owner: bigint): void {
  const owners = session.rangeOwners.get(handle);
  if (owners === undefined) session.rangeOwners.set(handle, new Set([owner]));
  else owners.add(owner);
}

function setlkWith(session: Session, request: Request, words: Uint32Array, wait: boolean): void {
  const lock = decode(words);
  if (lock === undefined) {
    replyError(session, request, ERRNO.EINVAL);
    return;
  }
  const owner = { mount: session.mount, owner: big64(words, 12) };
  const flock = (word(words, 20) & LK_FLOCK) !== 0;
  if (!flock && lock.type !== 'unlock') noteOwner(session, u64(words, 10), owner.owner);
  const answer = session.filesystem.setLock(request, request.inode, owner, lock, { wait, flock });
  settle(session, request, answer, replyEmpty);
}

function decode(words: Uint32Array): RangeLock | undefined {
  const type = TYPES[word(words, 18)];
  if (type === undefined) return undefined;
  return { start: big64(words, 14), end: big64(words, 16), type, pid: word(words, 19) };
}

function replyLock(session: Session, request: Request, lock: RangeLock | undefined): void {
  const { words } = session;
  words.fill(0, 4, 10);
  if (lock === undefined) words[8] = TYPES.indexOf('unlock');
  else {
    putBig64(words, 4, lock.start);
    putBig64(words, 6, lock.end);
    words[8] = TYPES.indexOf(lock.type);
    words[9] = lock.pid;
  }
  replySmall(session, request, 24);
}
