/**
 * Serves the file system of a storing node to the mounts of clients (`remote-protocol.ts` says how).
 *
 * Handlers of one client start in the order in which it called, and a write enters the file's buffer before its handler
 * first waits: so a read or a flush that was called after a write sees it.
 *
 * A change is answered when the other clients' and this node's kernels were told. A session ends when its client was not
 * heard for SESSION_MS or comes with another one; its opens end with it. What it wrote and never flushed may be lost
 * with its client, as on a machine that loses power.
 */

import { FsError } from '../protocol/errors.ts';
import { type Inode, type NodeId, NO_MOUNT } from '../protocol/ids.ts';
import type { Log } from '../runtime/log.ts';
import type { LocalFileSystem } from './filesystem.ts';
import type { Attributes, Caller, MaybePromise } from './interface.ts';
import { runTagged } from './operation-tags.ts';
import type {
  EventsAnswer,
  EventsRequest,
  FileAnswer,
  FileArguments,
  FileMethod,
  FileRequest,
  FileValue,
  SessionAnswer,
  SessionRequest,
  Standing,
} from './remote-protocol.ts';
import { openSession, type Session } from './remote-sessions.ts';

const SESSION_MS = 10_000;
const REVIEW_MS = 1000;
/** Longest read of one call: a frame has room for it. */
const READ_BYTES_MAX = 8 * 1024 * 1024;

export interface RemoteServerOptions {
  readonly filesystem: LocalFileSystem;
  readonly log: Log;
  standing(): Standing;
  memberNumber(id: NodeId): number;
  /** Why no client may be served now; undefined: it may. */
  refusal(): string | undefined;
  /** This node's own kernels were told of every change so far. */
  mountsTold(): Promise<void> | undefined;
}

export interface Answered {
  readonly answer: FileAnswer;
  readonly bytes?: readonly Uint8Array[];
}

export interface RemoteServer {
  open(from: NodeId, request: SessionRequest): Promise<SessionAnswer>;
  call(from: NodeId, request: FileRequest, bytes: Buffer): Promise<Answered>;
  events(from: NodeId, request: EventsRequest): Promise<EventsAnswer>;
  /** Every client was told of every change so far; undefined: nobody has to be. */
  told(): Promise<void> | undefined;
  readonly sessions: () => number;
  close(): void;
}

