/** The requests that work on names: looking them up, making, moving and removing them. */

import type { Attributes } from '../../filesystem/interface.ts';
import { ERRNO, FsError } from '../../protocol/errors.ts';
import type { Inode } from '../../protocol/ids.ts';
import {
  FOPEN_KEEP_CACHE,
  O,
  OPEN_KILL_SUIDGID,
  put64,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  u64,
  word,
} from './protocol.ts';
import { newHandle, noteOpened } from './handles.ts';
import { copyName, copyString, type Request } from './request.ts';
import {
  ENTRY_WORDS,
  putEntry,
  replyBytes,
  replyEmpty,
  replyEntry,
  replyError,
  replyNegativeEntry,
  replySmall,
  type Session,
  settle,
} from './session.ts';

export function lookup(session: Session, request: Request, _words: Uint32Array, bytes: Buffer): void {
  const name = copyName(bytes, 40);
  settle(session, request, session.filesystem.lookup(request.inode, name), replyLookup);
}

function replyLookup(session: Session, request: Request, attributes: Attributes | undefined): void {
  if (attributes === undefined) replyNegativeEntry(session, request);
  else replyEntry(session, request, attributes);
}

export function mknod(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const node = { mode: word(words, 10), rdev: word(words, 11), umask: word(words, 12) };
  const name = copyName(bytes, 56);
  settle(session, request, session.filesystem.mknod(request, request.inode, name, node), replyEntry);
}

export function mkdir(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const node = { mode: S_IFDIR | (word(words, 10) & 0o7777), umask: word(words, 11) };
  const name = copyName(bytes, 48);
  settle(session, request, session.filesystem.mknod(request, request.inode, name, node), replyEntry);
}

export function symlink(session: Session, request: Request, _words: Uint32Array, bytes: Buffer): void {
  const name = copyName(bytes, 40);
  const target = copyString(bytes, 40 + name.length + 1);
  settle(session, request, session.filesystem.symlink(request, request.inode, name, target), replyEntry);
}

export function readlink(session: Session, request: Request): void {
  settle(session, request, session.filesystem.readlink(request, request.inode), replyBytes);
}

export function link(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const inode = u64(words, 10) as Inode;
  const name = copyName(bytes, 48);
  settle(session, request, session.filesystem.link(request, inode, request.inode, name), replyEntry);
}

export function unlink(session: Session, request: Request, _words: Uint32Array, bytes: Buffer): void {
  const name = copyName(bytes, 40);
  settle(session, request, session.filesystem.unlink(request, request.inode, name), replyEmpty);
}

export function rmdir(session: Session, request: Request, _words: Uint32Array, bytes: Buffer): void {
  const name = copyName(bytes, 40);
  settle(session, request, session.filesystem.rmdir(request, request.inode, name), replyEmpty);
}

export function rename(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  renameWith(session, request, words, bytes, { flags: 0, namesAt: 48 });
}

export function rename2(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  renameWith(session, request, words, bytes, { flags: word(words, 12), namesAt: 56 });
}

function renameWith(
  session: Session,
  request: Request,
  words: Uint32Array,
  bytes: Buffer,
  { flags, namesAt }: { flags: number; namesAt: number },
): void {
  const noReplace = (flags & RENAME_NOREPLACE) !== 0;
  const exchange = (flags & RENAME_EXCHANGE) !== 0;
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) !== 0 || (noReplace && exchange)) {
    // RENAME_WHITEOUT serves overlayfs; there are no whiteouts here.
    replyError(session, request, ERRNO.EINVAL);
    return;
  }
  const from = { parent: request.inode, name: copyName(bytes, namesAt) };
  const to = { parent: u64(words, 10) as Inode, name: copyName(bytes, namesAt + from.name.length + 1) };
  settle(session, request, session.filesystem.rename(request, from, to, { noReplace, exchange }), replyEmpty);
}

export function create(session: Session, request: Request, words: Uint32Array, bytes: Buffer): void {
  const flags = word(words, 10);
  const killPrivileges = (word(words, 13) & OPEN_KILL_SUIDGID) !== 0;
  const node = { mode: S_IFREG | (word(words, 11) & 0o7777), umask: word(words, 12) };
  const name = copyName(bytes, 56);
  const made = session.filesystem.create(request, request.inode, name, node);
  const answer =
    (flags & O.EXCL) !== 0
      ? made.then(asNew)
      : made.then(asNew, (error: unknown) => {
          if (!(error instanceof FsError) || error.errno !== ERRNO.EEXIST) throw error;
          return openExisting(session, request, name, { flags, killPrivileges });
        });
  settleCreated(session, request, answer, flags);
}

export function tmpfile(session: Session, request: Request, words: Uint32Array): void {
  const node = { mode: S_IFREG | (word(words, 11) & 0o7777), umask: word(words, 12) };
  const made = session.filesystem.tmpfile(request, request.inode, node);
  settleCreated(session, request, made.then(asNew), word(words, 10));
}

function settleCreated(session: Session, request: Request, answer: Promise<Created>, flags: number): void {
  settle(session, request, answer, (session, request, created) => {
    noteOpened(session, created.attributes.inode, flags);
    replyCreated(session, request, created);
  });
}

interface Created {
  readonly attributes: Attributes;
  readonly keepCache: boolean;
}

function asNew(attributes: Attributes): Created {
  return { attributes, keepCache: true };
}

/**
 * O_CREAT without O_EXCL found the name taken: another mount made it after this kernel had looked. The kernel
 * accepts only a regular file here; for anything else ESTALE makes it look the name up again.
 */
async function openExisting(
  session: Session,
  request: Request,
  name: Buffer,
  { flags, killPrivileges }: { flags: number; killPrivileges: boolean },
): Promise<Created> {
  const { filesystem } = session;
  const existing = await filesystem.lookup(request.inode, name);
  if (existing === undefined || (existing.mode & S_IFMT) !== S_IFREG) throw new FsError('ESTALE');
  const { keepCache } = await filesystem.open(request, existing.inode, {
    truncate: (flags & O.TRUNC) !== 0,
    write: (flags & O.ACCMODE) !== 0,
    killPrivileges,
  });
  return { attributes: await filesystem.getattr(existing.inode), keepCache };
}

function replyCreated(session: Session, request: Request, { attributes, keepCache }: Created): void {
  const { words } = session;
  putEntry(session, words, 4, attributes);
  const open = 4 + ENTRY_WORDS;
  put64(words, open, newHandle(session));
  words[open + 2] = keepCache ? FOPEN_KEEP_CACHE : 0;
  words[open + 3] = 0;
  replySmall(session, request, ENTRY_WORDS * 4 + 16);
}
