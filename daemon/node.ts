/**
 * One running node: storage, file system, mounts and control channel wired together, and ended in the right
 * order. `main.ts` decides when; this decides how.
 *
 * Start: data directory and its lock, metadata (applies the log), chunks, file system, control socket, mount.
 * What was started is ended again when a later step fails, so that no half-started daemon is left.
 * Stop: mounts first (no more requests), then what is in memory is flushed and synced, then everything closes.
 */

import * as path from 'node:path';
import type { ChunkDamage } from './chunks/open.ts';
import { type ControlServer, startControlServer } from './control/server.ts';
import { openFileSystem } from './filesystem/filesystem.ts';
import { fsckRunning } from './fsck/fsck.ts';
import { openMounts } from './mounts.ts';
import type { Config } from './protocol/config.ts';
import {
  CONTROL_API_VERSION,
  type ControlHandlers,
  type Health,
  type Status,
} from './protocol/control-api.ts';
import { describeError } from './protocol/errors.ts';
import { NO_MOUNT, ROOT_INODE } from './protocol/ids.ts';
import { RELEASE } from './protocol/release.ts';
import { systemClock } from './runtime/clock.ts';
import type { Log } from './runtime/log.ts';
import { openNodeStorage } from './storage/node-storage.ts';

/** Damaged chunks remembered for the status. */
const DAMAGE_MAX = 1000;
/** Rest after each MiB of meta.db that is compared with its sums after the start. */
const VERIFY_PAUSE_MS = 20;
/** A new file system has at most one operation: the times of its root. */
const NEW_VERSION_MAX = 1;
/** Below this share of free space the node is degraded. */
const LOW_SPACE_SHARE = 0.02;

export interface RunningNode {
  readonly mountPath: string;
  readonly socketPath: string;
  /** Drains, unmounts, syncs, closes. */
  stop(): Promise<void>;
}

export interface NodeOptions {
  readonly config: Config;
  readonly configFile: string;
  readonly log: Log;
  /** Somebody asked over the control channel to end the daemon. */
  readonly onShutdown: () => void;
}

