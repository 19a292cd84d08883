/**
 * The file system as a client shows it: every call goes to a storing node, as far as it is not remembered here.
 *
 * The parts: `remote-connection` finds and keeps the server, `remote-writes` keeps what is not safe yet, `remote-cache`
 * remembers answers. `remote-protocol` says why old answers do no harm. Locks go to the leader directly.
 */

import { FsError } from '../protocol/errors.ts';
import { FILE_BYTES_MAX, type Inode, type MountId, NO_MOUNT, type Timestamp } from '../protocol/ids.ts';
import type { Log } from '../runtime/log.ts';
import type { Attributes, Caller, FileSystem, Invalidation, ListedEntry, MaybePromise } from './interface.ts';
import { keptCaches } from './kept-caches.ts';
import type { Locks } from './locks.ts';
import { remoteCache } from './remote-cache.ts';
import { connectRemote, type RemoteConnection, type RemoteTransport } from './remote-connection.ts';
import type { FileArguments, FileMethod, FileValue, SessionRequest, Standing } from './remote-protocol.ts';
import { remoteWrites } from './remote-writes.ts';

/** A call whose answer an event overtook is made again so often; then the kernel is told afterwards. */
const OVERTAKEN_MAX = 8;
/** Inodes that the kernels may know, the newest: told that they are old when the server changes. */
const KNOWN_MAX = 50_000;
/** A listing is fetched in pages of at least so many entries, whatever the kernel's buffer holds. */
const PAGE_ENTRIES = 256;
const RELATIME_SECONDS = 24 * 60 * 60;

export interface RemoteFileSystem extends FileSystem {
  readonly connection: RemoteConnection;
  /** Calls to servers so far, for tests and the status. */
  readonly statistics: () => { calls: number; keptBytes: number };
  close(): Promise<void>;
}

export interface RemoteOptions {
  readonly session: string;
  readonly transport: RemoteTransport;
  readonly locks: Locks;
  readonly timeoutMs: number;
  readonly log: Log;
  readonly onStanding: (standing: Standing) => void;
  /** This machine's kernels were told of every event so far. */
  readonly told: () => Promise<void> | undefined;
  readonly several: () => boolean;
}

