/**
 * One request of the kernel. It is also the `Caller` handed to the file system, so that a request costs one
 * small object. The message's bytes lie in the reader's buffer and are valid only until the handler returns.
 */

import type { Caller } from '../../filesystem/interface.ts';
import { FsError } from '../../protocol/errors.ts';
import { type Inode, type MountId, NAME_BYTES_MAX } from '../../protocol/ids.ts';
import { u64, word } from './protocol.ts';

/** What a request needs to know of its mount. */
export interface RequestContext {
  readonly mount: MountId;
  readonly pending: ReadonlyMap<number, Request>;
  /** Requests that came in this turn of the event loop. */
  readonly requestsInTurn: number;
}

export class Request implements Caller {
  readonly mount: MountId;
  readonly uid: number;
  readonly gid: number;
  /** The thread that asks, in the daemon's pid namespace; 0 when it is not visible there. */
  readonly pid: number;
  readonly opcode: number;
  readonly inode: Inode;
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  /** The reply was written; a late answer of the file system is dropped. */
  answered = false;
  readonly #context: RequestContext;
  #controller: AbortController | undefined;
  #interrupted = false;

  constructor(context: RequestContext, words: Uint32Array) {
    this.#context = context;
    this.mount = context.mount;
    this.opcode = word(words, 1);
    this.uniqueLow = word(words, 2);
    this.uniqueHigh = word(words, 3);
    this.inode = u64(words, 4) as Inode;
    this.uid = word(words, 6);
    this.gid = word(words, 7);
    this.pid = word(words, 8);
  }

  /** Made when the file system first asks: an AbortController costs more than a whole cached lookup. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#interrupted) this.#controller.abort();
    return this.#controller.signal;
  }

  /** Only the mount's own kernel queue is looked at; what came in one burst is not alone. */
  get alone(): boolean {
    const { pending, requestsInTurn } = this.#context;
    if (requestsInTurn > 1) return false;
    return pending.size === 0 || (pending.size === 1 && pending.has(this.key));
  }

  interrupt(): void {
    this.#interrupted = true;
    this.#controller?.abort();
  }

  /** Key of the request among those that wait. */
  get key(): number {
    return requestKey(this.uniqueLow, this.uniqueHigh);
  }
}

export function requestKey(uniqueLow: number, uniqueHigh: number): number {
  return uniqueHigh * 2 ** 32 + uniqueLow;
}

/** A copy of `bytes` from `start` to `end` outside the reader's buffer. */
export function copyBytes(bytes: Buffer, start: number, end: number): Buffer {
  const copy = Buffer.allocUnsafe(end - start);
  bytes.copy(copy, 0, start, end);
  return copy;
}

/** The NUL-terminated file name at `start`, copied. The kernel lets longer names through than a `Name` has. */
export function copyName(bytes: Buffer, start: number): Buffer {
  const end = bytes.indexOf(0, start);
  if (end - start > NAME_BYTES_MAX) throw new FsError('ENAMETOOLONG');
  return copyBytes(bytes, start, end);
}

/** The NUL-terminated string at `start` that is no file name (a link's target, an attribute's name), copied. */
export function copyString(bytes: Buffer, start: number): Buffer {
  return copyBytes(bytes, start, bytes.indexOf(0, start));
}