/** Errors: WarrenError of whatever is in the way, after everything started was ended. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { config, log } = options;
  const clock = systemClock();
  const startedMs = clock.monotonicMs();
  const damaged = new Map<string, ChunkDamage>();
  await using stack = new AsyncDisposableStack();

  const storage = await openNodeStorage({
    directory: config.node.dataDirectory,
    nodeId: config.node.id,
    log,
    clock,
    salvage: false,
    onDamage: (damage) => {
      if (damaged.size < DAMAGE_MAX) damaged.set(damage.hash, damage);
    },
  });
  stack.defer(() => storage.close());
  const { metadata, chunks } = storage;
  const filesystem = openFileSystem({
    metadata,
    chunks,
    clock,
    log,
    chunkBytes: config.replication.chunkBytes,
  });
  stack.defer(() => filesystem.close());
  await ownNewRoot();
  const mounts = openMounts({
    filesystem,
    driver: config.mount.driver,
    allowOther: config.mount.allowOther,
    log: log.room('fuse'),
  });
  stack.defer(() => mounts.close());

  /** A new file system belongs to whom the daemon runs as: without root nobody else could write into it. */
  async function ownNewRoot(): Promise<void> {
    const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
    if (uid === 0 || metadata.status().version > NEW_VERSION_MAX) return;
    await filesystem.setattr({ uid: 0, gid: 0, pid: process.pid, mount: NO_MOUNT }, ROOT_INODE, { uid, gid });
  }

  function health(): Health {
    const { readOnly } = metadata.status();
    if (readOnly !== undefined) {
      return {
        state: 'read-only',
        dataSafe: true,
        reason: `The disk failed: ${readOnly}.`,
        nextStep:
          'Free space on the disk or replace it, then restart warrend; what was acknowledged is kept.',
      };
    }
    const { healedPages } = metadata.status();
    const pages = metadata.status().damagedPages.length;
    if (pages > 0) {
      return {
        state: 'degraded',
        dataSafe: false,
        reason: `${pages} page${pages === 1 ? '' : 's'} of meta.db ${pages === 1 ? 'is' : 'are'} damaged: the disk changed bytes by itself.`,
        nextStep:
          '`warren fsck` names them; copy the data to another disk and restore meta.db from a backup.',
      };
    }
    if (damaged.size > 0) {
      return {
        state: 'degraded',
        dataSafe: false,
        reason: `${damaged.size} chunk${damaged.size === 1 ? ' is' : 's are'} missing or damaged.`,
        nextStep: '`warren fsck --data` names the files; restore those from a backup.',
      };
    }
    const usage = chunks.usage();
    if (usage.availableBytes < usage.diskBytes * LOW_SPACE_SHARE) {
      return {
        state: 'degraded',
        dataSafe: true,
        reason: 'The disk is almost full; writes are refused when nothing is left.',
        nextStep: 'Delete files or give the data directory a larger disk.',
      };
    }
    if (healedPages > 0) {
      return {
        state: 'degraded',
        dataSafe: true,
        reason: `The disk changed bytes of meta.db by itself; ${healedPages} page${healedPages === 1 ? ' was' : 's were'} put back from meta.copy.`,
        nextStep:
          'Look at the health of the disk (`smartctl -a`, `dmesg`) and keep a backup; a restart clears this.',
      };
    }
    const { lastError } = filesystem.maintenance.status();
    if (lastError !== undefined) {
      return {
        state: 'degraded',
        dataSafe: true,
        reason: `Background work fails: ${lastError}.`,
        nextStep: 'The log of warrend says more; it is tried again by itself.',
      };
    }
    return { state: 'healthy', dataSafe: true, reason: '', nextStep: '' };
  }

  function status(): Status {
    const usage = chunks.usage();
    const state = metadata.status();
    const memory = process.memoryUsage();
    const totals = metadata.reads.chunkTotals();
    return {
      nodeId: config.node.id,
      clusterName: config.cluster.name,
      role: config.node.role,
      version: RELEASE,
      health: health(),
      uptimeMs: Math.round(clock.monotonicMs() - startedMs),
      mounts: mounts.list(),
      usage: {
        diskBytes: usage.diskBytes,
        diskFreeBytes: usage.diskFreeBytes,
        fileBytes: state.storedBytes,
        files: state.inodes,
        chunks: totals.chunks,
        chunkBytes: totals.bytes,
      },
      logVersion: state.version,
      pid: process.pid,
      dataDirectory: config.node.dataDirectory,
      configFile: options.configFile,
      memory: { residentBytes: memory.rss, heapBytes: memory.heapUsed },
    };
  }

  const handlers: ControlHandlers = {
    version: () => ({ version: RELEASE, api: CONTROL_API_VERSION, node: process.versions.node }),
    status,
    mount: ({ path: mountPath }) => mounts.mount(mountPath),
    async unmount({ path: mountPath, force }) {
      await mounts.unmount(mountPath, { force });
      return { path: mountPath };
    },
    fsck: ({ data }, { signal, progress }) =>
      fsckRunning(path.join(config.node.dataDirectory, 'meta.db'), storage, {
        data,
        repair: false,
        signal,
        progress,
      }),
    async barrier() {
      await filesystem.barrier();
      return { logVersion: metadata.status().version };
    },
    shutdown() {
      options.onShutdown();
      return { pid: process.pid };
    },
  };
  const control: ControlServer = await startControlServer({
    socketPath: config.control.socket,
    handlers,
    log: log.room('control'),
  });
  stack.defer(() => control.close());
  const mounted = await mounts.mount(config.mount.path);
  metadata.verifyPages({ pauseMs: VERIFY_PAUSE_MS }).catch((error: unknown) => {
    log.debug('the pages of meta.db were not compared to their end', { reason: describeError(error) });
  });

  const running = stack.move();
  return {
    mountPath: mounted.path,
    socketPath: control.socketPath,
    stop: () => running.disposeAsync(),
  };
}
