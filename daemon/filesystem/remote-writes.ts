/**
 * What a client has written and nobody has made safe yet.
 *
 * A write is copied, sent at once and answered to the program while at most WINDOW_BYTES are on their way. The copy is
 * kept until a flush that was asked after it is answered: by then its bytes are on every in-sync node. When the server
 * is lost before that, all copies go to the next one, in their order and before any other call; offsets are absolute, so
 * twice is as good as once.
 *
 * Whatever changes a file in another way than by a write (truncate, times, copies, holes) flushes it first, so that no
 * copy is left that could be sent again after it.
 *
 * An error belongs to the file and is answered by its next flush, fsync or close; what was not stored is dropped then, and
 * kernels read again what is stored.
 */

import { FsError } from '../protocol/errors.ts';
import { type Inode, NO_MOUNT } from '../protocol/ids.ts';
import type { Caller, Invalidation, MaybePromise } from './interface.ts';
import { LostAnswer, type RemoteConnection } from './remote-connection.ts';

/** Bytes on their way, above which writers wait. */
const WINDOW_BYTES = 8 * 1024 * 1024;
/** Copies of one file above which it is flushed, and of all files above which writers wait. */
const FILE_KEPT_BYTES = 16 * 1024 * 1024;
const KEPT_BYTES_MAX = 64 * 1024 * 1024;

interface Kept {
  readonly inode: Inode;
  readonly offset: number;
  readonly data: Buffer;
  readonly caller: Pick<Caller, 'mount' | 'uid' | 'gid' | 'pid'>;
  readonly killPrivileges: boolean;
  /** The server has it in memory. */
  readonly arrived: Promise<void>;
  readonly arrive: () => void;
  isThere: boolean;
}

interface File {
  kept: Kept[];
  error: FsError | undefined;
  flushing: Promise<void> | undefined;
}

export interface RemoteWrites {
  write(
    caller: Caller,
    inode: Inode,
    offset: number,
    data: Uint8Array,
    killPrivileges: boolean,
  ): MaybePromise<number>;
  /** The server has put it there already: only the copy is kept. */
  keep(caller: Caller, inode: Inode, offset: number, data: Uint8Array): void;
  /** Whether a flush has anything to do. */
  isDirty(inode: Inode): boolean;
  /** Everything written so far is on every in-sync node when it resolves. Errors: the file's. */
  flush(inode: Inode, durable?: { dataOnly: boolean }): Promise<void>;
  flushAll(): Promise<void>;
  /** Sends all copies to the new server. */
  replay(): void;
  keptBytes(): number;
}

