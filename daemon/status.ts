/** The status of a storing node: is its data safe, what is wrong, what to do; then the figures. */

import type { ChunkDamage } from './chunks/open.ts';
import type { LocalFileSystem } from './filesystem/filesystem.ts';
import type { Mounts } from './mounts.ts';
import type { Config } from './protocol/config.ts';
import type { Health, Status } from './protocol/control-api.ts';
import { RELEASE } from './protocol/release.ts';
import type { ClusterHealth } from './cluster-node.ts';
import type { NodeStorage } from './storage/node-storage.ts';

/** Below this share of free space the node is degraded. */
const LOW_SPACE_SHARE = 0.02;

export interface StatusSources {
  readonly config: Config;
  readonly configFile: string;
  readonly storage: NodeStorage;
  readonly filesystem: LocalFileSystem;
  readonly mounts: Mounts;
  readonly damaged: ReadonlyMap<string, ChunkDamage>;
  /** What the other nodes have to say; undefined when there are none. */
  readonly cluster: () => ClusterHealth | undefined;
  readonly uptimeMs: () => number;
}

export function nodeStatus(sources: StatusSources): Status {
  const { config, storage, mounts } = sources;
  const usage = storage.chunks.usage();
  const state = storage.metadata.status();
  const memory = process.memoryUsage();
  const totals = storage.metadata.reads.chunkTotals();
  return {
    nodeId: config.node.id,
    clusterName: config.cluster.name,
    role: config.node.role,
    version: RELEASE,
    health: nodeHealth(sources),
    uptimeMs: Math.round(sources.uptimeMs()),
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
    configFile: sources.configFile,
    memory: { residentBytes: memory.rss, heapBytes: memory.heapUsed },
  };
}

/** The worst of what this node and its cluster have to say. */
export function nodeHealth(sources: StatusSources): Health {
  return ownTrouble(sources) ?? sources.cluster()?.health ?? HEALTHY;
}

const HEALTHY: Health = { state: 'healthy', dataSafe: true, reason: '', nextStep: '' };

function ownTrouble({ storage, filesystem, damaged, cluster }: StatusSources): Health | undefined {
  const { readOnly, damagedPages, healedPages } = storage.metadata.status();
  if (readOnly !== undefined) {
    return {
      state: 'read-only',
      dataSafe: true,
      reason: `The disk failed: ${readOnly}.`,
      nextStep: 'Free space on the disk or replace it, then restart warrend; what was acknowledged is kept.',
    };
  }
  const pages = damagedPages.length;
  if (pages > 0) {
    return {
      state: 'degraded',
      dataSafe: false,
      reason: `${pages} page${pages === 1 ? '' : 's'} of meta.db ${pages === 1 ? 'is' : 'are'} damaged: the disk changed bytes by itself.`,
      nextStep: '`warren fsck` names them; copy the data to another disk and restore meta.db from a backup.',
    };
  }
  if (damaged.size > 0) {
    const others = cluster()?.hasOthers === true;
    return {
      state: 'degraded',
      dataSafe: others,
      reason: `${damaged.size} chunk${damaged.size === 1 ? ' is' : 's are'} missing or damaged${others ? ' here' : ''}.`,
      nextStep: others
        ? 'They are fetched from the other nodes; `warren replication` shows how far it is.'
        : '`warren fsck --data` names the files; restore those from a backup.',
    };
  }
  const usage = storage.chunks.usage();
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
  return undefined;
}
