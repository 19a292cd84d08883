/**
 * Advisory locks: fcntl byte ranges and flock, one table each, by inode. `localLocks` is all locks of a machine that
 * is alone; `cluster-locks.ts` puts the tables of several machines together.
 *
 * A range lock belongs to an owner (the kernel's id of the process's file table, within one mount); setting a
 * range replaces what the owner had there, splitting and joining where needed. flock is the range of the whole file
 * with the open file description as owner; as on Linux, turning one kind into the other first gives up what is held,
 * so that two who share and both want to be alone do not wait for each other for ever. Whoever must wait stands in a queue and is tried again whenever a lock
 * of the file goes; waiting ends with EINTR when the caller is interrupted, and is refused with EDEADLK when
 * the owners would wait for each other in a circle (fcntl only, as on Linux).
 */

import { FsError } from '../protocol/errors.ts';
import type { Inode, MountId } from '../protocol/ids.ts';
import type { LockOwner, MaybePromise, RangeLock } from './interface.ts';

/** How long a chain of waiting owners is followed. */
const DEADLOCK_DEPTH_MAX = 64;

interface HeldLock {
  readonly owner: string;
  readonly mount: MountId;
  readonly start: bigint;
  readonly end: bigint;
  readonly type: 'read' | 'write';
  readonly pid: number;
}

