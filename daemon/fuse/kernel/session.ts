/**
 * What every operation of one mount shares: the file system, the descriptor, the requests that wait, and how
 * an answer gets back to the kernel.
 *
 * An answer that is there at once is written at once, with no promise and no table. One that comes later is
 * kept in `pending` until it settles, so that an INTERRUPT can find it. A request is answered exactly once;
 * a request that is never answered hangs its program, so every path ends in a reply or in `fail`.
 */

import { writeSync } from 'node:fs';
import type { Attributes, FileSystem, MaybePromise } from '../../filesystem/interface.ts';
import { FsError, ERRNO, systemErrorCode } from '../../protocol/errors.ts';
import { type MountId, ROOT_INODE } from '../../protocol/ids.ts';
import type { Log } from '../../runtime/log.ts';
import { type BufferPool, createBufferPool } from './buffers.ts';
import { type KnownInodes, knownInodes } from './known-inodes.ts';
import { OUT_HEADER_BYTES, put64 } from './protocol.ts';
import type { Request } from './request.ts';

/** Largest reply of fixed shape: the entry and open of CREATE. */
const SMALL_REPLY_BYTES = 256;
/**
 * How long the kernel may use a name or attributes without asking. Long, because every change made elsewhere
 * is invalidated explicitly; not for ever, so that a lost invalidation heals.
 */
const CACHE_SECONDS = 120;
const BLOCK_BYTES = 4096;

export const ENTRY_WORDS = 32;

export interface Session {
  readonly mount: MountId;
  readonly filesystem: FileSystem;
  readonly log: Log;
  /** The open /dev/fuse; -1 after the mount is gone. */
  descriptor: number;
  readonly pending: Map<number, Request>;
  /** Requests that came in this turn of the event loop: the reader counts them. */
  requestsInTurn: number;
  /** Who locked ranges through a file handle. */
  readonly rangeOwners: Map<number, Set<bigint>>;
  lastHandle: number;
  readonly buffers: BufferPool;
  /** Inodes that the kernel was told of. */
  readonly known: KnownInodes;
  /** The one small reply under construction: replies are written before anything else runs. */
  readonly words: Uint32Array;
  readonly bytes: Buffer;
  /** Set by INIT: SETXATTR carries the longer structure. */
  extendedSetxattr: boolean;
}

export function createSession(options: {
  mount: MountId;
  filesystem: FileSystem;
  log: Log;
  descriptor: number;
}): Session {
  const small = new ArrayBuffer(SMALL_REPLY_BYTES);
  const known = knownInodes();
  known.add(ROOT_INODE);
  return {
    ...options,
    pending: new Map(),
    requestsInTurn: 0,
    rangeOwners: new Map(),
    lastHandle: 0,
    buffers: createBufferPool(),
    known,
    words: new Uint32Array(small),
    bytes: Buffer.from(small),
    extendedSetxattr: false,
  };
}

/** Replies with `reply` when the answer is there; a rejection becomes the error reply. */
export function settle<T>(
  session: Session,
  request: Request,
  answer: MaybePromise<T>,
  reply: (session: Session, request: Request, value: T) => void,
): void {
  if (!(answer instanceof Promise)) {
    reply(session, request, answer);
    return;
  }
  const key = request.key;
  session.pending.set(key, request);
  answer.then(
    (value) => {
      session.pending.delete(key);
      // A reply that throws (a value out of range) must still become an answer.
      try {
        reply(session, request, value);
      } catch (error) {
        fail(session, request, error);
      }
    },
    (error: unknown) => {
      session.pending.delete(key);
      fail(session, request, error);
    },
  );
}

/** Answers an error: an FsError's errno, EIO for a defect, which is logged. */
export function fail(session: Session, request: Request, error: unknown): void {
  if (error instanceof FsError) {
    replyError(session, request, error.errno);
    return;
  }
  session.log.error('a file operation failed with an unexpected error; the program got EIO', {
    opcode: request.opcode,
    inode: request.inode,
    error: error instanceof Error ? (error.stack ?? error.message) : String(error),
  });
  replyError(session, request, ERRNO.EIO);
}

export function replyError(session: Session, request: Request, errno: number): void {
  session.words[1] = -errno;
  send(session, request, session.words, session.bytes, 0);
}

export function replyEmpty(session: Session, request: Request): void {
  session.words[1] = 0;
  send(session, request, session.words, session.bytes, 0);
}

