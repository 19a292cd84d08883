/**
 * What both FUSE drivers give: a mount that can be ended, and what they are told to begin one. A driver
 * translates between the kernel and `FileSystem`; it keeps no file system state of its own, so the two can
 * be exchanged by a line of configuration.
 */

import type { FileSystem } from '../filesystem/interface.ts';
import type { MountId } from '../protocol/ids.ts';
import type { Log } from '../runtime/log.ts';

export interface MountOptions {
  /** An empty directory, absolute. */
  readonly path: string;
  /** Tells this mount's own changes from those of other mounts; unique within the daemon, not 0. */
  readonly mountId: MountId;
  /** Users other than the daemon's own may use the mount. */
  readonly allowOther: boolean;
  /** Default false. */
  readonly readOnly?: boolean;
  readonly log: Log;
  readonly filesystem: FileSystem;
}

export interface Mount {
  readonly id: MountId;
  /** The mount point with symbolic links resolved. */
  readonly path: string;
  /**
   * Ends the mount; returns when it is gone. While programs use it this is refused with the WarrenError
   * `MOUNT_BUSY`, unless `force`: then it is detached and those programs get errors from their open files.
   */
  unmount(options: { force: boolean }): Promise<void>;
  /** Waits until the kernel was told of every change reported so far, at most a few milliseconds. */
  drained(): Promise<void>;
  /** Settles when the mount is gone, whoever ended it. Never rejects. */
  readonly closed: Promise<void>;
}
