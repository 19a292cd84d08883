/** Extended attributes. A size of 0 asks how much room the answer needs. */

import { ERRNO } from '../../protocol/errors.ts';
import { SETXATTR_ACL_KILL_SGID, word, XATTR_CREATE, XATTR_REPLACE } from './protocol.ts';
import { copyBytes, copyString, type Request } from './request.ts';
import { replyBytes, replyEmpty, replyError, replySmall, type Session, settle } from './session.ts';

/** XATTR_LIST_MAX of the kernel. */
const LIST_BYTES_MAX = 65_536;

export function setxattr(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const size = word(words, 10);
  const flags = word(words, 11);
  const extended = session.extendedSetxattr;
  const killSetgid = extended && (word(words, 12) & SETXATTR_ACL_KILL_SGID) !== 0;
  const nameAt = extended ? 56 : 48;
  const name = copyString(bytes, nameAt);
  const valueAt = nameAt + name.length + 1;
  const value = copyBytes(bytes, valueAt, valueAt + size);
  const mode = {
    create: (flags & XATTR_CREATE) !== 0,
    replace: (flags & XATTR_REPLACE) !== 0,
    killSetgid,
  };
  settle(
    session,
    request,
    session.filesystem.setxattr(request, request.inode, name, value, mode),
    replyEmpty,
  );
}

export function getxattr(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const room = word(words, 10);
  const name = copyString(bytes, 48);
  const answer = session.filesystem.getxattr(request.inode, name);
  settle(session, request, answer, (session, request, value) => {
    if (value === undefined) replyError(session, request, ERRNO.ENODATA);
    else replySized(session, request, value, room);
  });
}

export function listxattr(session: Session, request: Request, words: Uint32Array): void {
  const room = word(words, 10);
  settle(
    session,
    request,
    session.filesystem.listxattr(request, request.inode),
    (session, request, names) => {
      const separator = Buffer.alloc(1);
      const whole = Buffer.concat(names.flatMap((name) => [name, separator]));
      if (whole.length > LIST_BYTES_MAX) replyError(session, request, ERRNO.E2BIG);
      else replySized(session, request, whole, room);
    },
  );
}

function replySized(session: Session, request: Request, value: Uint8Array, room: number): void {
  if (room === 0) {
    session.words[4] = value.length;
    session.words[5] = 0;
    replySmall(session, request, 8);
  } else if (value.length > room) replyError(session, request, ERRNO.ERANGE);
  else replyBytes(session, request, value);
}

export function removexattr(session: Session, request: Request, _words: Uint32Array, bytes: Buffer): void {
  const name = copyString(bytes, 40);
  settle(session, request, session.filesystem.removexattr(request, request.inode, name), replyEmpty);
}
