/**
 * A client's way to the cluster: one storing node at a time, kept while it serves, else the next one.
 *
 * A call waits for a server, at most `timeoutMs` in all, and is made again at the next one when its answer was lost. What
 * makes that right is in `remote-protocol.ts` (changes are known again) and `remote-writes.ts` (written bytes are kept
 * until they are safe and sent first).
 *
 * Once a server is lost, events are missed: everything that was cached is dropped then, and what is asked waits. A server that is cut off from its leader says so, and is left.
 */

import { ERRNO, type ErrnoName, FsError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Log } from '../runtime/log.ts';
import type { Invalidation } from './interface.ts';
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

const RETRY_MS = 50;
const RETRY_MAX_MS = 500;
const SESSION_TIMEOUT_MS = 3000;
const EVENTS_TIMEOUT_MS = 10_000;
/** An answer waits this long for the events that were made before it. */
const EVENTS_WAIT_MS = 250;

/** How messages get to a node. Rejections: whatever became of the message, there is no answer. */
export interface RemoteTransport {
  call(
    to: NodeId,
    request: FileRequest,
    options: { bytes?: readonly Uint8Array[]; timeoutMs: number },
  ): Promise<{ answer: FileAnswer; bytes: Buffer }>;
  open(to: NodeId, request: SessionRequest, timeoutMs: number): Promise<SessionAnswer>;
  events(to: NodeId, request: EventsRequest, timeoutMs: number): Promise<EventsAnswer>;
  /** Storing nodes, the best first. */
  servers(): readonly NodeId[];
}

export interface ConnectionHooks {
  opens(): SessionRequest['opens'];
  /** What is cached may be old, here and in the kernels. */
  reset(): void;
  /** A server is there: what was written and is not safe goes to it first, in this turn. */
  connected(): void;
  event(event: Invalidation): void;
  /** The kernels were told of every event so far. */
  told(): Promise<void> | undefined;
  standing(standing: Standing): void;
  several(): boolean;
}

export interface Link {
  readonly server: NodeId;
  /** The last event that was handled. */
  handled: number;
  over: boolean;
  readonly waiters: Set<() => void>;
}

export interface AskOptions {
  readonly mount: FileRequest['mount'];
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly bytes?: readonly Uint8Array[];
  /** It must be done once. */
  readonly once?: boolean;
}

export interface RemoteConnection {
  ask<M extends FileMethod>(
    method: M,
    args: FileArguments<M>,
    options: AskOptions,
  ): Promise<{ value: FileValue<M>; bytes: Buffer }>;
  /** One attempt at the present server, sent in this turn; undefined: there is none. Rejects when there is no answer. */
  send<M extends FileMethod>(
    method: M,
    args: FileArguments<M>,
    options: AskOptions,
  ): Promise<FileValue<M>> | undefined;
  server(): NodeId | undefined;
  /** Why there is no server. */
  reason(): string;
  calls(): number;
  close(): void;
}

/** Its answer was lost with its server. */
export class LostAnswer extends Error {}

