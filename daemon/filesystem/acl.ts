/**
 * POSIX access control lists as the kernel hands them over: the xattrs `system.posix_acl_access` and
 * `system.posix_acl_default` (struct posix_acl_xattr_header, version 2, then entries of tag, permissions, id;
 * linux/posix_acl_xattr.h). The kernel checks permissions; the file system keeps mode and ACL in step, as
 * POSIX 1003.1e draft 17 says: group bits of the mode are the mask when there is one, and a new object
 * inherits the default ACL of its directory instead of obeying the umask.
 */

import { FsError } from '../protocol/errors.ts';
import type { XattrChange } from '../protocol/operations.ts';

export const ACL_ACCESS = Buffer.from('system.posix_acl_access');
export const ACL_DEFAULT = Buffer.from('system.posix_acl_default');

const VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
const USER_OBJ = 0x01;
const USER = 0x02;
const GROUP_OBJ = 0x04;
const GROUP = 0x08;
const MASK = 0x10;
const OTHER = 0x20;
const UNDEFINED_ID = 0xffffffff;

interface AclEntry {
  readonly tag: number;
  permissions: number;
  readonly id: number;
}

/** Parses and checks an ACL xattr. Errors: EINVAL, EOPNOTSUPP for another version. */
function parseAcl(value: Uint8Array): AclEntry[] {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (bytes.length < HEADER_BYTES || (bytes.length - HEADER_BYTES) % ENTRY_BYTES !== 0)
    throw new FsError('EINVAL');
  if (bytes.readUInt32LE(0) !== VERSION) throw new FsError('EOPNOTSUPP');
  const entries: AclEntry[] = [];
  for (let at = HEADER_BYTES; at < bytes.length; at += ENTRY_BYTES) {
    const tag = bytes.readUInt16LE(at);
    const permissions = bytes.readUInt16LE(at + 2);
    if (permissions > 7 || ![USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].includes(tag))
      throw new FsError('EINVAL');
    entries.push({ tag, permissions, id: bytes.readUInt32LE(at + 4) });
  }
  return entries;
}

function formatAcl(entries: readonly AclEntry[]): Uint8Array {
  const bytes = Buffer.alloc(HEADER_BYTES + entries.length * ENTRY_BYTES);
  bytes.writeUInt32LE(VERSION, 0);
  for (const [index, entry] of entries.entries()) {
    const at = HEADER_BYTES + index * ENTRY_BYTES;
    bytes.writeUInt16LE(entry.tag, at);
    bytes.writeUInt16LE(entry.permissions, at + 2);
    bytes.writeUInt32LE(entry.tag === USER || entry.tag === GROUP ? entry.id : UNDEFINED_ID, at + 4);
  }
  return bytes;
}

function entryOf(entries: readonly AclEntry[], tag: number): AclEntry | undefined {
  return entries.find((entry) => entry.tag === tag);
}

/** Only the three classes of the mode: the ACL says nothing that the mode does not. */
function isMinimal(entries: readonly AclEntry[]): boolean {
  return entries.every((entry) => entry.tag === USER_OBJ || entry.tag === GROUP_OBJ || entry.tag === OTHER);
}

function permissionsOf(entries: readonly AclEntry[]): number {
  const user = entryOf(entries, USER_OBJ)?.permissions ?? 0;
  const group = (entryOf(entries, MASK) ?? entryOf(entries, GROUP_OBJ))?.permissions ?? 0;
  const other = entryOf(entries, OTHER)?.permissions ?? 0;
  return (user << 6) | (group << 3) | other;
}

/** Permission bits that setting this access ACL gives the inode, and what is left to store (null: nothing). */
export function modeFromAccessAcl(
  mode: number,
  value: Uint8Array,
): { mode: number; stored: Uint8Array | null } {
  const entries = parseAcl(value);
  if (entryOf(entries, USER_OBJ) === undefined || entryOf(entries, OTHER) === undefined)
    throw new FsError('EINVAL');
  return {
    mode: (mode & ~0o777) | permissionsOf(entries),
    stored: isMinimal(entries) ? null : formatAcl(entries),
  };
}

/** The access ACL after chmod to `mode`: owner, mask (or group) and other follow the mode. */
export function accessAclAfterChmod(value: Uint8Array, mode: number): Uint8Array {
  const entries = parseAcl(value);
  const hasMask = entryOf(entries, MASK) !== undefined;
  for (const entry of entries) {
    if (entry.tag === USER_OBJ) entry.permissions = (mode >> 6) & 7;
    if (entry.tag === OTHER) entry.permissions = mode & 7;
    if (entry.tag === (hasMask ? MASK : GROUP_OBJ)) entry.permissions = (mode >> 3) & 7;
  }
  return formatAcl(entries);
}

/**
 * What a new object gets: with a default ACL on the directory, its entries limited by the mode asked for
 * (and the umask does not count); without one, the mode less the umask.
 */
export function inheritAcl(
  directoryDefault: Uint8Array | undefined,
  mode: number,
  options: { umask: number; isDirectory: boolean },
): { mode: number; xattrs: XattrChange[] } {
  if (directoryDefault === undefined) return { mode: mode & ~options.umask, xattrs: [] };
  const entries = parseAcl(directoryDefault);
  const hasMask = entryOf(entries, MASK) !== undefined;
  for (const entry of entries) {
    if (entry.tag === USER_OBJ) entry.permissions &= (mode >> 6) & 7;
    if (entry.tag === OTHER) entry.permissions &= mode & 7;
    if (entry.tag === (hasMask ? MASK : GROUP_OBJ)) entry.permissions &= (mode >> 3) & 7;
  }
  const xattrs: XattrChange[] = [];
  if (!isMinimal(entries)) xattrs.push({ name: ACL_ACCESS, value: formatAcl(entries) });
  if (options.isDirectory) xattrs.push({ name: ACL_DEFAULT, value: directoryDefault });
  return { mode: (mode & ~0o777) | permissionsOf(entries), xattrs };
}

/** Checks a default ACL before it is stored. */
export function checkDefaultAcl(value: Uint8Array): void {
  parseAcl(value);
}