export function remoteWrites(options: {
  readonly connection: () => RemoteConnection;
  /** How long a writer waits for room. */
  readonly timeoutMs: number;
  readonly emit: (event: Invalidation) => void;
}): RemoteWrites {
  const files = new Map<Inode, File>();
  /** All copies, in the order of writing. */
  const order = new Set<Kept>();
  let underWayBytes = 0;
  let keptBytes = 0;
  let roomWaiters: (() => void)[] = [];

  function fileOf(inode: Inode): File {
    let file = files.get(inode);
    if (file === undefined) files.set(inode, (file = { kept: [], error: undefined, flushing: undefined }));
    return file;
  }

  function hasRoom(): boolean {
    return underWayBytes < WINDOW_BYTES && keptBytes < KEPT_BYTES_MAX;
  }

  function wake(): void {
    if (!hasRoom()) return;
    const waiters = roomWaiters;
    roomWaiters = [];
    for (const resolve of waiters) resolve();
  }

  async function room(): Promise<void> {
    const deadlineMs = performance.now() + options.timeoutMs;
    while (!hasRoom()) {
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0)
        throw new FsError('EIO', 'no storing node takes what was written; see `warren status`');
      if (keptBytes >= KEPT_BYTES_MAX) {
        for (const [inode, file] of files) if (file.kept.length > 0) flushSoon(inode);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        roomWaiters.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  function add(
    caller: Caller,
    inode: Inode,
    offset: number,
    data: Uint8Array,
    killPrivileges: boolean,
  ): Kept {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { mount, uid, gid, pid } = caller;
    const kept: Kept = {
      inode,
      offset,
      data: Buffer.copyBytesFrom(data),
      caller: { mount, uid, gid, pid },
      killPrivileges,
      arrived: promise,
      arrive: resolve,
      isThere: false,
    };
    fileOf(inode).kept.push(kept);
    order.add(kept);
    keptBytes += kept.data.length;
    return kept;
  }

  function send(kept: Kept): void {
    const { inode, offset, data, caller, killPrivileges } = kept;
    const sent = options
      .connection()
      .send('write', [inode, offset, { append: false, killPrivileges }], { ...caller, bytes: [data] });
    // Without a server `replay` sends it.
    sent?.then(
      () => settle(kept),
      (error: unknown) => {
        if (error instanceof LostAnswer) return;
        failed(inode, error);
        drop(kept);
      },
    );
  }

  function settle(kept: Kept): void {
    if (kept.isThere) return;
    kept.isThere = true;
    underWayBytes -= kept.data.length;
    kept.arrive();
    wake();
  }

  function drop(kept: Kept): void {
    settle(kept);
    if (!order.delete(kept)) return;
    keptBytes -= kept.data.length;
    const file = fileOf(kept.inode);
    file.kept = file.kept.filter((other) => other !== kept);
    wake();
  }

  function dropAll(kept: readonly Kept[]): void {
    if (kept.length === 0) return;
    for (const one of kept) {
      settle(one);
      if (order.delete(one)) keptBytes -= one.data.length;
    }
    const [first] = kept;
    if (first === undefined) return;
    const file = fileOf(first.inode);
    file.kept = file.kept.filter((one) => order.has(one));
    wake();
  }

  function failed(inode: Inode, error: unknown): void {
    const failure = error instanceof FsError ? error : new FsError('EIO', String(error));
    // The inode is gone: its last name and its last open went, nobody can ask for the data.
    if (failure.code !== 'ESTALE') fileOf(inode).error = failure;
    options.emit({ kind: 'data', inode, offset: 0, length: 0, mount: NO_MOUNT });
    options.emit({ kind: 'attributes', inode, mount: NO_MOUNT });
  }

  function flushSoon(inode: Inode): void {
    const file = fileOf(inode);
    if (file.flushing !== undefined) return;
    // Its error is kept with the file.
    file.flushing = flushOnce(inode, undefined)
      .catch((error: unknown) => failed(inode, error))
      .finally(() => {
        file.flushing = undefined;
        forgetIfIdle(inode, file);
      });
  }

  async function flushOnce(inode: Inode, durable: { dataOnly: boolean } | undefined): Promise<void> {
    const file = fileOf(inode);
    const kept = [...file.kept];
    const caller = kept[0]?.caller ?? { mount: NO_MOUNT, uid: 0, gid: 0, pid: 0 };
    const connection = options.connection();
    try {
      if (durable !== undefined) await connection.ask('fsync', [inode, durable.dataOnly], caller);
      else if (kept.length > 0) await connection.ask('flush', [inode], caller);
    } finally {
      // Also when it failed: the server has dropped it, or there is none and the program hears of it.
      dropAll(kept);
    }
  }

  function forgetIfIdle(inode: Inode, file: File): void {
    if (file.kept.length === 0 && file.error === undefined && file.flushing === undefined)
      files.delete(inode);
  }

  async function flush(inode: Inode, durable?: { dataOnly: boolean }): Promise<void> {
    const file = fileOf(inode);
    try {
      await flushOnce(inode, durable);
    } catch (error) {
      failed(inode, error);
      if (file.error === undefined) throw error;
    }
    const { error } = file;
    file.error = undefined;
    forgetIfIdle(inode, file);
    if (error !== undefined) throw error;
  }

  return {
    write(caller, inode, offset, data, killPrivileges) {
      const kept = add(caller, inode, offset, data, killPrivileges);
      underWayBytes += kept.data.length;
      send(kept);
      const file = fileOf(inode);
      const fileBytes = file.kept.length * data.byteLength;
      if (fileBytes >= FILE_KEPT_BYTES && sizeOf(file.kept) >= FILE_KEPT_BYTES) flushSoon(inode);
      const { length } = kept.data;
      return hasRoom() ? length : room().then(() => length);
    },
    keep(caller, inode, offset, data) {
      const kept = add(caller, inode, offset, data, false);
      kept.isThere = true;
      kept.arrive();
    },
    isDirty(inode) {
      const file = files.get(inode);
      return file !== undefined && (file.kept.length > 0 || file.error !== undefined);
    },
    flush,
    async flushAll() {
      await Promise.allSettled([...files.keys()].map((inode) => flush(inode)));
    },
    replay() {
      for (const kept of order) send(kept);
    },
    keptBytes: () => keptBytes,
  };
}

function sizeOf(kept: readonly Kept[]): number {
  return kept.reduce((sum, { data }) => sum + data.length, 0);
}
