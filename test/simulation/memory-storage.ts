/** The storage of a simulated node in memory. */

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import type { ClusterSettings, Member } from '../../daemon/protocol/cluster.ts';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import type { SnapshotFiles } from '../../daemon/replication/snapshots.ts';
import { type Disk, emptyDisk, losePower, openMemoryState } from './memory-state.ts';
import type { Storage } from './node.ts';

export function memoryStorage(root: string, id: NodeId, members: readonly Member[]): Storage {
  const directory = path.join(root, id);
  mkdirSync(directory, { recursive: true });
  const settings: ClusterSettings = {
    mode: 'replicated',
    factor: 3,
    preferred: null,
    inSync: members.map((member) => member.id),
  };
  const disk: Disk = emptyDisk(directory, members, settings);
  return {
    files: blockingFiles(directory),
    open: (sync) => {
      const state = openMemoryState(disk, sync);
      return Promise.resolve({ state, dump: () => Promise.resolve(state.dump()) });
    },
    crash(power) {
      if (power) losePower(disk);
      return Promise.resolve();
    },
  };
}

/** Files of copies, read and written while simulated time stands still. */
export function blockingFiles(directory: string): SnapshotFiles {
  let received = 0;
  return {
    read: (file, offset, length) => Promise.resolve(readFileSync(file).subarray(offset, offset + length)),
    receive() {
      const file = path.join(directory, `received-${++received}`);
      const pieces: Uint8Array[] = [];
      return Promise.resolve({
        path: file,
        write(piece: Uint8Array) {
          pieces.push(piece);
          return Promise.resolve();
        },
        finish() {
          writeFileSync(file, Buffer.concat(pieces));
          return Promise.resolve();
        },
        discard() {
          rmSync(file, { force: true });
          return Promise.resolve();
        },
      });
    },
  };
}
