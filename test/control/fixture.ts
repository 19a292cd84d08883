/** A control server over handlers that answer from a table, for tests of both ends of the channel. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ControlServer, startControlServer } from '../../daemon/control/server.ts';
import type { ControlHandlers, FsckResult, Status } from '../../daemon/protocol/control-api.ts';
import { CLUSTER_METHODS } from '../../daemon/protocol/control-cluster.ts';
import { WarrenError } from '../../daemon/protocol/errors.ts';
import { RELEASE } from '../../daemon/protocol/release.ts';
import type { Log } from '../../daemon/runtime/log.ts';

export const STATUS: Status = {
  nodeId: 'alpha',
  clusterName: 'warren',
  role: 'auto',
  version: RELEASE,
  health: { state: 'healthy', dataSafe: true, reason: '', nextStep: '' },
  uptimeMs: 185_000,
  mounts: [{ path: '/mnt/warren', driver: 'kernel', openFiles: 1 }],
  usage: {
    diskBytes: 500 * 2 ** 30,
    diskFreeBytes: 100 * 2 ** 30,
    fileBytes: 3 * 2 ** 30,
    files: 1234,
    chunks: 900,
    chunkBytes: 2 * 2 ** 30,
  },
  logVersion: 12_345,
  pid: 4242,
  dataDirectory: '/var/lib/warren',
  configFile: '/etc/warren/config.toml',
  memory: { residentBytes: 123 * 2 ** 20, heapBytes: 40 * 2 ** 20 },
};

export const CLEAN_FSCK: FsckResult = {
  clean: true,
  findings: [],
  findingsLeftOut: 0,
  checked: { inodes: 5, entries: 4, extents: 3, chunks: 2, chunkBytes: 0 },
  durationMs: 12,
};

export interface Fixture extends AsyncDisposable {
  readonly directory: string;
  readonly socketPath: string;
  readonly server: ControlServer;
  readonly calls: string[];
  readonly logLines: string[];
}

export async function startFixture(changes: Partial<ControlHandlers> = {}): Promise<Fixture> {
  const directory = mkdtempSync(join(tmpdir(), 'warren-control-'));
  const socketPath = join(directory, 'control.sock');
  const calls: string[] = [];
  const logLines: string[] = [];
  const handlers: ControlHandlers = {
    version: () => ({ version: RELEASE, api: 1, node: process.versions.node }),
    status: () => STATUS,
    mount: ({ path }) => {
      calls.push(`mount ${path}`);
      return { path, driver: 'kernel', openFiles: 0 };
    },
    unmount: ({ path, force }) => {
      calls.push(`unmount ${path} ${force}`);
      if (!force) {
        throw new WarrenError({ code: 'MOUNT_BUSY', message: `${path} is in use.`, hint: 'close the files' });
      }
      return { path };
    },
    fsck: ({ data }, { progress }) => {
      calls.push(`fsck ${data}`);
      progress({ phase: 'checking inodes', done: 5, total: 10 });
      return CLEAN_FSCK;
    },
    barrier: () => ({ logVersion: 7 }),
    shutdown: () => ({ pid: process.pid }),
    conflicts: () => ({ merging: 0, count: 0, conflicts: [] }),
    'conflict-resolve': ({ id, keep }) => ({ id, kept: keep }),
    ...(Object.fromEntries(Object.keys(CLUSTER_METHODS).map((method) => [method, alone])) as unknown as Pick<
      ControlHandlers,
      keyof typeof CLUSTER_METHODS
    >),
    ...changes,
  };
  const server = await startControlServer({ socketPath, handlers, log: collectLog(logLines) });
  return {
    directory,
    socketPath,
    server,
    calls,
    logLines,
    async [Symbol.asyncDispose]() {
      await server.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function alone(): never {
  throw new WarrenError({ code: 'TEST_ALONE', message: 'The fixture has no cluster.', hint: '' });
}

export function collectLog(lines: string[]): Log {
  const add = (message: string, fields?: Record<string, unknown>): void => {
    lines.push(`${message} ${JSON.stringify(fields ?? {})}`);
  };
  const log: Log = { debug: add, info: add, warn: add, error: add, room: () => log };
  return log;
}