export function serveClients(options: RemoteServerOptions): RemoteServer {
  const { filesystem, log } = options;
  const sessions = new Map<NodeId, Session>();
  const stopListening = filesystem.onInvalidate((event) => {
    for (const session of sessions.values()) session.push(event, options.memberNumber(session.client));
  });
  const timer = setInterval(review, REVIEW_MS);
  timer.unref();

  function review(): void {
    const limitMs = performance.now() - SESSION_MS;
    for (const session of sessions.values()) {
      if (session.heardMs >= limitMs) continue;
      log.info('a client was not heard any more; what it had open is closed', { client: session.client });
      end(session);
    }
  }

  function end(session: Session): void {
    if (sessions.get(session.client) === session) sessions.delete(session.client);
    session.close();
    for (const { mount, inode, count } of session.opens.values()) releaseAll(mount, inode, count);
    session.opens.clear();
    filesystem.maintenance.mountDropped();
  }

  function releaseAll(mount: Caller['mount'], inode: Inode, count: number): void {
    for (let left = count; left > 0; left--) {
      const released = filesystem.release(callerOf({ mount, uid: 0, gid: 0, pid: 0 }), inode);
      if (released instanceof Promise) released.catch(() => {});
    }
    filesystem.forget(inode);
  }

  function found(from: NodeId, name: string): Session | undefined {
    const session = sessions.get(from);
    if (session?.name !== name) return undefined;
    session.heardMs = performance.now();
    return session;
  }

  function told(except?: Session): Promise<void> | undefined {
    const waits: Promise<void>[] = [];
    for (const session of sessions.values()) {
      const wait = session === except && !session.several ? undefined : session.caughtUp();
      if (wait !== undefined) waits.push(wait);
    }
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => undefined);
  }

  async function changeTold(session: Session): Promise<void> {
    await Promise.all([told(session), options.mountsTold()]);
  }

  async function perform(session: Session, request: FileRequest, bytes: Buffer): Promise<Answered> {
    const handler = HANDLERS[request.method] as Handler<FileMethod> | undefined;
    if (handler === undefined) throw new FsError('ENOSYS', `this release knows no "${request.method}"`);
    const work = () => handler({ filesystem, session, request, caller: callerOf(request), bytes });
    const isChange = CHANGES.has(request.method);
    if (!isChange) {
      const { value, bytes: out } = await work();
      learn(session, value);
      const answer: FileAnswer = { kind: 'done', event: session.last(), value };
      return out === undefined ? { answer } : { answer, bytes: out };
    }
    const inodes = changedBy(request);
    for (const inode of inodes) {
      session.known.add(inode);
      session.changing.set(inode, (session.changing.get(inode) ?? 0) + 1);
    }
    try {
      const tag = { session: request.session, sequence: request.sequence };
      const { value } = await (request.sequence === 0 ? work() : runTagged(tag, work));
      learn(session, value);
      await changeTold(session);
      return { answer: { kind: 'done', event: session.last(), value } };
    } finally {
      for (const inode of inodes) {
        const count = (session.changing.get(inode) ?? 1) - 1;
        if (count === 0) session.changing.delete(inode);
        else session.changing.set(inode, count);
      }
    }
  }

  return {
    async open(from, { session: name, opens }) {
      await Promise.resolve();
      const reason = options.refusal();
      if (reason !== undefined) return { kind: 'refused', reason, standing: options.standing() };
      const old = sessions.get(from);
      const session = openSession(from, name, () =>
        log.info('a client did not hear of a change in time; changes wait for it again when it has', {
          client: from,
        }),
      );
      sessions.set(from, session);
      for (const { mount, inode, count } of opens) {
        for (let left = count; left > 0; left--) openFor(session, mount, inode);
      }
      // Only now: what both have open stays open.
      if (old !== undefined) end(old);
      return { kind: 'open', standing: options.standing() };
    },
    async call(from, request, bytes) {
      const session = found(from, request.session);
      if (session === undefined) return { answer: { kind: 'no-session' } };
      try {
        return await perform(session, request, bytes);
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        const { code, message } = error;
        return { answer: { kind: 'failed', event: session.last(), code, message } };
      }
    },
    async events(from, { session: name, told: number, wait, several }) {
      const session = found(from, name);
      if (session === undefined) return { kind: 'no-session' };
      session.several = several;
      session.told(number);
      if (!wait) return { kind: 'events', last: 0, events: [], standing: options.standing() };
      const { last, events } = await session.take(wait);
      if (sessions.get(from) !== session) return { kind: 'no-session' };
      session.heardMs = performance.now();
      return { kind: 'events', last, events, standing: options.standing() };
    },
    told: () => told(),
    sessions: () => sessions.size,
    close() {
      clearInterval(timer);
      stopListening();
      for (const session of [...sessions.values()]) end(session);
    },
  };

  function openFor(session: Session, mount: Caller['mount'], inode: Inode): void {
    const caller = callerOf({ mount, uid: 0, gid: 0, pid: 0 });
    session.known.add(inode);
    try {
      void filesystem.open(caller, inode, { truncate: false, write: false });
      noteOpen(session, mount, inode);
    } catch (error) {
      // It went while nobody held it; the client's calls on it are answered ESTALE.
      if (!(error instanceof FsError)) throw error;
    }
  }
}

interface Work<M extends FileMethod> {
  readonly filesystem: LocalFileSystem;
  readonly session: Session;
  readonly request: FileRequest<M>;
  readonly caller: Caller;
  readonly bytes: Buffer;
}

interface Result<M extends FileMethod> {
  readonly value: FileValue<M>;
  readonly bytes?: readonly Uint8Array[];
}

type Handler<M extends FileMethod> = (work: Work<M>) => MaybePromise<Result<M>>;

const CHANGES: ReadonlySet<FileMethod> = new Set([
  ...(['setattr', 'mknod', 'symlink', 'link', 'unlink', 'rmdir', 'rename', 'create', 'tmpfile'] as const),
  ...(['open', 'flush', 'fsync', 'write', 'allocate', 'copyRange', 'setxattr', 'removexattr'] as const),
]);

