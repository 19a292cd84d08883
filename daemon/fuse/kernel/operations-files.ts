/** The requests that work on an inode's attributes and data. */

import type { AllocateMode, AttributeChanges, OpenResult } from '../../filesystem/interface.ts';
import { ERRNO } from '../../protocol/errors.ts';
import type { Inode } from '../../protocol/ids.ts';
import type { ReplyBuffer } from './buffers.ts';
import {
  big64,
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
  FOPEN_KEEP_CACHE,
  FSYNC_FDATASYNC,
  i64,
  O,
  OPEN_KILL_SUIDGID,
  OUT_HEADER_BYTES,
  put64,
  RELEASE_FLOCK_UNLOCK,
  SEEK_DATA,
  SEEK_HOLE,
  SETATTR,
  u64,
  WRITE_CACHE,
  WRITE_DATA_OFFSET,
  WRITE_KILL_SUIDGID,
  word,
} from './protocol.ts';
import { newHandle, releaseRanges } from './operations-locks.ts';
import type { Request } from './request.ts';
import {
  fail,
  replyAttributes,
  replyBuffer,
  replyEmpty,
  replyError,
  replySmall,
  type Session,
  settle,
} from './session.ts';

export function getattr(session: Session, request: Request): void {
  settle(session, request, session.filesystem.getattr(request.inode), replyAttributes);
}

export function setattr(session: Session, request: Request, words: Uint32Array): void {
  const valid = word(words, 10);
  const changes: { -readonly [Key in keyof AttributeChanges]: AttributeChanges[Key] } = {};
  if (valid & SETATTR.MODE) changes.mode = word(words, 27) & 0o7777;
  if (valid & SETATTR.UID) changes.uid = word(words, 29);
  if (valid & SETATTR.GID) changes.gid = word(words, 30);
  if (valid & SETATTR.SIZE) changes.size = u64(words, 14);
  if (valid & SETATTR.ATIME_NOW) changes.atime = 'now';
  else if (valid & SETATTR.ATIME) changes.atime = { seconds: i64(words, 18), nanoseconds: word(words, 24) };
  if (valid & SETATTR.MTIME_NOW) changes.mtime = 'now';
  else if (valid & SETATTR.MTIME) changes.mtime = { seconds: i64(words, 20), nanoseconds: word(words, 25) };
  if (valid & SETATTR.KILL_SUIDGID) changes.killPrivileges = true;
  settle(session, request, session.filesystem.setattr(request, request.inode, changes), replyAttributes);
}

export function open(session: Session, request: Request, words: Uint32Array): void {
  const flags = word(words, 10);
  const answer = session.filesystem.open(request, request.inode, {
    truncate: (flags & O.TRUNC) !== 0,
    write: (flags & O.ACCMODE) !== 0,
    killPrivileges: (word(words, 11) & OPEN_KILL_SUIDGID) !== 0,
  });
  settle(session, request, answer, replyOpen);
}

function replyOpen(session: Session, request: Request, { keepCache }: OpenResult): void {
  const { words } = session;
  put64(words, 4, newHandle(session));
  words[6] = keepCache ? FOPEN_KEEP_CACHE : 0;
  words[7] = 0;
  replySmall(session, request, 16);
}

export function read(session: Session, request: Request, words: Uint32Array): void {
  const size = word(words, 14);
  const buffer = session.buffers.take(size);
  const target = buffer.bytes.subarray(OUT_HEADER_BYTES, OUT_HEADER_BYTES + size);
  const answer = session.filesystem.read(request, request.inode, u64(words, 12), target);
  if (typeof answer === 'number') replyBuffer(session, request, buffer, answer);
  else readLater(session, request, buffer, answer);
}

function readLater(session: Session, request: Request, buffer: ReplyBuffer, answer: Promise<number>): void {
  const key = request.key;
  session.pending.set(key, request);
  answer.then(
    (count) => {
      session.pending.delete(key);
      replyBuffer(session, request, buffer, count);
    },
    (error: unknown) => {
      session.pending.delete(key);
      session.buffers.give(buffer);
      fail(session, request, error);
    },
  );
}

export function write(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const size = word(words, 14);
  const writeFlags = word(words, 15);
  const answer = session.filesystem.write(
    request,
    request.inode,
    u64(words, 12),
    bytes.subarray(WRITE_DATA_OFFSET, WRITE_DATA_OFFSET + size),
    {
      // A page written back from a mapping has its place, whatever the flags of the file it came through.
      append: (word(words, 18) & O.APPEND) !== 0 && (writeFlags & WRITE_CACHE) === 0,
      killPrivileges: (writeFlags & WRITE_KILL_SUIDGID) !== 0,
    },
  );
  settle(session, request, answer, replyCount);
}

function replyCount(session: Session, request: Request, count: number): void {
  session.words[4] = count;
  session.words[5] = 0;
  replySmall(session, request, 8);
}

export function flush(session: Session, request: Request, words: Uint32Array): void {
  settle(session, request, session.filesystem.flush(request, request.inode, big64(words, 14)), replyEmpty);
}

export function release(session: Session, request: Request, words: Uint32Array): void {
  if (word(words, 13) & RELEASE_FLOCK_UNLOCK) {
    session.filesystem.releaseFlock(request.inode, { mount: session.mount, owner: big64(words, 14) });
  }
  releaseRanges(session, request, u64(words, 10));
  settle(session, request, session.filesystem.release(request, request.inode), replyEmpty);
}

export function fsync(session: Session, request: Request, words: Uint32Array): void {
  const dataOnly = (word(words, 12) & FSYNC_FDATASYNC) !== 0;
  settle(session, request, session.filesystem.fsync(request.inode, dataOnly, request), replyEmpty);
}

export function fallocate(session: Session, request: Request, words: Uint32Array): void {
  const mode = allocateMode(word(words, 16));
  if (mode === undefined) {
    replyError(session, request, ERRNO.EOPNOTSUPP);
    return;
  }
  const range = { offset: u64(words, 12), length: u64(words, 14) };
  settle(session, request, session.filesystem.allocate(request, request.inode, mode, range), replyEmpty);
}

function allocateMode(flags: number): AllocateMode | undefined {
  switch (flags) {
    case 0:
      return { kind: 'allocate', keepSize: false };
    case FALLOC_KEEP_SIZE:
      return { kind: 'allocate', keepSize: true };
    case FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE:
      return { kind: 'punch-hole' };
    case FALLOC_ZERO_RANGE:
      return { kind: 'zero-range', keepSize: false };
    case FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE:
      return { kind: 'zero-range', keepSize: true };
    default:
      return undefined;
  }
}

export function lseek(session: Session, request: Request, words: Uint32Array): void {
  const whence = word(words, 14);
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) {
    replyError(session, request, ERRNO.EINVAL);
    return;
  }
  const kind = whence === SEEK_DATA ? 'data' : 'hole';
  settle(session, request, session.filesystem.seek(request.inode, u64(words, 12), kind), replyOffset);
}

function replyOffset(session: Session, request: Request, offset: number): void {
  put64(session.words, 4, offset);
  replySmall(session, request, 8);
}

/** The reply counts in 32 bits; a program that asks for more calls again. */
const COPY_BYTES_MAX = 2 ** 31 - 4096;

export function copyFileRange(session: Session, request: Request, words: Uint32Array): void {
  const from = { inode: request.inode, offset: u64(words, 12) };
  const to = { inode: u64(words, 14) as Inode, offset: u64(words, 18) };
  const length = Math.min(u64(words, 20), COPY_BYTES_MAX);
  settle(session, request, session.filesystem.copyRange(request, from, to, length), replyCount);
}
