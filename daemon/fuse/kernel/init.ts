/** INIT: what the kernel offers and what Warren takes of it. */

import { ERRNO } from '../../protocol/errors.ts';
import {
  INIT,
  INIT2,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  TRANSFER_BYTES_MAX,
  TRANSFER_PAGES_MAX,
  word,
} from './protocol.ts';
import type { Request } from './request.ts';
import { replyError, replySmall, type Session } from './session.ts';

/** 7.31 came with Linux 5.4; below it, explicit invalidation and killing of privileges are missing. */
export const KERNEL_MINOR_MIN = 31;
/** Requests the kernel may have under way on its own account (readahead, write-back). */
const BACKGROUND_REQUESTS_MAX = 64;
const CONGESTION_REQUESTS = 48;
const READAHEAD_BYTES_MAX = 16 * 1024 * 1024;

/**
 * Left out on purpose: ASYNC_DIO, with which a program in a direct read waits uninterruptibly and cannot be killed
 * while the answer is out; WRITEBACK_CACHE, with which close would no longer mean that the daemon has the data.
 */
const WANTED =
  INIT.ASYNC_READ |
  INIT.POSIX_LOCKS |
  INIT.ATOMIC_O_TRUNC |
  INIT.BIG_WRITES |
  INIT.DONT_MASK |
  INIT.FLOCK_LOCKS |
  INIT.DO_READDIRPLUS |
  INIT.PARALLEL_DIROPS |
  INIT.POSIX_ACL |
  INIT.MAX_PAGES |
  INIT.CACHE_SYMLINKS |
  INIT.NO_OPENDIR_SUPPORT |
  INIT.EXPLICIT_INVAL_DATA |
  INIT.HANDLE_KILLPRIV_V2 |
  INIT.SETXATTR_EXT |
  INIT.INIT_EXT;
const WANTED2 = INIT2.DIRECT_IO_ALLOW_MMAP;

export interface Negotiated {
  /** The kernel's own minor version, which may be above the one spoken. */
  readonly kernelMinor: number;
  /** False: the kernel is too old and was refused. */
  readonly accepted: boolean;
}

/** Answers INIT. Undefined when the kernel must ask again with an older major version. */
export function negotiate(session: Session, request: Request, offer: Uint32Array): Negotiated | undefined {
  const major = word(offer, 10);
  const kernelMinor = word(offer, 11);
  const reply = session.words;
  reply.fill(0, 4, 20);
  reply[4] = PROTOCOL_MAJOR;
  reply[5] = Math.min(kernelMinor, PROTOCOL_MINOR);
  if (major > PROTOCOL_MAJOR) {
    replySmall(session, request, 64);
    return undefined;
  }
  if (major < PROTOCOL_MAJOR || kernelMinor < KERNEL_MINOR_MIN) {
    replyError(session, request, ERRNO.EPROTO);
    return { kernelMinor, accepted: false };
  }
  const flags = word(offer, 13) & WANTED;
  session.extendedSetxattr = (flags & INIT.SETXATTR_EXT) !== 0;
  reply[6] = Math.max(word(offer, 12), READAHEAD_BYTES_MAX);
  reply[7] = flags;
  reply[8] = BACKGROUND_REQUESTS_MAX | (CONGESTION_REQUESTS << 16);
  reply[9] = TRANSFER_BYTES_MAX;
  reply[10] = 1;
  reply[11] = TRANSFER_PAGES_MAX;
  reply[12] = flags & INIT.INIT_EXT ? word(offer, 14) & WANTED2 : 0;
  replySmall(session, request, 64);
  return { kernelMinor, accepted: true };
}