const HANDLERS: { readonly [M in FileMethod]: Handler<M> } = {
  async lookup({ filesystem, session, request: { args } }) {
    session.known.add(args[0]);
    return { value: (await filesystem.lookup(...args)) ?? null };
  },
  async getattr({ filesystem, session, request: { args } }) {
    session.known.add(args[0]);
    return { value: await filesystem.getattr(...args) };
  },
  setattr: async ({ filesystem, caller, request: { args } }) => ({
    value: await filesystem.setattr(caller, ...args),
  }),
  mknod: (work) =>
    made(work, work.request.args, () => work.filesystem.mknod(work.caller, ...work.request.args)),
  symlink: (work) =>
    made(work, work.request.args, () => work.filesystem.symlink(work.caller, ...work.request.args)),
  async readlink({ filesystem, session, caller, request: { args } }) {
    session.known.add(args[0]);
    return { value: await filesystem.readlink(caller, ...args) };
  },
  link: async ({ filesystem, caller, request: { args } }) => ({
    value: await filesystem.link(caller, ...args),
  }),
  async unlink({ filesystem, session, caller, request: { args } }) {
    const victim = await filesystem.lookup(...args);
    await filesystem.unlink(caller, ...args);
    return freed(filesystem, session, victim);
  },
  async rmdir({ filesystem, session, caller, request: { args } }) {
    const victim = await filesystem.lookup(...args);
    await filesystem.rmdir(caller, ...args);
    return freed(filesystem, session, victim);
  },
  async rename({ filesystem, session, caller, request: { args } }) {
    const [from, to] = args;
    const moved = await filesystem.lookup(from.parent, from.name);
    const victim = await filesystem.lookup(to.parent, to.name);
    await filesystem.rename(caller, ...args);
    if (moved !== undefined) session.push({ kind: 'attributes', inode: moved.inode, mount: NO_MOUNT }, -1);
    return freed(filesystem, session, victim);
  },
  async create(work) {
    const { filesystem, session, caller, request } = work;
    const result = await made(work, request.args, async () => {
      const attributes = await filesystem.create(caller, ...request.args);
      noteOpen(session, caller.mount, attributes.inode);
      return attributes;
    });
    return result;
  },
  async tmpfile({ filesystem, session, caller, request: { args } }) {
    const value = await filesystem.tmpfile(caller, ...args);
    noteOpen(session, caller.mount, value.inode);
    return { value };
  },
  async open({ filesystem, session, caller, request: { args } }) {
    const value = await filesystem.open(caller, ...args);
    noteOpen(session, caller.mount, args[0]);
    return { value };
  },
  async release({ filesystem, session, caller, request: { args } }) {
    const key = `${caller.mount}:${args[0]}`;
    const open = session.opens.get(key);
    if (open === undefined) return { value: null };
    if (--open.count === 0) session.opens.delete(key);
    await filesystem.release(caller, args[0]);
    filesystem.forget(args[0]);
    return { value: null };
  },
  async flush({ filesystem, caller, request: { args } }) {
    // The client asks the leader for locks itself: nobody has owner 0.
    await filesystem.flush(caller, args[0], 0n);
    return { value: null };
  },
  async fsync({ filesystem, request: { args } }) {
    await filesystem.fsync(...args);
    return { value: null };
  },
  async read({ filesystem, session, caller, request: { args } }) {
    const [inode, offset, length] = args;
    session.known.add(inode);
    if (!(length >= 0 && length <= READ_BYTES_MAX)) throw new FsError('EINVAL');
    const target = Buffer.allocUnsafe(length);
    const count = await filesystem.read(caller, inode, offset, target);
    return { value: count, bytes: [target.subarray(0, count)] };
  },
  async write({ filesystem, caller, request: { args }, bytes }) {
    const [inode, wanted, flags] = args;
    // Both in one turn: nobody writes between.
    const size = flags.append ? filesystem.getattr(inode) : undefined;
    const written = filesystem.write(caller, inode, wanted, bytes, flags);
    return { value: { offset: (await size)?.size ?? wanted, written: await written } };
  },
  async allocate({ filesystem, caller, request: { args } }) {
    await filesystem.allocate(caller, ...args);
    return { value: null };
  },
  seek: async ({ filesystem, request: { args } }) => ({ value: await filesystem.seek(...args) }),
  copyRange: async ({ filesystem, caller, request: { args } }) => ({
    value: await filesystem.copyRange(caller, ...args),
  }),
  async readdir({ filesystem, session, caller, request: { args } }) {
    session.known.add(args[0]);
    if (args[1] === 0) filesystem.touchAccess(caller, args[0]);
    return { value: await filesystem.readdir(...args) };
  },
  async readdirPlus({ filesystem, session, caller, request: { args } }) {
    session.known.add(args[0]);
    if (args[1] === 0) filesystem.touchAccess(caller, args[0]);
    const listed = (await filesystem.readdirPlus?.(...args)) ?? [];
    for (const { attributes } of listed) if (attributes !== undefined) session.known.add(attributes.inode);
    return { value: listed.map(({ entry, attributes }) => ({ entry, attributes: attributes ?? null })) };
  },
  statfs: async ({ filesystem }) => ({ value: await filesystem.statfs() }),
  async getxattr({ filesystem, session, request: { args } }) {
    session.known.add(args[0]);
    return { value: (await filesystem.getxattr(...args)) ?? null };
  },
  async listxattr({ filesystem, session, caller, request: { args } }) {
    session.known.add(args[0]);
    return { value: await filesystem.listxattr(caller, ...args) };
  },
  async setxattr({ filesystem, caller, request: { args } }) {
    await filesystem.setxattr(caller, ...args);
    return { value: null };
  },
  async removexattr({ filesystem, caller, request: { args } }) {
    await filesystem.removexattr(caller, ...args);
    return { value: null };
  },
};

