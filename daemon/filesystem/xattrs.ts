/** Extended attributes: namespaces, limits and errors as on ext4; ACLs keep step with the mode. */

import { SECURITY_LABEL } from '../metadata/reads.ts';
import { FsError } from '../protocol/errors.ts';
import { XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX } from '../protocol/ids.ts';
import type { XattrChange } from '../protocol/operations.ts';
import { ACL_ACCESS, ACL_DEFAULT, checkDefaultAcl, modeFromAccessAcl } from './acl.ts';
import type { Context } from './context.ts';
import type { Caller, FileSystem } from './interface.ts';

const TRUSTED = Buffer.from('trusted.');
const NAMESPACES = ['user.', 'trusted.', 'security.'];
/** The kernel answers a list of names of at most this many bytes (XATTR_LIST_MAX). */
const LIST_BYTES_MAX = 65_536;
const TYPE_MASK = 0o170000;
const DIRECTORY = 0o040000;
const SETGID = 0o2000;

type XattrMethods = Pick<FileSystem, 'getxattr' | 'listxattr' | 'setxattr' | 'removexattr'>;

export function xattrOperations(context: Context): XattrMethods {
  const { metadata, clock, emit, row, data } = context;
  const { reads } = metadata;

  function isAcl(name: Uint8Array): boolean {
    return ACL_ACCESS.equals(name) || ACL_DEFAULT.equals(name);
  }

  function checkName(name: Uint8Array): void {
    if (name.byteLength > XATTR_NAME_BYTES_MAX) throw new FsError('ERANGE');
    if (isAcl(name)) return;
    const text = Buffer.from(name.buffer, name.byteOffset, name.byteLength).toString('latin1');
    const namespace = NAMESPACES.find((prefix) => text.startsWith(prefix));
    if (namespace === undefined) throw new FsError('EOPNOTSUPP');
    if (text.length === namespace.length) throw new FsError('EINVAL');
  }

  async function change(
    caller: Caller,
    inode: Parameters<FileSystem['getattr']>[0],
    xattr: XattrChange,
    mode: number | undefined,
  ): Promise<void> {
    const file = data.state(inode);
    if (file !== undefined) file.capabilityFree = false;
    await metadata.propose({
      kind: 'attributes',
      inode,
      ...(mode === undefined ? {} : { mode }),
      xattrs: [xattr],
      time: clock.now(),
    });
    emit({ kind: 'attributes', inode, mount: caller.mount });
  }

  return {
    getxattr(inode, name) {
      checkName(name);
      // As on a file system that keeps no labels: then `ls -l` asks once, not for each file.
      if (SECURITY_LABEL.equals(name) && !reads.mayHaveLabel()) throw new FsError('EOPNOTSUPP');
      // An inode that is gone has none: `ls -l` asks each file for its ACL, so nothing else is looked up for that.
      return reads.xattr(inode, name);
    },
    listxattr(caller, inode) {
      row(inode);
      const names = reads.xattrs(inode).map((xattr) => xattr.name);
      return caller.uid === 0
        ? names
        : names.filter((name) => !TRUSTED.equals(name.subarray(0, TRUSTED.length)));
    },
    async setxattr(caller, inode, name, value, mode) {
      checkName(name);
      if (value.byteLength > XATTR_VALUE_BYTES_MAX) throw new FsError('E2BIG');
      const found = row(inode);
      const copiedName = Buffer.copyBytesFrom(name);
      const copied = Buffer.copyBytesFrom(value);
      if (ACL_ACCESS.equals(name)) {
        const { mode: aclMode, stored } = modeFromAccessAcl(found.mode, copied);
        const newMode = mode.killSetgid === true ? aclMode & ~SETGID : aclMode;
        await change(caller, inode, { name: copiedName, value: stored }, newMode);
        return;
      }
      if (ACL_DEFAULT.equals(name)) {
        if ((found.mode & TYPE_MASK) !== DIRECTORY) throw new FsError('EACCES');
        checkDefaultAcl(copied);
      }
      const existing = reads.xattr(inode, name);
      if (mode.create && existing !== undefined) throw new FsError('EEXIST');
      if (mode.replace && existing === undefined) throw new FsError('ENODATA');
      if (existing === undefined) {
        const listed = reads.xattrs(inode).reduce((sum, xattr) => sum + xattr.name.byteLength + 1, 0);
        if (listed + name.byteLength + 1 > LIST_BYTES_MAX) throw new FsError('ENOSPC');
      }
      await change(caller, inode, { name: copiedName, value: copied }, undefined);
    },
    async removexattr(caller, inode, name) {
      checkName(name);
      row(inode);
      if (reads.xattr(inode, name) === undefined) {
        // Removing an ACL that is not there is no error on ext4.
        if (isAcl(name)) return;
        throw new FsError('ENODATA');
      }
      await change(caller, inode, { name: Buffer.copyBytesFrom(name), value: null }, undefined);
    },
  };
}
