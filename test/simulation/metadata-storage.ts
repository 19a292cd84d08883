/**
 * The storage of a simulated node on the real metadata: SQLite and log files in a folder. A killed process leaves a copy
 * of its folder at that moment. Losing power is not tried here (test/crash does), it kills.
 *
 * Only the first node has a file system at first; the others join with nothing and get everything from it.
 */

import { cpSync, mkdirSync, rmSync } from 'node:fs';
import * as path from 'node:path';
import { type Metadata, openMetadata } from '../../daemon/metadata/metadata.ts';
import type { Member } from '../../daemon/protocol/cluster.ts';
import type { Epoch, NodeId } from '../../daemon/protocol/ids.ts';
import type { Operation } from '../../daemon/protocol/operations.ts';
import type { StateMachine } from '../../daemon/replication/state-machine.ts';
import { dumpState } from '../metadata/dump.ts';
import { silentLog } from '../metadata/folder.ts';
import { blockingFiles } from './memory-storage.ts';
import type { Storage } from './node.ts';
import type { World } from './world.ts';

export function metadataStorage(root: string, world: World, id: NodeId, members: readonly Member[]): Storage {
  const number = members.findIndex((member) => member.id === id);
  let lives = 0;
  let directory = folderOf(0);
  let metadata: Metadata | undefined;
  mkdirSync(directory, { recursive: true });

  function folderOf(life: number): string {
    return path.join(root, id, String(life));
  }

  async function begin(machine: StateMachine): Promise<void> {
    const operations: Operation[] = [
      ...members.map((member) => ({ kind: 'member', member }) as const),
      { kind: 'settings', settings: { inSync: [id] } },
    ];
    for (const operation of operations) {
      await machine.propose({ epoch: 1 as Epoch, operation, payload: new Map(), tag: null }).written;
    }
  }

  return {
    files: blockingFiles(path.join(root, id)),
    async open(sync) {
      const opened = openMetadata({ directory, create: lives === 0, memberNumber: number, log: silentLog() });
      metadata = opened;
      const machine = opened.stateMachine;
      if (lives === 0 && number === 0) await begin(machine);
      const slowly = async <T>(work: () => Promise<T>): Promise<T> => {
        await sync();
        return world.hold(work());
      };
      const state: StateMachine = {
        ...machine,
        append: (entries) => world.hold(machine.append(entries)),
        barrier: () => slowly(() => machine.barrier()),
        takeBack: (version) => slowly(() => machine.takeBack(version)),
        snapshot: () => slowly(() => machine.snapshot()),
        restore: (file, position) => slowly(() => machine.restore(file, position)),
      };
      return {
        state,
        async dump() {
          await opened.commit();
          return dumpState(path.join(directory, 'meta.db'));
        },
      };
    },
    async crash() {
      const left = folderOf(++lives);
      cpSync(directory, left, { recursive: true });
      await metadata?.close();
      rmSync(directory, { recursive: true });
      directory = left;
    },
  };
}