/** Sends the small reply whose body of `bodyBytes` was put into `session.words` from word 4 on. */
export function replySmall(session: Session, request: Request, bodyBytes: number): void {
  session.words[1] = 0;
  send(session, request, session.words, session.bytes, bodyBytes);
}

/** Sends data that lies in a buffer of the pool, and gives the buffer back. */
export function replyBuffer(
  session: Session,
  request: Request,
  buffer: { words: Uint32Array; bytes: Buffer; sizeClass: number },
  bodyBytes: number,
): void {
  buffer.words[1] = 0;
  send(session, request, buffer.words, buffer.bytes, bodyBytes);
  session.buffers.give(buffer);
}

/** Sends bytes of the file system's own (a link's target, an attribute's value). */
export function replyBytes(session: Session, request: Request, value: Uint8Array): void {
  const buffer = session.buffers.take(value.length);
  buffer.bytes.set(value, OUT_HEADER_BYTES);
  replyBuffer(session, request, buffer, value.length);
}

/** Word 1 (the error) is the caller's. */
function send(
  session: Session,
  request: Request,
  words: Uint32Array,
  bytes: Buffer,
  bodyBytes: number,
): void {
  if (request.answered) return;
  request.answered = true;
  if (session.descriptor < 0) return;
  const length = OUT_HEADER_BYTES + bodyBytes;
  words[0] = length;
  words[2] = request.uniqueLow;
  words[3] = request.uniqueHigh;
  try {
    writeSync(session.descriptor, bytes, 0, length);
  } catch (error) {
    const code = systemErrorCode(error);
    // The mount went away, or was aborted, while the request was served: nobody waits for the answer.
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ECONNABORTED') return;
    session.log.error('the kernel refused a reply', { opcode: request.opcode, bodyBytes, code });
    if (bodyBytes > 0) {
      request.answered = false;
      replyError(session, request, ERRNO.EIO);
    }
  }
}

/** `struct fuse_entry_out`:. */
export function replyEntry(session: Session, request: Request, attributes: Attributes): void {
  putEntry(session, session.words, 4, attributes);
  replySmall(session, request, ENTRY_WORDS * 4);
}

/** A name that does not exist, which the kernel may remember. */
export function replyNegativeEntry(session: Session, request: Request): void {
  session.words.fill(0, 4, 4 + ENTRY_WORDS);
  put64(session.words, 8, CACHE_SECONDS);
  replySmall(session, request, ENTRY_WORDS * 4);
}

export function replyAttributes(session: Session, request: Request, attributes: Attributes): void {
  const { words } = session;
  put64(words, 4, CACHE_SECONDS);
  words[6] = 0;
  words[7] = 0;
  putAttributes(words, 8, attributes);
  replySmall(session, request, 104);
}

/** Writes an entry at `index`; the kernel knows its inode from then on. */
export function putEntry(session: Session, words: Uint32Array, index: number, attributes: Attributes): void {
  session.known.add(attributes.inode);
  put64(words, index, attributes.inode);
  // The generation is 0 for ever because inode numbers are never reused.
  put64(words, index + 2, 0);
  put64(words, index + 4, CACHE_SECONDS);
  put64(words, index + 6, CACHE_SECONDS);
  words[index + 8] = 0;
  words[index + 9] = 0;
  putAttributes(words, index + 10, attributes);
}

/** `struct fuse_attr`, 22 words. */
function putAttributes(words: Uint32Array, index: number, attributes: Attributes): void {
  put64(words, index, attributes.inode);
  put64(words, index + 2, attributes.size);
  put64(words, index + 4, attributes.blocks);
  put64(words, index + 6, attributes.atime.seconds);
  put64(words, index + 8, attributes.mtime.seconds);
  put64(words, index + 10, attributes.ctime.seconds);
  words[index + 12] = attributes.atime.nanoseconds;
  words[index + 13] = attributes.mtime.nanoseconds;
  words[index + 14] = attributes.ctime.nanoseconds;
  words[index + 15] = attributes.mode;
  words[index + 16] = attributes.links;
  words[index + 17] = attributes.uid;
  words[index + 18] = attributes.gid;
  words[index + 19] = attributes.rdev;
  words[index + 20] = BLOCK_BYTES;
  words[index + 21] = 0;
}