export function connectRemote(options: {
  readonly session: string;
  readonly transport: RemoteTransport;
  readonly hooks: ConnectionHooks;
  readonly timeoutMs: number;
  readonly log: Log;
}): RemoteConnection {
  const { transport, hooks, log, session } = options;
  let link: Link | undefined;
  let closed = false;
  let reason = 'no storing node was asked yet';
  let sequence = 0;
  let calls = 0;
  let waiting = new Set<() => void>();

  void connectForEver();

  async function connectForEver(): Promise<void> {
    let pauseMs = RETRY_MS;
    while (!closed) {
      const found = await findServer();
      if (found !== undefined && !closed) {
        pauseMs = RETRY_MS;
        await serve(found);
        continue;
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      pauseMs = Math.min(pauseMs * 2, RETRY_MAX_MS);
    }
  }

  async function findServer(): Promise<Link | undefined> {
    for (const server of transport.servers()) {
      if (closed) return undefined;
      try {
        const answer = await transport.open(server, { session, opens: hooks.opens() }, SESSION_TIMEOUT_MS);
        hooks.standing(answer.standing);
        if (answer.kind === 'open') return { server, handled: 0, over: false, waiters: new Set() };
        reason = `${server}: ${answer.reason}`;
      } catch (error) {
        reason = error instanceof Error ? error.message : String(error);
      }
    }
    return undefined;
  }

  /** Fetches events until the server is lost. */
  async function serve(found: Link): Promise<void> {
    log.info('is served', { server: found.server });
    link = found;
    hooks.connected();
    const arrived = waiting;
    waiting = new Set();
    for (const wake of arrived) wake();
    let told = 0;
    while (!found.over && !closed) {
      try {
        const request = { session, told, wait: true, several: hooks.several() };
        const answer = await transport.events(found.server, request, EVENTS_TIMEOUT_MS);
        if (answer.kind === 'no-session') throw new LostAnswer(`${found.server} was restarted`);
        if (found.over) break;
        for (const event of answer.events) hooks.event(event);
        found.handled = answer.last;
        for (const wake of found.waiters) wake();
        hooks.standing(answer.standing);
        const isServing = answer.standing.inSync.includes(found.server);
        if (!isServing && othersServe(found.server, answer.standing)) {
          throw new LostAnswer(`${found.server} is not in sync`);
        }
        if (answer.events.length === 0) continue;
        const upTo = answer.last;
        const wait = hooks.told();
        if (wait === undefined) told = upTo;
        else {
          void wait.then(() => {
            told = Math.max(told, upTo);
            return acknowledge(found, told);
          });
        }
      } catch (error) {
        lose(found, error);
      }
    }
  }

  function othersServe(server: NodeId, standing: Standing): boolean {
    return standing.leader !== null && standing.inSync.some((id) => id !== server);
  }

  async function acknowledge(found: Link, told: number): Promise<void> {
    if (found.over) return;
    try {
      const request = { session, told, wait: false, several: hooks.several() };
      await transport.events(found.server, request, EVENTS_TIMEOUT_MS);
    } catch (error) {
      lose(found, error);
    }
  }

  function lose(lost: Link, error: unknown): void {
    if (lost.over) return;
    lost.over = true;
    reason = error instanceof Error ? error.message : String(error);
    if (!closed) log.info('lost its server', { server: lost.server, reason });
    if (link === lost) link = undefined;
    for (const wake of lost.waiters) wake();
    // At once: from now on nobody waits until this client has heard of a change.
    hooks.reset();
  }

  async function ready(deadlineMs: number): Promise<Link> {
    for (;;) {
      if (link !== undefined) return link;
      const leftMs = deadlineMs - performance.now();
      if (closed || leftMs <= 0) throw unanswered();
      await new Promise<void>((resolve) => {
        const timer = setTimeout(wake, leftMs);
        function wake(): void {
          clearTimeout(timer);
          waiting.delete(wake);
          resolve();
        }
        waiting.add(wake);
      });
    }
  }

  function unanswered(): FsError {
    return new FsError('EIO', `no storing node of the cluster answers (${reason}); see \`warren status\``);
  }

  /** One attempt. Rejects with FsError when the call failed there, with LostAnswer when there was no answer. */
  async function attempt<M extends FileMethod>(
    to: Link,
    request: FileRequest<M>,
    bytes: readonly Uint8Array[] | undefined,
    timeoutMs: number,
  ): Promise<{ value: FileValue<M>; bytes: Buffer }> {
    calls++;
    let result: { answer: FileAnswer; bytes: Buffer };
    try {
      const sent = bytes === undefined ? { timeoutMs } : { timeoutMs, bytes };
      result = await transport.call(to.server, request, sent);
    } catch (error) {
      lose(to, error);
      throw new LostAnswer(reason);
    }
    const { answer } = result;
    if (answer.kind === 'no-session') lose(to, new LostAnswer(`${to.server} was restarted`));
    // An answer from before another server took over: what it says may be undone or old.
    if (to.over || answer.kind === 'no-session') throw new LostAnswer(reason);
    if (answer.kind === 'failed') throw new FsError(errnoName(answer.code), answer.message);
    if (answer.event > to.handled) await handled(to, answer.event);
    if (to.over) throw new LostAnswer(reason);
    return { value: answer.value as FileValue<M>, bytes: result.bytes };
  }

  function handled(to: Link, number: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(end, EVENTS_WAIT_MS);
      function end(): void {
        clearTimeout(timer);
        to.waiters.delete(wake);
        resolve();
      }
      function wake(): void {
        if (to.over || to.handled >= number) end();
      }
      to.waiters.add(wake);
    });
  }

  function requestOf<M extends FileMethod>(
    method: M,
    args: FileArguments<M>,
    { mount, uid, gid, pid }: AskOptions,
    tag: { sequence: number; repeated: boolean },
  ): FileRequest<M> {
    return { session, ...tag, mount, uid, gid, pid, method, args };
  }

  return {
    async ask(method, args, asked) {
      const deadlineMs = performance.now() + options.timeoutMs;
      const number = asked.once === true ? ++sequence : 0;
      for (let tries = 0; ; tries++) {
        const to = link ?? (await ready(deadlineMs));
        const request = requestOf(method, args, asked, { sequence: number, repeated: tries > 0 });
        try {
          const leftMs = Math.max(1, deadlineMs - performance.now());
          return await attempt(to, request, asked.bytes, leftMs);
        } catch (error) {
          if (!(error instanceof LostAnswer)) throw error;
          if (performance.now() >= deadlineMs) throw unanswered();
        }
      }
    },
    send(method, args, asked) {
      if (link === undefined) return undefined;
      const request = requestOf(method, args, asked, { sequence: 0, repeated: false });
      return attempt(link, request, asked.bytes, options.timeoutMs).then(({ value }) => value);
    },
    server: () => link?.server,
    reason: () => reason,
    calls: () => calls,
    close() {
      closed = true;
      if (link !== undefined) lose(link, new Error('this client is closing'));
      for (const wake of waiting) wake();
    },
  };
}

function errnoName(code: string): ErrnoName {
  return code in ERRNO ? (code as ErrnoName) : 'EIO';
}
