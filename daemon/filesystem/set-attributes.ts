/**
 * SETATTR: chmod, chown, truncate and utimensat in one, with what Linux makes of the setuid bits and of times.
 *
 * A truncate flushes the file first; an explicit time flushes earlier writes, whose time must not win.
 */

import type { InodeRow } from '../metadata/rows.ts';
import { FsError } from '../protocol/errors.ts';
import { FILE_BYTES_MAX, type Inode, SECONDS_MAX, type Timestamp } from '../protocol/ids.ts';
import type { XattrChange } from '../protocol/operations.ts';
import { ACL_ACCESS, accessAclAfterChmod } from './acl.ts';
import type { Context } from './context.ts';
import { withoutPrivileges } from './inode-rules.ts';
import type { AttributeChanges, Attributes, Caller } from './interface.ts';
import { CAPABILITY } from './privileges.ts';

const TYPE_MASK = 0o170000;
const DIRECTORY = 0o040000;

/** `attributes` answers those of a row, with what is only in memory. */
export function attributeSetter(
  { metadata, data, clock, emit, row, settle }: Context,
  attributes: (found: InodeRow) => Attributes,
): (caller: Caller, inode: Inode, changes: AttributeChanges) => Promise<Attributes> {
  const { reads } = metadata;

  async function setattr(caller: Caller, inode: Inode, changes: AttributeChanges): Promise<Attributes> {
    if (changes.size !== undefined) {
      if (changes.size > FILE_BYTES_MAX) throw new FsError('EFBIG');
      await settle(inode);
    }
    const old = row(inode);
    const type = old.mode & TYPE_MASK;
    if (changes.size !== undefined && type === DIRECTORY) throw new FsError('EISDIR');
    // A SETATTR that names nothing is chown(-1, -1), or precedes a fallocate. The kernel checks no permission for
    // it: a stranger's must not clear setuid. What follows it (fallocate, copy) clears the bits by itself.
    const namesNothing = Object.keys(changes).length === 0;
    if (namesNothing && caller.uid !== 0 && caller.uid !== old.uid) return attributes(old);
    const time = clock.now();
    let mode = changes.mode === undefined ? old.mode : type | (changes.mode & 0o7777);
    const ownerChanges = changes.uid !== undefined || changes.gid !== undefined || namesNothing;
    const clears = ownerChanges || changes.killPrivileges === true;
    if (clears && changes.mode === undefined && type !== DIRECTORY) mode = withoutPrivileges(mode);
    const xattrChanges: XattrChange[] = [];
    if (changes.mode !== undefined) {
      const acl = reads.xattr(inode, ACL_ACCESS);
      if (acl !== undefined) xattrChanges.push({ name: ACL_ACCESS, value: accessAclAfterChmod(acl, mode) });
    }
    if ((ownerChanges || changes.size !== undefined) && reads.xattr(inode, CAPABILITY) !== undefined) {
      xattrChanges.push({ name: CAPABILITY, value: null });
    }
    const mtime = changes.mtime ?? (changes.size === undefined ? undefined : 'now');
    const file = data.state(inode);
    // An explicit time must not be overwritten by the time of an earlier write that is flushed later.
    if (mtime !== undefined && file?.modified !== undefined && changes.size === undefined)
      await settle(inode);
    await metadata.propose({
      kind: 'attributes',
      inode,
      ...(mode === old.mode ? {} : { mode }),
      ...(changes.uid === undefined ? {} : { uid: changes.uid }),
      ...(changes.gid === undefined ? {} : { gid: changes.gid }),
      ...(changes.size === undefined ? {} : { size: changes.size }),
      ...(changes.atime === undefined ? {} : { atime: asked(changes.atime, time) }),
      ...(mtime === undefined ? {} : { mtime: asked(mtime, time) }),
      xattrs: xattrChanges,
      time,
    });
    if (changes.size !== undefined) {
      data.changed(inode);
      emit({ kind: 'data', inode, offset: changes.size, length: 0, mount: caller.mount });
    }
    emit({ kind: 'attributes', inode, mount: caller.mount });
    return attributes(row(inode));
  }

  return setattr;
}

/** The time that a program asked for: the nearest that can be kept, as the kernel does for its own file systems. */
function asked(time: Timestamp | 'now', now: Timestamp): Timestamp {
  if (time === 'now') return now;
  if (time.seconds >= SECONDS_MAX) return { seconds: SECONDS_MAX, nanoseconds: 0 };
  if (time.seconds < -SECONDS_MAX) return { seconds: -SECONDS_MAX, nanoseconds: 0 };
  return time;
}