export function openRemoteFileSystem(options: RemoteOptions): RemoteFileSystem {
  const { locks } = options;
  const cache = remoteCache();
  const kept = keptCaches();
  const listeners = new Set<(event: Invalidation) => void>();
  const opens = new Map<string, { readonly mount: MountId; readonly inode: Inode; count: number }>();
  const known = new Set<Inode>();
  /** What the present server was told of `opens`. */
  let toldOpens: SessionRequest['opens'] = [];

  const emit = (event: Invalidation): void => {
    if (event.kind === 'everything') reset();
    else {
      cache.event(event.kind === 'entry' ? event.parent : event.inode);
      for (const listener of listeners) listener(event);
    }
  };
  const writes = remoteWrites({ connection: () => connection, timeoutMs: options.timeoutMs, emit });
  const connection: RemoteConnection = connectRemote({
    ...{
      session: options.session,
      transport: options.transport,
      timeoutMs: options.timeoutMs,
      log: options.log,
    },
    hooks: {
      opens: () => (toldOpens = [...opens.values()].map((open) => ({ ...open }))),
      reset,
      connected() {
        writes.replay();
        // Closed while there was no server.
        for (const { mount, inode, count } of toldOpens) {
          const now = opens.get(openKey(mount, inode))?.count ?? 0;
          for (let left = count - now; left > 0; left--) sendRelease(mount, inode);
        }
      },
      event: emit,
      told: options.told,
      standing: options.onStanding,
      several: options.several,
    },
  });

  function reset(): void {
    cache.dropAll();
    kept.dropAll();
    const tell = (event: Invalidation): void => {
      for (const listener of listeners) listener(event);
    };
    tell({ kind: 'everything', mount: NO_MOUNT });
    for (const inode of known) tell({ kind: 'attributes', inode, mount: NO_MOUNT });
    for (const { inode } of opens.values())
      tell({ kind: 'data', inode, offset: 0, length: 0, mount: NO_MOUNT });
  }

  function know(attributes: Attributes): Attributes {
    known.add(attributes.inode);
    if (known.size > KNOWN_MAX) {
      const [oldest] = known;
      if (oldest !== undefined) known.delete(oldest);
    }
    return attributes;
  }

  /** Reads, again while an event overtakes the answer. `about`: the inodes that the answer speaks of. */
  async function read<M extends FileMethod>(
    method: M,
    args: FileArguments<M>,
    caller: Pick<Caller, 'mount' | 'uid' | 'gid' | 'pid'>,
    about: (value: FileValue<M>) => readonly Inode[],
    remember: (value: FileValue<M>) => void,
  ): Promise<FileValue<M>> {
    for (let tries = 0; ; tries++) {
      const since = cache.now();
      const { value } = await connection.ask(method, args, caller);
      const inodes = about(value);
      if (cache.isStale(since, inodes)) {
        if (tries < OVERTAKEN_MAX) continue;
        setImmediate(() => {
          for (const inode of inodes) emit({ kind: 'attributes', inode, mount: NO_MOUNT });
        });
      } else if (!cache.isOwnChange(since, inodes)) remember(value);
      return value;
    }
  }

  async function change<M extends FileMethod>(
    caller: Caller,
    method: M,
    args: FileArguments<M>,
    inodes: readonly Inode[],
  ): Promise<FileValue<M>> {
    for (const inode of inodes) cache.own(inode);
    try {
      const { value } = await connection.ask(method, args, { ...callerOf(caller), once: true });
      return value;
    } finally {
      for (const inode of inodes) cache.own(inode);
    }
  }

  /** The attributes that a change answered, unless an event has overtaken them. */
  async function changed(caller: Caller, since: number, answer: Promise<Attributes>): Promise<Attributes> {
    const attributes = await answer;
    if (!cache.isStale(since, [attributes.inode])) return know(attributes);
    try {
      return await getattr(attributes.inode, caller);
    } catch (error) {
      // Removed by another machine right after it was made.
      if (!(error instanceof FsError) || error.code !== 'ESTALE') throw error;
      return know(attributes);
    }
  }

  async function getattr(
    inode: Inode,
    caller: Pick<Caller, 'mount' | 'uid' | 'gid' | 'pid'> = NOBODY,
  ): Promise<Attributes> {
    const attributes = await read(
      'getattr',
      [inode],
      caller,
      () => [inode],
      (value) => cache.set(inode, 'attributes', value),
    );
    return know(attributes);
  }

  async function flushIfDirty(inode: Inode): Promise<void> {
    if (writes.isDirty(inode)) await writes.flush(inode);
  }

  /** The server moves the time of access by relatime: where it does, the remembered one is old. */
  function accessed(inode: Inode): void {
    const attributes = cache.get(inode, 'attributes') as Attributes | undefined;
    if (attributes !== undefined && movesAccess(attributes)) cache.own(inode);
  }

  async function flushThen(inode: Inode, next: () => MaybePromise<void>): Promise<void> {
    try {
      await writes.flush(inode);
    } finally {
      await next();
    }
  }

  function noteOpen(mount: MountId, inode: Inode): void {
    const key = openKey(mount, inode);
    const open = opens.get(key);
    if (open === undefined) opens.set(key, { mount, inode, count: 1 });
    else open.count++;
  }

  function sendRelease(mount: MountId, inode: Inode): void {
    connection.send('release', [inode], { ...NOBODY, mount })?.catch(() => {
      // The next server is told what is open.
    });
  }

  function noteRelease(mount: MountId, inode: Inode): void {
    const key = openKey(mount, inode);
    const open = opens.get(key);
    if (open === undefined) return;
    if (--open.count === 0) opens.delete(key);
    sendRelease(mount, inode);
  }

  /** A listing with attributes: what the kernel asks for without comes from it, too. */
  async function page(inode: Inode, cookie: number, limit: number): Promise<ListedEntry[]> {
    const key = `page ${cookie}`;
    const names = cache.get(inode, key) as Page | undefined;
    const remembered = names === undefined ? undefined : withAttributes(names);
    if (remembered !== undefined) return remembered.slice(0, limit);
    accessed(inode);
    const value = await read(
      'readdirPlus',
      [inode, cookie, Math.max(limit, PAGE_ENTRIES)],
      NOBODY,
      (listed) => [
        inode,
        ...listed.flatMap(({ attributes }) => (attributes === null ? [] : [attributes.inode])),
      ],
      (listed) => {
        const entries = listed.map(({ entry, attributes }) => ({ entry, plain: attributes === null }));
        cache.set(inode, key, entries satisfies Page, entries.length + 1);
        for (const { attributes } of listed) {
          if (attributes !== null) cache.set(attributes.inode, 'attributes', attributes);
        }
      },
    );
    return value.slice(0, limit).map(({ entry, attributes }) => ({
      entry,
      attributes: attributes === null ? undefined : know(attributes),
    }));
  }

  function withAttributes(names: Page): ListedEntry[] | undefined {
    const listed: ListedEntry[] = [];
    for (const { entry, plain } of names) {
      const attributes = plain ? undefined : (cache.get(entry.inode, 'attributes') as Attributes | undefined);
      if (!plain && attributes === undefined) return undefined;
      listed.push({ entry, attributes: attributes === undefined ? undefined : know(attributes) });
    }
    return listed;
  }

  return {
    connection,
    lookup(parent, name) {
      const key = `name ${Buffer.from(name).toString('latin1')}`;
      const child = cache.get(parent, key) as Inode | null | undefined;
      if (child === null) return undefined;
      const remembered =
        child === undefined ? undefined : (cache.get(child, 'attributes') as Attributes | undefined);
      if (remembered !== undefined) return know(remembered);
      return read(
        'lookup',
        [parent, name],
        NOBODY,
        (value) => (value === null ? [parent] : [parent, value.inode]),
        (value) => {
          cache.set(parent, key, value === null ? null : value.inode);
          if (value !== null) cache.set(value.inode, 'attributes', value);
        },
      ).then((value) => (value === null ? undefined : know(value)));
    },
    getattr(inode) {
      return (cache.get(inode, 'attributes') as Attributes | undefined) ?? getattr(inode);
    },
    async setattr(caller, inode, changes) {
      await flushIfDirty(inode);
      const since = cache.now();
      return changed(caller, since, change(caller, 'setattr', [inode, changes], [inode]));
    },
    mknod: (caller, parent, name, node) =>
      changed(caller, cache.now(), change(caller, 'mknod', [parent, name, node], [parent])),
    symlink: (caller, parent, name, target) =>
      changed(caller, cache.now(), change(caller, 'symlink', [parent, name, target], [parent])),
    readlink(caller, inode) {
      const remembered = cache.get(inode, 'target') as Uint8Array | undefined;
      if (remembered !== undefined) return remembered;
      accessed(inode);
      const remember = (value: Uint8Array): void => cache.set(inode, 'target', Buffer.copyBytesFrom(value));
      return read('readlink', [inode], callerOf(caller), () => [inode], remember);
    },
    link: (caller, inode, parent, name) =>
      changed(caller, cache.now(), change(caller, 'link', [inode, parent, name], [parent, inode])),
    async unlink(caller, parent, name) {
      await change(caller, 'unlink', [parent, name], [parent]);
    },
    async rmdir(caller, parent, name) {
      await change(caller, 'rmdir', [parent, name], [parent]);
    },
    async rename(caller, from, to, flags) {
      await change(caller, 'rename', [from, to, flags], [from.parent, to.parent]);
    },
    async create(caller, parent, name, node) {
      const made = change(caller, 'create', [parent, name, node], [parent]);
      return changed(
        caller,
        cache.now(),
        made.then((attributes) => {
          noteOpen(caller.mount, attributes.inode);
          return attributes;
        }),
      );
    },
    async tmpfile(caller, parent, node) {
      const attributes = await change(caller, 'tmpfile', [parent, node], [parent]);
      noteOpen(caller.mount, attributes.inode);
      return know(attributes);
    },
    async open(caller, inode, flags) {
      if (flags.truncate) await flushIfDirty(inode);
      const { keepCache } = await change(caller, 'open', [inode, flags], flags.truncate ? [inode] : []);
      noteOpen(caller.mount, inode);
      return { keepCache: keepCache && kept.mayKeep(inode) };
    },
    release(caller, inode) {
      if (!writes.isDirty(inode)) return noteRelease(caller.mount, inode);
      // What a mapping wrote after the last flush; there is nobody to hear of an error.
      return writes.flush(inode).then(
        () => noteRelease(caller.mount, inode),
        () => noteRelease(caller.mount, inode),
      );
    },
    flush(caller, inode, owner) {
      const drop = () => locks.drop(inode, { mount: caller.mount, owner });
      if (!writes.isDirty(inode)) return drop();
      return flushThen(inode, drop);
    },
    fsync: (inode, dataOnly) => writes.flush(inode, { dataOnly }),
    async read(caller, inode, offset, target) {
      const { value, bytes } = await connection.ask('read', [inode, offset, target.length], callerOf(caller));
      bytes.copy(target, 0, 0, value);
      accessed(inode);
      return value;
    },
    write(caller, inode, offset, data, flags) {
      cache.own(inode);
      if (!flags.append) {
        if (offset >= FILE_BYTES_MAX) throw new FsError('EFBIG');
        const fitting = data.subarray(0, FILE_BYTES_MAX - offset);
        return writes.write(caller, inode, offset, fitting, flags.killPrivileges);
      }
      return append(caller, inode, offset, Buffer.copyBytesFrom(data), flags.killPrivileges);
    },
    async allocate(caller, inode, mode, range) {
      await flushIfDirty(inode);
      await change(caller, 'allocate', [inode, mode, range], [inode]);
    },
    async seek(inode, offset, whence) {
      const { value } = await connection.ask('seek', [inode, offset, whence], NOBODY);
      return value;
    },
    async copyRange(caller, from, to, length) {
      await flushIfDirty(from.inode);
      await flushIfDirty(to.inode);
      return change(caller, 'copyRange', [from, to, length], [to.inode]);
    },
    async readdir(inode, cookie, limit) {
      return (await page(inode, cookie, limit)).map(({ entry }) => entry);
    },
    readdirPlus: page,
    // The server notes it with the first page of a listing.
    touchAccess: () => {},
    statfs: async () => (await connection.ask('statfs', [], NOBODY)).value,
    getxattr(inode, name) {
      const key = `xattr ${Buffer.from(name).toString('latin1')}`;
      const remembered = cache.get(inode, key) as Uint8Array | null | undefined;
      if (remembered !== undefined) return remembered ?? undefined;
      const remember = (value: Uint8Array | null): void =>
        cache.set(inode, key, value === null ? null : Buffer.copyBytesFrom(value), 4);
      return read('getxattr', [inode, name], NOBODY, () => [inode], remember).then(
        (value) => value ?? undefined,
      );
    },
    async listxattr(caller, inode) {
      return (await connection.ask('listxattr', [inode], callerOf(caller))).value;
    },
    async setxattr(caller, inode, name, value, mode) {
      await change(caller, 'setxattr', [inode, name, value, mode], [inode]);
    },
    async removexattr(caller, inode, name) {
      await change(caller, 'removexattr', [inode, name], [inode]);
    },
    getLock: (inode, owner, lock) => locks.get(inode, owner, lock),
    setLock(caller, inode, owner, lock, { wait, flock }) {
      const set = () => locks.set(inode, owner, lock, { wait, flock, signal: caller.signal });
      // The next owner must see what this one wrote.
      if (lock.type !== 'unlock' || !writes.isDirty(inode)) return set();
      return flushThen(inode, set);
    },
    releaseFlock: (inode, owner) => locks.releaseFlock(inode, owner),
    forget: (inode) => void known.delete(inode),
    onInvalidate(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async dropMount(mount) {
      locks.dropMount(mount);
      await writes.flushAll();
      for (const open of [...opens.values()]) {
        if (open.mount !== mount) continue;
        for (let left = open.count; left > 0; left--) noteRelease(mount, open.inode);
      }
    },
    openFiles: (mount) =>
      [...opens.values()].reduce((sum, open) => sum + (open.mount === mount ? open.count : 0), 0),
    statistics: () => ({ calls: connection.calls(), keptBytes: writes.keptBytes() }),
    async close() {
      await writes.flushAll();
      connection.close();
    },
  };

  /**
   * To the end of the file, wherever the server says that this is. When the answer was lost it is not known whether the
   * bytes arrived: they did where the file now has them at the place that the kernel expected.
   */
  async function append(
    caller: Caller,
    inode: Inode,
    expected: number,
    data: Buffer,
    killPrivileges: boolean,
  ): Promise<number> {
    const asked = { ...callerOf(caller), bytes: [data] };
    const sent = connection.send('write', [inode, expected, { append: true, killPrivileges }], asked);
    try {
      if (sent === undefined) throw new FsError('EAGAIN');
      const { offset, written } = await sent;
      writes.keep(caller, inode, offset, data.subarray(0, written));
      return written;
    } catch (error) {
      if (error instanceof FsError && sent !== undefined) throw error;
    } finally {
      cache.own(inode);
    }
    const { value, bytes } = await connection.ask('read', [inode, expected, data.length], callerOf(caller));
    if (value === data.length && bytes.equals(data)) {
      writes.keep(caller, inode, expected, data);
      return data.length;
    }
    return append(caller, inode, expected, data, killPrivileges);
  }
}

type Page = readonly { readonly entry: ListedEntry['entry']; readonly plain: boolean }[];

const NOBODY = { mount: NO_MOUNT, uid: 0, gid: 0, pid: 0 };

function movesAccess({ atime, mtime, ctime }: Attributes): boolean {
  const isOlder = (time: Timestamp): boolean =>
    atime.seconds < time.seconds || (atime.seconds === time.seconds && atime.nanoseconds <= time.nanoseconds);
  return isOlder(mtime) || isOlder(ctime) || Date.now() / 1000 - atime.seconds >= RELATIME_SECONDS;
}

function openKey(mount: MountId, inode: Inode): string {
  return `${mount}:${inode}`;
}

function callerOf({ mount, uid, gid, pid }: Caller): Pick<Caller, 'mount' | 'uid' | 'gid' | 'pid'> {
  return { mount, uid, gid, pid };
}
