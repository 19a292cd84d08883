/**
 * Open files of one mount: libfuse carries a 31-bit number for each (0 would mean "none"), this table says
 * which inode it is. Numbers are reused only after they went once around, so that a late request for a closed
 * file meets EBADF rather than another file.
 */

import { assert } from '../../runtime/assert.ts';
import { FsError } from '../../protocol/errors.ts';
import type { Inode } from '../../protocol/ids.ts';

const HANDLE_MAX = 2 ** 31 - 1;
/** More open files than any process limit allows: beyond it something leaks. */
const OPEN_FILES_MAX = 1_048_576;

export interface OpenFile {
  readonly inode: Inode;
  readonly append: boolean;
}

export interface Handles {
  add(file: OpenFile): number;
  /** Errors: EBADF. */
  get(handle: number): OpenFile;
  /** Errors: EBADF. */
  remove(handle: number): OpenFile;
  /** Late requests for what was open get EBADF. */
  clear(): void;
  readonly size: number;
}

export function openHandles(): Handles {
  const files = new Map<number, OpenFile>();
  let last = 0;

  function get(handle: number): OpenFile {
    const file = files.get(handle);
    if (file === undefined) throw new FsError('EBADF');
    return file;
  }

  return {
    add(file) {
      assert(files.size < OPEN_FILES_MAX, `at most ${OPEN_FILES_MAX} open files in one mount`);
      do last = last === HANDLE_MAX ? 1 : last + 1;
      while (files.has(last));
      files.set(last, file);
      return last;
    },
    get,
    remove(handle) {
      const file = get(handle);
      files.delete(handle);
      return file;
    },
    clear: () => files.clear(),
    get size() {
      return files.size;
    },
  };
}
