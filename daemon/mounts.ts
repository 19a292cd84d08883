/**
 * The mounts of this daemon: which driver serves where. Any number of them show the same file system; each
 * has an id of its own, so that what one changes is told to the others' kernels before it is answered.
 */

import { realpath } from 'node:fs/promises';
import * as path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { FileSystem } from './filesystem/interface.ts';
import type { Mount } from './fuse/driver.ts';
import { mountKernel } from './fuse/kernel/mount.ts';
import { mountLibfuse } from './fuse/libfuse/mount-libfuse.ts';
import type { MountStatus } from './protocol/control-api.ts';
import { describeError, WarrenError } from './protocol/errors.ts';
import type { MountId } from './protocol/ids.ts';
import type { Log } from './runtime/log.ts';
import { answerWhenTold, type OtherMounts } from './told-mounts.ts';

/** How long a change waits for kernels to be told while a change of another mount waits for its own. */
const CROSSED_WAIT_MS = 2;

type DriverName = 'kernel' | 'libfuse';

export interface Mounts {
  /** Errors: those of the driver and of the mount point; MOUNT_EXISTS. */
  mount(mountPath: string): Promise<MountStatus>;
  /** Errors: MOUNT_UNKNOWN, MOUNT_BUSY. */
  unmount(mountPath: string, options: { force: boolean }): Promise<void>;
  list(): MountStatus[];
  /** Resolves when every kernel was told of all that was reported so far, or when that takes too long. */
  told(): Promise<void> | undefined;
  /** Ends every mount; busy ones are detached. */
  close(): Promise<void>;
}

export interface MountsOptions {
  readonly filesystem: FileSystem;
  readonly driver: 'auto' | DriverName;
  readonly allowOther: boolean;
  /** Mount ids count from here; unique among the mounts of all nodes. */
  readonly firstId: number;
  readonly log: Log;
  /** Clients whose kernels must hear of a change, too, before it is answered. */
  readonly clients?: { told(): Promise<void> | undefined };
}

export function openMounts(options: MountsOptions): Mounts {
  const { filesystem, log } = options;
  const mounts = new Map<string, { mount: Mount; driver: DriverName }>();
  let nextId = options.firstId;
  // The kernel protocol needs root; without it libfuse goes through fusermount.
  const driver: DriverName =
    options.driver === 'auto' ? (process.getuid?.() === 0 ? 'kernel' : 'libfuse') : options.driver;

  function statusOf(entry: { mount: Mount; driver: DriverName }): MountStatus {
    return {
      path: entry.mount.path,
      driver: entry.driver,
      openFiles: filesystem.openFiles(entry.mount.id),
    };
  }

  /** Changes of each mount that wait for the others. */
  const waiting = new Map<MountId, number>();

  function othersThan(id: MountId): OtherMounts {
    return {
      any: () => mounts.size > 1 || options.clients !== undefined,
      async told() {
        const clients = options.clients?.told();
        if (clients === undefined && mounts.size <= 1) return;
        const others = [...mounts.values()].filter(({ mount }) => mount.id !== id);
        // Two changes of one directory may each hold the lock that telling the other's kernel needs.
        const crossed = others.some(({ mount }) => (waiting.get(mount.id) ?? 0) > 0);
        const told = Promise.all(others.map(({ mount }) => mount.drained()));
        waiting.set(id, (waiting.get(id) ?? 0) + 1);
        await (crossed ? Promise.race([told, delay(CROSSED_WAIT_MS)]) : told);
        await clients;
        waiting.set(id, (waiting.get(id) ?? 1) - 1);
      },
    };
  }

  return {
    async mount(mountPath) {
      const wanted = path.resolve(mountPath);
      if (mounts.has(wanted)) {
        throw new WarrenError({
          code: 'MOUNT_EXISTS',
          message: `${wanted} is mounted by this daemon already.`,
          hint: 'use it, or name another folder',
        });
      }
      const start = driver === 'kernel' ? mountKernel : mountLibfuse;
      const mountId = nextId++ as MountId;
      const mount = await start({
        path: wanted,
        mountId,
        allowOther: options.allowOther,
        log,
        filesystem: answerWhenTold(filesystem, othersThan(mountId)),
      });
      const entry = { mount, driver };
      mounts.set(mount.path, entry);
      void mount.closed.then(() => {
        if (mounts.delete(mount.path)) log.info(`unmounted ${mount.path}`);
      });
      log.info(`mounted on ${mount.path}`, { driver });
      return statusOf(entry);
    },
    async unmount(mountPath, { force }) {
      const wanted = path.resolve(mountPath);
      const entry = mounts.get(wanted) ?? mounts.get(await withoutLinks(wanted));
      if (entry === undefined) {
        const known = [...mounts.keys()].join(', ');
        throw new WarrenError({
          code: 'MOUNT_UNKNOWN',
          message: `This daemon has no mount on ${wanted}.`,
          hint: known === '' ? 'it has none; `warren mount -m PATH` makes one' : `its mounts: ${known}`,
        });
      }
      await entry.mount.unmount({ force });
      await entry.mount.closed;
    },
    list: () => [...mounts.values()].map(statusOf),
    told() {
      if (mounts.size === 0) return undefined;
      return Promise.all([...mounts.values()].map(({ mount }) => mount.drained())).then(() => undefined);
    },
    async close() {
      for (const { mount } of mounts.values()) {
        try {
          await mount.unmount({ force: false });
        } catch (error) {
          if (!(error instanceof WarrenError)) throw error;
          log.warn('a mount is in use and is detached; its programs get errors from now on', {
            path: mount.path,
            reason: describeError(error),
          });
          await mount.unmount({ force: true });
        }
      }
    },
  };
}

/** Mounts are known by their path without symbolic links. */
async function withoutLinks(mountPath: string): Promise<string> {
  try {
    return await realpath(mountPath);
  } catch {
    // It is not there: the caller says that nothing is mounted on it.
    return mountPath;
  }
}
