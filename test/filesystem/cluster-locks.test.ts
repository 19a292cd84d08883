/** Three nodes' lock tables in one process; calls between them go through a network that can be cut. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type ClusterLocks,
  clusterLocks,
  type LockLeader,
  mountBase,
} from '../../daemon/filesystem/cluster-locks.ts';
import { LOCK_END, type LockOwner, type RangeLock } from '../../daemon/filesystem/interface.ts';
import type { Inode, MountId, NodeId } from '../../daemon/protocol/ids.ts';
import type { LockCall } from '../../daemon/protocol/peer-api.ts';
import { silentLog } from '../metadata/folder.ts';

const FILE = 7 as Inode;
const WRITE: RangeLock = { start: 0n, end: 99n, type: 'write', pid: 1 };
const READ: RangeLock = { start: 0n, end: 99n, type: 'read', pid: 1 };
const UNLOCK: RangeLock = { start: 0n, end: LOCK_END, type: 'unlock', pid: 1 };
const WAIT_MS = 10_000;

interface Machine {
  readonly locks: ClusterLocks;
  lead(leader: LockLeader): void;
}

function machines(count: number) {
  const cut = new Set<number>();
  const inSync = new Set(Array.from({ length: count }, (_, number) => number));
  const nodes: Machine[] = Array.from({ length: count }, (_, number) => {
    let leader: LockLeader = { kind: 'none' };
    let changed = (): void => {};
    const locks = clusterLocks({
      self: { number },
      log: silentLog(),
      timeoutMs: 2000,
      leader: () => leader,
      onLeader(listener) {
        changed = listener;
      },
      inSync: () => [...inSync].filter((other) => other !== number),
      async call(to: NodeId, call: LockCall) {
        if (cut.has(number) || cut.has(Number(to))) throw new Error('cut');
        const answer = await nodes[Number(to)]!.locks.handle(number, structuredClone(call));
        if (cut.has(number) || cut.has(Number(to))) throw new Error('cut');
        return structuredClone(answer);
      },
      alone: () => count === 1,
    });
    return {
      locks,
      lead(next) {
        leader = next;
        changed();
      },
    };
  });
  const elect = (leader: number, term: number): void => {
    for (const [number, node] of nodes.entries()) {
      if (cut.has(number)) continue;
      node.lead(
        number === leader ? { kind: 'self', term } : { kind: 'other', node: String(leader) as NodeId, term },
      );
    }
  };
  return { nodes, elect, cut, inSync };
}

function owner(number: number, program = 1): LockOwner {
  return { mount: (mountBase(number) + 1) as MountId, owner: BigInt(program) };
}

const set = (node: Machine, who: LockOwner, lock: RangeLock, wait = false, signal?: AbortSignal) =>
  Promise.resolve().then(() => node.locks.set(FILE, who, lock, { wait, flock: false, signal }));

test('a lock of one node is in the way of every other', async () => {
  const { nodes, elect } = machines(3);
  elect(0, 1);
  await set(nodes[1]!, owner(1), WRITE);
  await assert.rejects(set(nodes[2]!, owner(2), READ), { code: 'EAGAIN' });
  await assert.rejects(set(nodes[0]!, owner(0), READ), { code: 'EAGAIN' });
  assert.equal((await nodes[2]!.locks.get(FILE, owner(2), READ))?.type, 'write');
  await set(nodes[1]!, owner(1), UNLOCK);
  await set(nodes[2]!, owner(2), READ);
  await set(nodes[0]!, owner(0), READ);
});

test('who waits gets the lock when another node gives it back, or EINTR when it is interrupted', async () => {
  const { nodes, elect } = machines(3);
  elect(0, 1);
  await set(nodes[1]!, owner(1), WRITE);
  const interrupted = new AbortController();
  const second = set(nodes[2]!, owner(2), WRITE, true, interrupted.signal);
  const third = set(nodes[0]!, owner(0), WRITE, true);
  interrupted.abort();
  await assert.rejects(second, { code: 'EINTR' });
  await nodes[1]!.locks.drop(FILE, owner(1));
  await third;
});

test('owners of several nodes that wait for each other are refused with EDEADLK', async () => {
  const { nodes, elect } = machines(3);
  elect(0, 1);
  const other = 8 as Inode;
  await set(nodes[1]!, owner(1), WRITE);
  await nodes[2]!.locks.set(other, owner(2), WRITE, { wait: false, flock: false });
  const waits = nodes[1]!.locks.set(other, owner(1), WRITE, { wait: true, flock: false });
  // The leader must have the first waiter in its queue before the circle can close.
  await delay(20);
  await assert.rejects(set(nodes[2]!, owner(2), WRITE, true), { code: 'EDEADLK' });
  await nodes[2]!.locks.drop(other, owner(2));
  await waits;
});

test('a new leader knows what every node holds before it gives anything', async () => {
  const { nodes, elect, cut, inSync } = machines(3);
  elect(0, 1);
  await set(nodes[1]!, owner(1), WRITE);
  await set(nodes[2]!, owner(2, 5), { ...WRITE, start: 200n, end: 299n });
  cut.add(0);
  inSync.delete(0);
  elect(1, 2);
  await assert.rejects(set(nodes[2]!, owner(2), READ), { code: 'EAGAIN' });
  await assert.rejects(set(nodes[1]!, owner(1), { ...READ, start: 250n, end: 260n }), { code: 'EAGAIN' });
  await set(nodes[1]!, owner(1), UNLOCK);
  await set(nodes[2]!, owner(2), READ);
});

test('a question that no leader answered is asked again after the failover', {
  timeout: WAIT_MS,
}, async () => {
  const { nodes, elect, cut, inSync } = machines(3);
  elect(0, 1);
  cut.add(0);
  inSync.delete(0);
  const asked = set(nodes[2]!, owner(2), WRITE);
  await delay(20);
  elect(1, 2);
  await asked;
  await assert.rejects(set(nodes[1]!, owner(1), WRITE), { code: 'EAGAIN' });
});

test('the locks of a node that is lost end; what it says when it is back is taken where it is free', async () => {
  const { nodes, elect, cut, inSync } = machines(3);
  elect(0, 1);
  await set(nodes[1]!, owner(1), WRITE);
  cut.add(1);
  inSync.delete(1);
  nodes[0]!.locks.nodeLost(1);
  await set(nodes[2]!, owner(2), { ...WRITE, end: 49n });
  cut.delete(1);
  inSync.add(1);
  // Its next question is answered only after it has told what it holds.
  await assert.rejects(set(nodes[1]!, owner(1, 2), WRITE), { code: 'EAGAIN' });
  await set(nodes[1]!, owner(1, 2), { ...WRITE, start: 500n, end: 600n });
});

test('a lock without a leader fails after its time-out with a reason', { timeout: WAIT_MS }, async () => {
  const { nodes } = machines(3);
  await assert.rejects(set(nodes[1]!, owner(1), WRITE), { code: 'EIO' });
});
