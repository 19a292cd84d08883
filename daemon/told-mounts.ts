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
  const told =
    <Arguments extends unknown[], Result extends MaybePromise<unknown>>(
      change: (...args: Arguments) => Result,
    ) =>
    (...args: Arguments): Result => {
      const result = change(...args);
      if (!others.any()) return result;
      return Promise.resolve(result).then(async (value) => {
        await others.told();
        return value;
      }) as Result;
    };
  return {
    ...filesystem,
    setattr: told(filesystem.setattr),
    mknod: told(filesystem.mknod),
    symlink: told(filesystem.symlink),
    link: told(filesystem.link),
    unlink: told(filesystem.unlink),
    rmdir: told(filesystem.rmdir),
    rename: told(filesystem.rename),
    create: told(filesystem.create),
    open: told(filesystem.open),
    write: told(filesystem.write),
    allocate: told(filesystem.allocate),
    copyRange: told(filesystem.copyRange),
    setxattr: told(filesystem.setxattr),
    removexattr: told(filesystem.removexattr),
  };
}
