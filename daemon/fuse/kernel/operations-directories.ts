/** The requests that list a directory, with and without attributes, and the statistics of the whole. */

import type {
  DirectoryEntry,
  FileSystem,
  FileSystemStatistics,
  ListedEntry,
  MaybePromise,
} from '../../filesystem/interface.ts';
import { FsError } from '../../protocol/errors.ts';
import type { ReplyBuffer } from './buffers.ts';
import { OUT_HEADER_BYTES, put64, u64, word } from './protocol.ts';
import type { Request } from './request.ts';
import { ENTRY_WORDS, putEntry, replyBuffer, replySmall, type Session, settle } from './session.ts';

/** `struct fuse_dirent` without the name. */
const DIRENT_BYTES = 24;
const ENTRY_BYTES = ENTRY_WORDS * 4;
const OUT_HEADER_WORDS = OUT_HEADER_BYTES / 4;
/** Names average 10 to 30 bytes: asking for what 16-byte names need rarely asks in vain or falls short. */
const NAME_BYTES_TYPICAL = 16;

export function readdir(session: Session, request: Request, words: Uint32Array): void {
  const size = word(words, 14);
  const answer = list(session, request, words, size, DIRENT_BYTES + NAME_BYTES_TYPICAL);
  settle(session, request, answer, (session, request, entries) => {
    const buffer = session.buffers.take(size);
    let used = 0;
    for (const entry of entries) {
      const bytes = direntBytes(entry);
      if (used + bytes > size) break;
      putDirent(buffer, OUT_HEADER_BYTES + used, entry);
      used += bytes;
    }
    replyBuffer(session, request, buffer, used);
  });
}

export function readdirplus(session: Session, request: Request, words: Uint32Array): void {
  const size = word(words, 14);
  const entryBytes = ENTRY_BYTES + DIRENT_BYTES + NAME_BYTES_TYPICAL;
  settle(
    session,
    request,
    listPlus(session, request, words, size, entryBytes),
    (session, request, listed) => {
      replyPlus(session, request, size, listed);
    },
  );
}

function list(session: Session, request: Request, words: Uint32Array, size: number, entryBytes: number) {
  const cookie = u64(words, 12);
  if (cookie === 0) session.filesystem.touchAccess(request, request.inode);
  return session.filesystem.readdir(request.inode, cookie, Math.ceil(size / entryBytes));
}

function listPlus(
  session: Session,
  request: Request,
  words: Uint32Array,
  size: number,
  entryBytes: number,
): MaybePromise<ListedEntry[]> {
  const { filesystem } = session;
  if (filesystem.readdirPlus === undefined) {
    const entries = list(session, request, words, size, entryBytes);
    return entries instanceof Promise
      ? entries.then((arrived) => askEach(filesystem, arrived))
      : askEach(filesystem, entries);
  }
  const cookie = u64(words, 12);
  if (cookie === 0) filesystem.touchAccess(request, request.inode);
  return filesystem.readdirPlus(request.inode, cookie, Math.ceil(size / entryBytes));
}

function askEach(filesystem: FileSystem, entries: DirectoryEntry[]): Promise<ListedEntry[]> {
  return Promise.all(
    entries.map(async (entry) => {
      if (isDot(entry.name)) return { entry, attributes: undefined };
      try {
        return { entry, attributes: await filesystem.getattr(entry.inode) };
      } catch (error) {
        return { entry, attributes: undefinedWhenGone(error) };
      }
    }),
  );
}

function undefinedWhenGone(error: unknown): undefined {
  if (error instanceof FsError && (error.code === 'ESTALE' || error.code === 'ENOENT')) return undefined;
  throw error;
}

/** As many as fit: those that do not are asked for again. */
function replyPlus(session: Session, request: Request, size: number, listed: readonly ListedEntry[]): void {
  const buffer = session.buffers.take(size);
  let used = 0;
  for (const { entry, attributes } of listed) {
    const bytes = ENTRY_BYTES + direntBytes(entry);
    if (used + bytes > size) break;
    const at = OUT_HEADER_WORDS + used / 4;
    // Without attributes the kernel takes the entry as a plain name (node id 0).
    if (attributes === undefined) buffer.words.fill(0, at, at + ENTRY_WORDS);
    else putEntry(session, buffer.words, at, attributes);
    putDirent(buffer, OUT_HEADER_BYTES + used + ENTRY_BYTES, entry);
    used += bytes;
  }
  replyBuffer(session, request, buffer, used);
}

function isDot(name: Uint8Array): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));
}

function direntBytes(entry: DirectoryEntry): number {
  return DIRENT_BYTES + ((entry.name.length + 7) & ~7);
}

/** `offset` in bytes, a multiple of 8. The padding after the name is zeroed: the buffer held other data. */
function putDirent(buffer: ReplyBuffer, offset: number, entry: DirectoryEntry): void {
  const { words, bytes } = buffer;
  const at = offset / 4;
  const nameAt = offset + DIRENT_BYTES;
  put64(words, at, entry.inode);
  put64(words, at + 2, entry.cookie);
  words[at + 4] = entry.name.length;
  words[at + 5] = entry.type >>> 12;
  bytes.set(entry.name, nameAt);
  bytes.fill(0, nameAt + entry.name.length, offset + direntBytes(entry));
}

export function statfs(session: Session, request: Request): void {
  settle(session, request, session.filesystem.statfs(), replyStatfs);
}

function replyStatfs(session: Session, request: Request, statistics: FileSystemStatistics): void {
  const { words } = session;
  words.fill(0, 4, 24);
  put64(words, 4, statistics.blocks);
  put64(words, 6, statistics.blocksFree);
  put64(words, 8, statistics.blocksAvailable);
  put64(words, 10, statistics.files);
  put64(words, 12, statistics.filesFree);
  words[14] = statistics.blockBytes;
  words[15] = statistics.nameBytesMax;
  words[16] = statistics.blockBytes;
  replySmall(session, request, 80);
}
