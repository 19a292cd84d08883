/**
 * A node that stores: storage, cluster, file system, mounts and control channel wired together, and ended in the right
 * order. `main.ts` decides when; this decides how.
 *
 * Start: data directory and its lock, metadata (applies the log), chunks, connections and leadership, file system,
 * control socket, mount. A node that has just joined mounts when it has the state of the cluster. What was started is
 * ended again when a later step fails, so that no half-started daemon is left.
 * Stop: mounts first (no more requests), then what is in memory is flushed and synced, leadership goes to another node,
 * then everything closes.
 */

import * as path from 'node:path';
import type { ChunkDamage } from './chunks/open.ts';
import { type ClusterNode, openClusterNode } from './cluster-node.ts';
import { conflictControl } from './conflict-control.ts';
import { type ControlServer, startControlServer } from './control/server.ts';
import { mountBase } from './filesystem/cluster-locks.ts';
import { openFileSystem } from './filesystem/filesystem.ts';
import { bothTold, serveClientNodes } from './client-serving.ts';
import { fsckRunning } from './fsck/fsck.ts';
import { openMounts } from './mounts.ts';
import type { NodeOptions, RunningNode } from './node.ts';
import { CONTROL_API_VERSION, type ControlHandlers } from './protocol/control-api.ts';
import { describeError } from './protocol/errors.ts';
import { NO_MOUNT, ROOT_INODE } from './protocol/ids.ts';
import { RELEASE } from './protocol/release.ts';
import { systemClock } from './runtime/clock.ts';
import { nodeStatus } from './status.ts';
import { openNodeStorage } from './storage/node-storage.ts';

/** Damaged chunks remembered for the status. */
const DAMAGE_MAX = 1000;
/** Rest after each MiB of meta.db that is compared with its sums after the start. */
const VERIFY_PAUSE_MS = 20;
/** A node that waits for the state of its cluster says so this often. */
const WAIT_REPORT_MS = 10_000;
const WAIT_POLL_MS = 20;

/** Errors: WarrenError of whatever is in the way, after everything started was ended. */
export async function startStoringNode(options: NodeOptions): Promise<RunningNode> {
  const { config, log } = options;
  const clock = systemClock();
  const startedMs = clock.monotonicMs();
  const damaged = new Map<string, ChunkDamage>();
  const noteDamage = (damage: ChunkDamage) => {
    if (damaged.size < DAMAGE_MAX) damaged.set(damage.hash, damage);
  };
  await using stack = new AsyncDisposableStack();

  const storage = await openNodeStorage({
    directory: config.node.dataDirectory,
    nodeId: config.node.id,
    log,
    clock,
    salvage: false,
    missingIsDamage: false,
    onDamage: noteDamage,
  });
  stack.defer(() => storage.close());
  const { metadata } = storage;
  const isNew = metadata.status().version === 0 && storage.directory.format.origin === 'made';
  const cluster = await openClusterNode({
    config,
    storage,
    clock,
    log,
    onDamage(damage) {
      log.error('a chunk cannot be read from any node', {
        ...damage,
        hint: '`warren fsck --data` names the files; restore those from a backup',
      });
      noteDamage(damage);
    },
    onRepaired: (hash) => damaged.delete(hash),
  });
  stack.defer(() => cluster.close());
  const filesystem = openFileSystem({
    metadata: cluster.metadata,
    chunks: cluster.chunks,
    clock,
    log,
    chunkBytes: config.replication.chunkBytes,
    locks: cluster.locks,
    cluster: cluster.view,
  });
  stack.defer(() => filesystem.close());
  const clients = serveClientNodes({
    self: config.node.id,
    peers: cluster.peers,
    replication: cluster.replication,
    filesystem,
    locks: cluster.locks,
    control: cluster.control.handlers,
    mountsTold: () => mounts.told(),
    log: log.room('clients'),
  });
  stack.defer(() => clients.close());
  const mounts = openMounts({
    filesystem,
    driver: config.mount.driver,
    allowOther: config.mount.allowOther,
    firstId: mountBase(storage.directory.format.memberNumber) + 1,
    log: log.room('fuse'),
    clients,
  });
  stack.defer(() => mounts.close());
  cluster.attach({
    applied: ({ operation, outcome }) => filesystem.applied(operation, outcome),
    rewound: () => filesystem.rewound(),
    leads: () => filesystem.maintenance.leads(),
    told: (crossed) => bothTold(mounts.told(), clients.told(), crossed),
    held: (inodes) => filesystem.maintenance.heldOf(inodes),
  });

  /** A new file system begins now, and belongs to whom the daemon runs as: nobody else could write into it. */
  async function beginRoot(): Promise<void> {
    const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
    const owner = uid === 0 ? {} : { uid, gid };
    const caller = { uid: 0, gid: 0, pid: process.pid, mount: NO_MOUNT };
    await filesystem.setattr(caller, ROOT_INODE, { ...owner, atime: 'now', mtime: 'now' });
  }

  const sources = {
    ...{ config, configFile: options.configFile, storage, filesystem, mounts, damaged },
    cluster: () => cluster.health(),
    uptimeMs: () => clock.monotonicMs() - startedMs,
  };
  const handlers: ControlHandlers = {
    ...cluster.control.handlers,
    ...conflictControl({
      reads: metadata.reads,
      replication: cluster.replication,
      clock,
      merging: () => cluster.merging(),
    }),
    version: () => ({ version: RELEASE, api: CONTROL_API_VERSION, node: process.versions.node }),
    status: () => nodeStatus(sources),
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
  if (isNew) await beginRoot();
  if (storage.directory.format.origin === 'joined') await hasState(cluster, options);
  // The first of its cluster enters the list of members; a changed address is told.
  const registering = cluster.register().catch((error: unknown) => {
    log.warn('this node could not tell the others its address', { reason: describeError(error) });
  });
  if (isNew) await registering;
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

/** A node that has joined waits until its own entry in the list of members has arrived, and all before it. */
async function hasState(cluster: ClusterNode, { config, log, stopped }: NodeOptions): Promise<void> {
  const { replication } = cluster;
  let reportMs = performance.now() + WAIT_REPORT_MS;
  while (!replication.members().some(({ id }) => id === config.node.id)) {
    stopped.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, WAIT_POLL_MS));
    if (performance.now() < reportMs) continue;
    reportMs = performance.now() + WAIT_REPORT_MS;
    const leadership = replication.leadership();
    log.info('waits for the state of the cluster before it mounts', {
      version: replication.position().version,
      reason: leadership.kind === 'none' ? leadership.reason : 'it is being copied',
    });
  }
}
