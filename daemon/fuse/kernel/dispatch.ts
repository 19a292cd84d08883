/** From opcode to handler: the one table of what Warren answers. */

import { ERRNO } from '../../protocol/errors.ts';
import type { Inode } from '../../protocol/ids.ts';
import * as directories from './operations-directories.ts';
import * as files from './operations-files.ts';
import * as locks from './operations-locks.ts';
import * as names from './operations-names.ts';
import * as xattrs from './operations-xattrs.ts';
import { OPCODE, u64, word } from './protocol.ts';
import { Request } from './request.ts';
import { fail, replyEmpty, replyError, type Session } from './session.ts';

/** `words` and `bytes` are the message, valid until the handler returns. */
type Handler = (session: Session, request: Request, words: Uint32Array, bytes: Buffer) => void;

const HANDLERS: Handler[] = handlers();

/** What is not an operation on the file system: answered by the mount itself. */
export interface Control {
  init(request: Request, words: Uint32Array): void;
  interrupt(words: Uint32Array): void;
}

/** Answers one message. Never throws: whatever goes wrong is the request's answer. */
export function dispatch(session: Session, control: Control, words: Uint32Array, bytes: Buffer): void {
  const opcode = word(words, 1);
  // These three have no reply.
  if (opcode === OPCODE.FORGET) {
    session.filesystem.forget(u64(words, 4) as Inode);
    return;
  }
  if (opcode === OPCODE.BATCH_FORGET) {
    const count = word(words, 10);
    for (let item = 0; item < count; item++) {
      const at = 12 + item * 4;
      session.filesystem.forget(u64(words, at) as Inode);
    }
    return;
  }
  if (opcode === OPCODE.INTERRUPT) {
    control.interrupt(words);
    return;
  }
  const request = new Request(session, words);
  if (opcode === OPCODE.INIT) {
    control.init(request, words);
    return;
  }
  const handler = HANDLERS[opcode] ?? notImplemented;
  try {
    handler(session, request, words, bytes);
  } catch (error) {
    fail(session, request, error);
  }
}

/** The kernel remembers ENOSYS and does not ask again (OPENDIR, ACCESS, POLL, BMAP, …). */
function notImplemented(session: Session, request: Request): void {
  replyError(session, request, ERRNO.ENOSYS);
}

function handlers(): Handler[] {
  const table: Handler[] = [];
  table[OPCODE.LOOKUP] = names.lookup;
  table[OPCODE.GETATTR] = files.getattr;
  table[OPCODE.SETATTR] = files.setattr;
  table[OPCODE.READLINK] = names.readlink;
  table[OPCODE.SYMLINK] = names.symlink;
  table[OPCODE.MKNOD] = names.mknod;
  table[OPCODE.MKDIR] = names.mkdir;
  table[OPCODE.UNLINK] = names.unlink;
  table[OPCODE.RMDIR] = names.rmdir;
  table[OPCODE.RENAME] = names.rename;
  table[OPCODE.RENAME2] = names.rename2;
  table[OPCODE.LINK] = names.link;
  table[OPCODE.CREATE] = names.create;
  table[OPCODE.TMPFILE] = names.tmpfile;
  table[OPCODE.OPEN] = files.open;
  table[OPCODE.READ] = files.read;
  table[OPCODE.WRITE] = files.write;
  table[OPCODE.RELEASE] = files.release;
  table[OPCODE.FLUSH] = files.flush;
  table[OPCODE.FSYNC] = files.fsync;
  table[OPCODE.FSYNCDIR] = files.fsync;
  table[OPCODE.FALLOCATE] = files.fallocate;
  table[OPCODE.LSEEK] = files.lseek;
  table[OPCODE.COPY_FILE_RANGE] = files.copyFileRange;
  table[OPCODE.READDIR] = directories.readdir;
  table[OPCODE.READDIRPLUS] = directories.readdirplus;
  table[OPCODE.STATFS] = directories.statfs;
  table[OPCODE.SETXATTR] = xattrs.setxattr;
  table[OPCODE.GETXATTR] = xattrs.getxattr;
  table[OPCODE.LISTXATTR] = xattrs.listxattr;
  table[OPCODE.REMOVEXATTR] = xattrs.removexattr;
  table[OPCODE.GETLK] = locks.getlk;
  table[OPCODE.SETLK] = locks.setlk;
  table[OPCODE.SETLKW] = locks.setlkw;
  table[OPCODE.DESTROY] = replyEmpty;
  // ENOSYS would make every later ioctl of the mount fail with the same; ENOTTY is what "no such ioctl" is.
  table[OPCODE.IOCTL] = (session, request) => replyError(session, request, ERRNO.ENOTTY);
  return table;
}
