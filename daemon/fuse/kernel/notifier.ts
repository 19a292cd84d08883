/**
 * Tells the kernel that what it cached is old.
 *
 * A notify can block on a lock that a request in flight holds, and that request may need this very daemon: so
 * a thread of its own writes them. Changes of the own
 * mount and of inodes its kernel does not know are skipped. What waits is kept once for each inode or name;
 * beyond QUEUE_MAX all names are made old at once (INC_EPOCH), which needs no list.
 */

import { Worker } from 'node:worker_threads';
import type { Invalidation } from '../../filesystem/interface.ts';
import { type Inode, NO_MOUNT } from '../../protocol/ids.ts';
import { workerUrl } from '../../runtime/worker-url.ts';
import { NOTIFY, OUT_HEADER_BYTES, put64 } from './protocol.ts';
import type { Session } from './session.ts';

const QUEUE_MAX = 65_536;
/**
 * Longer than an overloaded machine needs to wake the thread: with 50 ms and a load of 10 the other mount still saw the
 * old state. Two changes that wait for each other do not wait so long: `mounts.ts` sees that they cross.
 */
const DRAIN_WAIT_MS = 1000;
/** Writing back a large mapping takes a while; longer than this is answered without it. */
const WRITE_BACK_WAIT_MS = 10_000;
/** FUSE_NOTIFY_INC_EPOCH came with 7.44. */
const EPOCH_KERNEL_MINOR = 44;

export interface Notifier {
  /** Waits until all that was reported so far has reached the kernel, at most DRAIN_WAIT_MS. */
  drained(): Promise<void>;
  /** Makes the kernel send what was written through mappings of the file. False: it took too long. */
  writeBack(inode: Inode): Promise<boolean>;
  stop(): Promise<void>;
}

/** From the notify thread: a batch is done; `refused` lists unexpected error codes. */
export interface NotifyDone {
  readonly refused: string[];
}

export function startNotifier(session: Session, kernelMinor: () => number): Notifier {
  let queue = new Map<string, Uint8Array>();
  let sending = false;
  let stopped = false;
  let waiters: (() => void)[] = [];

  const drainedWithin = (limitMs: number): Promise<boolean> => {
    if (!sending && queue.size === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), limitMs);
      waiters.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  };

  const pump = (): void => {
    if (sending || stopped) return;
    if (queue.size === 0) {
      for (const resolve of waiters.splice(0)) resolve();
      return;
    }
    worker.postMessage([...queue.values()], []);
    queue = new Map();
    sending = true;
  };

  const worker = new Worker(workerUrl(import.meta.url, './notify-worker'), {
    workerData: { descriptor: session.descriptor },
  });
  worker.on('message', ({ refused }: NotifyDone) => {
    for (const code of refused) session.log.warn('the kernel refused an invalidation', { code });
    sending = false;
    pump();
  });
  worker.on('error', (error: Error) => {
    session.log.error('the invalidation thread ended; names may stay stale for up to two minutes', {
      error: error.message,
    });
    stopped = true;
  });
  worker.unref();

  const overflow = (): void => {
    session.log.warn('too many invalidations wait; all cached names of the mount are dropped instead', {
      queued: queue.size,
    });
    for (const key of queue.keys()) if (key.startsWith('entry')) queue.delete(key);
    if (kernelMinor() >= EPOCH_KERNEL_MINOR) queue.set('epoch', message(NOTIFY.INC_EPOCH, 0));
  };

  const unsubscribe = session.filesystem.onInvalidate((event) => {
    if (stopped || event.mount === session.mount) return;
    enqueue(queue, event);
    if (queue.size > QUEUE_MAX) overflow();
    // One message for all changes of this turn of the event loop.
    if (!sending) queueMicrotask(pump);
  });

  return {
    async drained() {
      await drainedWithin(DRAIN_WAIT_MS);
    },
    writeBack(inode) {
      if (stopped) return Promise.resolve(false);
      // Before the kernel drops pages it writes the dirty ones.
      enqueue(queue, { kind: 'data', inode, offset: 0, length: 0, mount: NO_MOUNT });
      pump();
      return drainedWithin(WRITE_BACK_WAIT_MS);
    },
    async stop() {
      stopped = true;
      unsubscribe();
      for (const resolve of waiters) resolve();
      waiters = [];
      await worker.terminate();
    },
  };
}

function enqueue(queue: Map<string, Uint8Array>, event: Invalidation): void {
  switch (event.kind) {
    case 'attributes':
      queue.set(`attributes ${event.inode}`, inodeMessage(event.inode, -1, 0));
      return;
    case 'data': {
      const key = `data ${event.inode}`;
      // Two ranges of one file become the whole file: dropping too much is only slower.
      const whole = queue.has(key);
      queue.set(key, inodeMessage(event.inode, whole ? 0 : event.offset, whole ? 0 : event.length));
      return;
    }
    case 'entry':
      queue.set(
        `entry ${event.parent} ${Buffer.from(event.name).toString('latin1')}`,
        entryMessage(event.parent, event.name),
      );
  }
}

/** `offset` -1: attributes only; `length` 0: to the end. */
function inodeMessage(inode: Inode, offset: number, length: number): Uint8Array {
  const bytes = message(NOTIFY.INVAL_INODE, 24);
  const words = new Uint32Array(bytes.buffer);
  put64(words, 4, inode);
  put64(words, 6, offset);
  put64(words, 8, length);
  return bytes;
}

function entryMessage(parent: Inode, name: Uint8Array): Uint8Array {
  const bytes = message(NOTIFY.INVAL_ENTRY, 16 + name.length + 1);
  const words = new Uint32Array(bytes.buffer, 0, 8);
  put64(words, 4, parent);
  words[6] = name.length;
  bytes.set(name, OUT_HEADER_BYTES + 16);
  return bytes;
}

/** A notify is a reply to request 0 whose error is its code. */
function message(code: number, bodyBytes: number): Uint8Array {
  const bytes = new Uint8Array(OUT_HEADER_BYTES + bodyBytes);
  const words = new Uint32Array(bytes.buffer, 0, 4);
  words[0] = bytes.length;
  words[1] = code;
  return bytes;
}
