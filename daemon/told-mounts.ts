/**
 * Makes a change on one mount wait, before it is answered, until the kernels of the other mounts were told that
 * what they cached is old: the next call on any mount then sees the change.
 *
 * The wait is bounded by the driver to a few milliseconds: telling a kernel can block on a lock that a request in
 * flight holds. A daemon with one mount pays nothing.
 */

import type { FileSystem, MaybePromise } from './filesystem/interface.ts';

export interface OtherMounts {
  any(): boolean;
  /** Resolves when their kernels were told of every change so far, or when that takes too long. */
  told(): Promise<unknown>;
}

export function answerWhenTold(filesystem: FileSystem, others: OtherMounts): FileSystem {
  const told = <Result extends MaybePromise<unknown>>(result: Result): Result => {
    if (!others.any()) return result;
    return Promise.resolve(result).then(async (value) => {
      await others.told();
      return value;
    }) as Result;
  };
  return {
    ...filesystem,
    setattr: (...args) => told(filesystem.setattr(...args)),
    mknod: (...args) => told(filesystem.mknod(...args)),
    symlink: (...args) => told(filesystem.symlink(...args)),
    link: (...args) => told(filesystem.link(...args)),
    unlink: (...args) => told(filesystem.unlink(...args)),
    rmdir: (...args) => told(filesystem.rmdir(...args)),
    rename: (...args) => told(filesystem.rename(...args)),
    create: (...args) => told(filesystem.create(...args)),
    open: (...args) => told(filesystem.open(...args)),
    write: (...args) => told(filesystem.write(...args)),
    allocate: (...args) => told(filesystem.allocate(...args)),
    copyRange: (...args) => told(filesystem.copyRange(...args)),
    setxattr: (...args) => told(filesystem.setxattr(...args)),
    removexattr: (...args) => told(filesystem.removexattr(...args)),
  };
}
