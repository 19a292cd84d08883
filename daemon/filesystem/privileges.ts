/** setuid, setgid and security.capability: what a change by somebody else takes away. */

import { NO_MOUNT } from '../protocol/ids.ts';
import type { InodeRow } from '../metadata/rows.ts';
import type { Context } from './context.ts';
import { withoutPrivileges } from './inode-rules.ts';

export const CAPABILITY = Buffer.from('security.capability');

/** Takes them away after content changed; answers when that is acknowledged. */
export async function clearPrivileges(context: Context, found: InodeRow): Promise<void> {
  const { metadata, clock, emit } = context;
  const mode = withoutPrivileges(found.mode);
  const capability = metadata.reads.xattr(found.inode, CAPABILITY) !== undefined;
  if (mode === found.mode && !capability) return;
  await metadata.propose({
    kind: 'attributes',
    inode: found.inode,
    ...(mode === found.mode ? {} : { mode }),
    xattrs: capability ? [{ name: CAPABILITY, value: null }] : [],
    time: clock.now(),
  });
  // The kernel that wrote does not know that the bits are gone.
  emit({ kind: 'attributes', inode: found.inode, mount: NO_MOUNT });
}
