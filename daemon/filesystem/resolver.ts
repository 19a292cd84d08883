/**
 * From a path to an inode, by one lookup for each component.
 *
 * Paths are bytes, absolute or relative to the root alike; empty components are skipped. Symbolic links are
 * not followed: a caller that follows them (the kernel does) asks for each part by itself. `.` and `..` are
 * refused, so that no path leaves the root or means two things. Nothing is kept between calls: what a path
 * means may change with every operation of any node.
 */

import { FsError } from '../protocol/errors.ts';
import { type Inode, NAME_BYTES_MAX, type Name, ROOT_INODE } from '../protocol/ids.ts';
import type { Attributes, FileSystem } from './interface.ts';

const SLASH = 0x2f;
const DOT = 0x2e;
const TYPE_MASK = 0o170000;
const TYPE_DIRECTORY = 0o040000;

/** Errors: ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL (`.`, `..` or a NUL byte). */
export async function resolve(filesystem: FileSystem, path: Uint8Array): Promise<Attributes> {
  let attributes = await filesystem.getattr(ROOT_INODE);
  for (const name of components(path)) attributes = await step(filesystem, attributes, name);
  return attributes;
}

/** The directory that holds the last component, and that component. Errors: as `resolve`; EBUSY for the root. */
export async function resolveParent(
  filesystem: FileSystem,
  path: Uint8Array,
): Promise<{ parent: Inode; name: Name }> {
  const names = components(path);
  const name = names.pop();
  if (name === undefined) throw new FsError('EBUSY');
  let attributes = await filesystem.getattr(ROOT_INODE);
  for (const directory of names) attributes = await step(filesystem, attributes, directory);
  if (!isDirectory(attributes)) throw new FsError('ENOTDIR');
  return { parent: attributes.inode, name };
}

async function step(filesystem: FileSystem, directory: Attributes, name: Name): Promise<Attributes> {
  if (!isDirectory(directory)) throw new FsError('ENOTDIR');
  const child = await filesystem.lookup(directory.inode, name);
  if (child === undefined) throw new FsError('ENOENT');
  return child;
}

function components(path: Uint8Array): Name[] {
  const names: Name[] = [];
  for (let start = 0; start < path.length; ) {
    const slash = path.indexOf(SLASH, start);
    const end = slash === -1 ? path.length : slash;
    if (end > start) names.push(checked(path.subarray(start, end)));
    start = end + 1;
  }
  return names;
}

function checked(name: Name): Name {
  if (name.length > NAME_BYTES_MAX) throw new FsError('ENAMETOOLONG');
  const dots = name.length <= 2 && name.every((byte) => byte === DOT);
  if (dots || name.includes(0)) throw new FsError('EINVAL');
  return name;
}

function isDirectory(attributes: Attributes): boolean {
  return (attributes.mode & TYPE_MASK) === TYPE_DIRECTORY;
}
