/** The requests that list a directory, with and without attributes, and the statistics of the whole. */

import type { Attributes, DirectoryEntry, FileSystemStatistics } from '../../filesystem/interface.ts';
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
  const answer = list(session, request, words, size, ENTRY_BYTES + DIRENT_BYTES + NAME_BYTES_TYPICAL);
  settle(session, request, answer, (session, request, entries) => {
    const fitting = entriesThatFit(entries, size);
    settle(session, request, attributesOf(session, fitting), (session, request, attributes) => {
      replyPlus(session, request, { size, entries: fitting, attributes });
    });
  });
}

function list(session: Session, request: Request, words: Uint32Array, size: number, entryBytes: number) {
  const cookie = u64(words, 12);
  if (cookie === 0) session.filesystem.touchAccess(request, request.inode);
  return session.filesystem.readdir(request.inode, cookie, Math.ceil(size / entryBytes));
}

function entriesThatFit(entries: DirectoryEntry[], size: number): DirectoryEntry[] {
  let used = 0;
  for (let index = 0; index < entries.length; index++) {
    used += ENTRY_BYTES + direntBytes(entries[index] as DirectoryEntry);
    if (used > size) return entries.slice(0, index);
  }
  return entries;
}

type MaybeAttributes = Attributes | undefined;

/** Attributes of each entry; undefined for `.`, `..` and for what vanished meanwhile. */
function attributesOf(
  session: Session,
  entries: DirectoryEntry[],
): MaybeAttributes[] | Promise<MaybeAttributes[]> {
  const found: (MaybeAttributes | Promise<MaybeAttributes>)[] = [];
  let waits = false;
  for (const entry of entries) {
    if (isDot(entry.name)) {
      found.push(undefined);
      continue;
    }
    try {
      const attributes = session.filesystem.getattr(entry.inode);
      if (attributes instanceof Promise) {
        waits = true;
        found.push(attributes.catch(undefinedWhenGone));
      } else found.push(attributes);
    } catch (error) {
      found.push(undefinedWhenGone(error));
    }
  }
  return waits ? Promise.all(found.map((one) => Promise.resolve(one))) : (found as MaybeAttributes[]);
}

function undefinedWhenGone(error: unknown): undefined {
  if (error instanceof FsError && (error.code === 'ESTALE' || error.code === 'ENOENT')) return undefined;
  throw error;
}

function replyPlus(
  session: Session,
  request: Request,
  listing: { size: number; entries: DirectoryEntry[]; attributes: MaybeAttributes[] },
): void {
  const buffer = session.buffers.take(listing.size);
  let used = 0;
  for (let index = 0; index < listing.entries.length; index++) {
    const entry = listing.entries[index] as DirectoryEntry;
    const attributes = listing.attributes[index];
    const at = OUT_HEADER_WORDS + used / 4;
    // Without attributes the kernel takes the entry as a plain name (node id 0).
    if (attributes === undefined) buffer.words.fill(0, at, at + ENTRY_WORDS);
    else putEntry(session, buffer.words, at, attributes);
    putDirent(buffer, OUT_HEADER_BYTES + used + ENTRY_BYTES, entry);
    used += ENTRY_BYTES + direntBytes(entry);
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