/** A repeated `make` was known by its tag and made nothing: the inode is the one that has the name. */
async function made<M extends 'mknod' | 'symlink' | 'create'>(
  { filesystem, session, caller, request }: Work<M>,
  [parent, name]: FileArguments<M>,
  make: () => Promise<Attributes>,
): Promise<Result<M>> {
  try {
    return { value: await make() };
  } catch (error) {
    if (!request.repeated || !(error instanceof FsError) || error.code !== 'ESTALE') throw error;
    const existing = await filesystem.lookup(parent, name);
    if (existing === undefined) throw error;
    if (request.method === 'create') {
      await filesystem.open(caller, existing.inode, { truncate: false, write: true });
      noteOpen(session, caller.mount, existing.inode);
    }
    return { value: existing };
  }
}

function noteOpen(session: Session, mount: Caller['mount'], inode: Inode): void {
  const key = `${mount}:${inode}`;
  const open = session.opens.get(key);
  if (open === undefined) session.opens.set(key, { mount, inode, count: 1 });
  else open.count++;
}

/** What a change did to inodes that the client did not name: it knows only by being told. */
function freed(
  filesystem: LocalFileSystem,
  session: Session,
  victim: Attributes | undefined,
): { value: null } {
  if (victim === undefined) return { value: null };
  // A file that nobody has open need not wait until the client's kernel forgets it.
  filesystem.forget(victim.inode);
  if (victim.links > 1) session.push({ kind: 'attributes', inode: victim.inode, mount: NO_MOUNT }, -1);
  return { value: null };
}

function learn(session: Session, value: FileValue<FileMethod>): void {
  if (value !== null && typeof value === 'object' && 'inode' in value) session.known.add(value.inode);
}

function callerOf({ mount, uid, gid, pid }: Pick<Caller, 'mount' | 'uid' | 'gid' | 'pid'>): Caller {
  return { mount, uid, gid, pid };
}

/** Inodes whose kernel locks the client's program holds during the call. */
function changedBy(request: FileRequest): Inode[] {
  const inodes: Inode[] = [];
  for (const argument of request.args) {
    if (typeof argument === 'number') inodes.push(argument as Inode);
    else if (typeof argument === 'object' && argument !== null && 'parent' in argument)
      inodes.push(argument.parent);
    else if (typeof argument === 'object' && argument !== null && 'inode' in argument)
      inodes.push(argument.inode);
    if (request.method !== 'rename' && request.method !== 'link' && request.method !== 'copyRange') break;
  }
  return inodes;
}
