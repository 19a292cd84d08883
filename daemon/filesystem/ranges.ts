/** Operations on ranges of a file that move no bytes: fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range. */

import { FsError } from '../protocol/errors.ts';
import { CHUNK_BYTES_MAX, FILE_BYTES_MAX, type Inode } from '../protocol/ids.ts';
import type { Context } from './context.ts';
import type { AllocateMode, Caller, FileSystem } from './interface.ts';

/** Longest range of one copy operation, and most extents in it: the caller asks again for the rest. */
const COPY_BYTES_MAX = 1024 * 1024 * 1024;
const COPY_EXTENTS_MAX = 1024;
/** Most extents that one allocate operation passes. */
const ALLOCATE_EXTENTS_MAX = 1024;
/** Bytes that one step of a seek looks at. */
const SEEK_STEP_BYTES = 64 * CHUNK_BYTES_MAX;
const TYPE_MASK = 0o170000;
const REGULAR = 0o100000;

export function rangeOperations(context: Context): Pick<FileSystem, 'allocate' | 'seek' | 'copyRange'> {
  const { metadata, data, room, clock, emit, row, settle } = context;
  const { reads } = metadata;

  async function allocate(
    caller: Caller,
    inode: Inode,
    mode: AllocateMode,
    { offset, length }: { offset: number; length: number },
  ): Promise<void> {
    const end = offset + length;
    if (end > FILE_BYTES_MAX) throw new FsError('EFBIG');
    await settle(inode);
    if ((row(inode).mode & TYPE_MASK) !== REGULAR) throw new FsError('ENODEV');
    const time = clock.now();
    if (mode.kind === 'punch-hole') {
      await metadata.propose({ kind: 'punch', inode, offset, length, sizeAtLeast: 0, time });
    } else {
      const zero = mode.kind === 'zero-range';
      // Content that is zeroed gives its room back when it is collected, so it counts as present.
      const present = reads.allocated(inode, offset, end) + reads.stored(inode, offset, end);
      if (length > present) room.setAside(length - present);
      const sizeAtLeast = mode.keepSize ? 0 : end;
      for (let position = offset; position < end; ) {
        const until = zero ? end : allocateUntil(inode, position, end);
        // The size grows with the last step, when the rest is there.
        const size = until < end ? 0 : sizeAtLeast;
        const range = { inode, offset: position, length: until - position };
        await metadata.propose({ kind: 'allocate', ...range, zero, sizeAtLeast: size, time });
        position = until;
      }
    }
    if (mode.kind !== 'allocate') emit({ kind: 'data', inode, offset, length, mount: caller.mount });
    data.changed(inode);
    emit({ kind: 'attributes', inode, mount: caller.mount });
  }

  /** How far one operation goes: at most ALLOCATE_EXTENTS_MAX gaps between extents. */
  function allocateUntil(inode: Inode, start: number, end: number): number {
    const next = reads.extentAfter(inode, start, ALLOCATE_EXTENTS_MAX);
    return next === undefined ? end : Math.min(next, end);
  }

  async function seek(inode: Inode, offset: number, whence: 'data' | 'hole'): Promise<number> {
    await settle(inode);
    const { size } = row(inode);
    if (offset < 0 || offset >= size) throw new FsError('ENXIO');
    let position = offset;
    while (position < size) {
      const stepEnd = Math.min(size, position + SEEK_STEP_BYTES);
      for (const extent of reads.extents(inode, position, stepEnd)) {
        if (whence === 'data') return Math.max(position, extent.offset);
        if (extent.offset > position) return position;
        position = extent.offset + extent.length;
      }
      if (whence === 'hole' && position < stepEnd) return position;
      position = Math.max(position, stepEnd);
    }
    if (whence === 'data') throw new FsError('ENXIO');
    return size;
  }

  return {
    allocate,
    seek,
    async copyRange(caller, from, to, length) {
      await settle(from.inode);
      await settle(to.inode);
      const source = row(from.inode);
      row(to.inode);
      let bytes = Math.min(length, COPY_BYTES_MAX, source.size - from.offset);
      if (bytes <= 0) return 0;
      if (to.offset + bytes > FILE_BYTES_MAX) throw new FsError('EFBIG');
      const extents = reads.extents(from.inode, from.offset, from.offset + bytes);
      const last = extents[COPY_EXTENTS_MAX];
      if (last !== undefined) bytes = last.offset - from.offset;
      await metadata.propose({
        kind: 'copy',
        from: from.inode,
        fromOffset: from.offset,
        to: to.inode,
        toOffset: to.offset,
        length: bytes,
        time: clock.now(),
      });
      data.changed(to.inode);
      emit({ kind: 'data', inode: to.inode, offset: to.offset, length: bytes, mount: caller.mount });
      emit({ kind: 'attributes', inode: to.inode, mount: caller.mount });
      return bytes;
    },
  };
}