interface Waiter {
  readonly owner: string;
  readonly mount: MountId;
  readonly lock: RangeLock;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

interface FileLocks {
  held: HeldLock[];
  waiting: Waiter[];
}

/** The locks of all files, as the file system asks for them. */
export interface Locks {
  get(inode: Inode, owner: LockOwner, lock: RangeLock): MaybePromise<RangeLock | undefined>;
  /** Errors: EAGAIN when it would wait and must not, EINTR, EDEADLK; EIO when the leader cannot be asked in time. */
  set(
    inode: Inode,
    owner: LockOwner,
    lock: RangeLock,
    options: { wait: boolean; flock: boolean; signal?: AbortSignal | undefined },
  ): MaybePromise<void>;
  /** A close: drops the owner's range locks on the file. Cheap when it holds nothing. */
  drop(inode: Inode, owner: LockOwner): MaybePromise<void>;
  releaseFlock(inode: Inode, owner: LockOwner): void;
  dropMount(mount: MountId): void;
  count(): number;
  /** Other machines may take the locks: data is written out before one is given back. */
  shared(): boolean;
}

export function localLocks(): Locks {
  const ranges = lockTable({ flock: false });
  const flocks = lockTable({ flock: true });
  return {
    get: (inode, owner, lock) => ranges.test(inode, owner, lock),
    set: (inode, owner, lock, { wait, flock, signal }) =>
      (flock ? flocks : ranges).set(inode, owner, lock, { wait, signal }),
    drop: (inode, owner) => ranges.drop(inode, owner),
    releaseFlock: (inode, owner) => flocks.drop(inode, owner),
    dropMount(mount) {
      ranges.dropMount(mount);
      flocks.dropMount(mount);
    },
    count: () => ranges.count() + flocks.count(),
    shared: () => false,
  };
}

/** A held lock with everything that another table needs to take it over. */
export interface HeldSpan extends RangeLock {
  readonly inode: Inode;
  readonly owner: LockOwner;
}

export interface LockTable {
  test(inode: Inode, owner: LockOwner, lock: RangeLock): RangeLock | undefined;
  set(
    inode: Inode,
    owner: LockOwner,
    lock: RangeLock,
    options: { wait: boolean; signal?: AbortSignal | undefined },
  ): MaybePromise<void>;
  /** Drops everything that the owner holds on the file. Cheap when it holds nothing. */
  drop(inode: Inode, owner: LockOwner): void;
  /** Ends every lock and every wait of the mounts that `belongs` names. */
  dropMounts(belongs: (mount: MountId) => boolean): void;
  dropMount(mount: MountId): void;
  holds(inode: Inode, owner: LockOwner): boolean;
  /** Held locks of the mounts that `belongs` names. */
  held(belongs: (mount: MountId) => boolean): HeldSpan[];
  count(): number;
}

export function lockTable(options: { flock: boolean }): LockTable {
  const files = new Map<Inode, FileLocks>();
  /** The waiter of an owner, to follow who waits for whom. */
  const waitingOwners = new Map<string, { inode: Inode; waiter: Waiter }>();

  function conflict(file: FileLocks, owner: string, lock: RangeLock): HeldLock | undefined {
    return file.held.find(
      (held) =>
        held.owner !== owner &&
        held.start <= lock.end &&
        held.end >= lock.start &&
        (held.type === 'write' || lock.type === 'write'),
    );
  }

  /** Replaces what the owner holds in the range; what touches it and is of its type becomes one lock with it. */
  function place(file: FileLocks, owner: string, mount: MountId, lock: RangeLock): void {
    const held: HeldLock[] = [];
    let { start, end } = lock;
    for (const old of file.held) {
      if (old.owner !== owner || old.end + 1n < lock.start || old.start > lock.end + 1n) held.push(old);
      else if (old.type === lock.type) {
        if (old.start < start) start = old.start;
        if (old.end > end) end = old.end;
      } else {
        if (old.start < lock.start)
          held.push({ ...old, end: old.end < lock.start ? old.end : lock.start - 1n });
        if (old.end > lock.end)
          held.push({ ...old, start: old.start > lock.end ? old.start : lock.end + 1n });
      }
    }
    if (lock.type !== 'unlock') held.push({ owner, mount, start, end, type: lock.type, pid: lock.pid });
    file.held = held;
  }

  function wake(inode: Inode, file: FileLocks): void {
    for (const waiter of [...file.waiting]) {
      if (conflict(file, waiter.owner, waiter.lock) !== undefined) continue;
      leave(file, waiter);
      place(file, waiter.owner, waiter.mount, waiter.lock);
      waiter.resolve();
    }
    if (file.held.length === 0 && file.waiting.length === 0) files.delete(inode);
  }

  function leave(file: FileLocks, waiter: Waiter): void {
    file.waiting = file.waiting.filter((other) => other !== waiter);
    waitingOwners.delete(waiter.owner);
  }

  function wouldDeadlock(owner: string, blocker: HeldLock): boolean {
    let current: HeldLock | undefined = blocker;
    for (let depth = 0; depth < DEADLOCK_DEPTH_MAX && current !== undefined; depth++) {
      if (current.owner === owner) return true;
      const waits = waitingOwners.get(current.owner);
      const file = waits === undefined ? undefined : files.get(waits.inode);
      if (waits === undefined || file === undefined) return false;
      current = conflict(file, waits.waiter.owner, waits.waiter.lock);
    }
    return false;
  }

  function dropMounts(belongs: (mount: MountId) => boolean): void {
    for (const [inode, file] of files) {
      for (const waiter of file.waiting.filter((other) => belongs(other.mount))) {
        leave(file, waiter);
        waiter.reject(new FsError('EINTR'));
      }
      file.held = file.held.filter((held) => !belongs(held.mount));
      wake(inode, file);
    }
  }

  return {
    test(inode, owner, lock) {
      const file = files.get(inode);
      const found = file === undefined ? undefined : conflict(file, keyOf(owner), lock);
      return found === undefined
        ? undefined
        : { start: found.start, end: found.end, type: found.type, pid: found.pid };
    },
    set(inode, lockOwner, lock, { wait, signal }) {
      const owner = keyOf(lockOwner);
      let file = files.get(inode);
      if (file === undefined) {
        if (lock.type === 'unlock') return undefined;
        file = { held: [], waiting: [] };
        files.set(inode, file);
      }
      if (options.flock && file.held.some((held) => held.owner === owner && held.type !== lock.type)) {
        place(file, owner, lockOwner.mount, { ...lock, type: 'unlock' });
        wake(inode, file);
        files.set(inode, file);
      }
      const blocker = lock.type === 'unlock' ? undefined : conflict(file, owner, lock);
      if (blocker === undefined) {
        place(file, owner, lockOwner.mount, lock);
        wake(inode, file);
        return undefined;
      }
      if (!wait) throw new FsError('EAGAIN');
      if (!options.flock && wouldDeadlock(owner, blocker)) throw new FsError('EDEADLK');
      if (signal?.aborted === true) throw new FsError('EINTR');
      const locks = file;
      return new Promise<void>((resolve, reject) => {
        const waiter: Waiter = { owner, mount: lockOwner.mount, lock, resolve, reject };
        locks.waiting.push(waiter);
        waitingOwners.set(owner, { inode, waiter });
        signal?.addEventListener(
          'abort',
          () => {
            if (!locks.waiting.includes(waiter)) return;
            leave(locks, waiter);
            reject(new FsError('EINTR'));
          },
          { once: true },
        );
      });
    },
    drop(inode, lockOwner) {
      const file = files.get(inode);
      if (file === undefined) return;
      const owner = keyOf(lockOwner);
      if (!file.held.some((held) => held.owner === owner)) return;
      file.held = file.held.filter((held) => held.owner !== owner);
      wake(inode, file);
    },
    dropMounts,
    dropMount: (mount) => dropMounts((other) => other === mount),
    holds: (inode, owner) => files.get(inode)?.held.some((held) => held.owner === keyOf(owner)) === true,
    held(belongs) {
      const spans: HeldSpan[] = [];
      for (const [inode, file] of files) {
        for (const { owner, mount, start, end, type, pid } of file.held) {
          if (belongs(mount)) spans.push({ inode, owner: ownerOf(owner), start, end, type, pid });
        }
      }
      return spans;
    },
    count: () => [...files.values()].reduce((sum, file) => sum + file.held.length, 0),
  };
}

function keyOf(owner: LockOwner): string {
  return `${owner.mount}:${owner.owner}`;
}

function ownerOf(key: string): LockOwner {
  const [mount = '0', owner = '0'] = key.split(':');
  return { mount: Number(mount) as MountId, owner: BigInt(owner) };
}
