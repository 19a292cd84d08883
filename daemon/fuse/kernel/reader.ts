/**
 * Reads the kernel's requests on the event loop: /dev/fuse is pollable, so libuv waits for it like for a socket
 * and reads one request into one buffer, which is handled before the next is read.
 *
 * Why not a thread with blocking reads and a ring: each request then crosses three threads (program, reader,
 * main) instead of two, and waking a thread on an idle core costs 30 to 40 µs on the machines this was
 * measured on. On an idle machine an unknown-name lookup took 110 µs with the thread, 37 µs without.
 *
 * Node has no public way to poll a character device. A Pipe handle takes any descriptor; `process.binding` is
 * where it can be had, and the pinned Node has it.
 *
 * After an answer that was there at once the next request is looked for right away, for a moment and for some
 * requests only: going around the event loop costs a request about as much as answering it, and a program that
 * goes through a directory asks again within microseconds. Promises and everything else wait that long.
 *
 * The buffer is used again for every request: whatever a request needs later must be copied by its handler.
 */

import { readSync } from 'node:fs';
import { Socket } from 'node:net';
import { systemErrorCode } from '../../protocol/errors.ts';
import { startPolling } from './polling.ts';
import { TRANSFER_BYTES_MAX } from './protocol.ts';

/** The kernel demands room for the largest WRITE. */
const REQUEST_BYTES_MAX = TRANSFER_BYTES_MAX + 4096;
const MOUNT_POLL_MS = 1;
/** Requests answered in one turn of the event loop, and how long each of them is waited for. */
const TURN_REQUESTS_MAX = 32;
const TURN_WAIT_MS = 0.05;

export interface ReaderEvents {
  /** Gets every request; must not throw. */
  handle(words: Uint32Array, bytes: Buffer): void;
  /** The turn of the event loop in which requests came is over. */
  readonly turnEnded: () => void;
  /** Whether answers are still to come. */
  readonly isWaiting: () => boolean;
}

export interface Reader {
  /** Settles when the kernel says that the mount is gone, or after `stop`. The descriptor is closed then. */
  readonly closed: Promise<void>;
  /** Ends a reader whose mount never came. */
  stop(): void;
}

/** Takes over `descriptor` (open, O_NONBLOCK). */
export function startReader(descriptor: number, events: ReaderEvents): Reader {
  const memory = new ArrayBuffer(REQUEST_BYTES_MAX);
  const words = new Uint32Array(memory);
  const bytes = Buffer.from(memory);
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  const pipe = openPipe(descriptor);
  const poll = startPolling(events);
  const socket = new Socket({
    handle: pipe,
    readable: true,
    manualStart: true,
    onread: {
      buffer: bytes,
      callback() {
        events.handle(words, bytes);
        answerFurther();
        poll.touch();
        return true;
      },
    },
  } as ConstructorParameters<typeof Socket>[0]);
  // ENODEV and ECONNABORTED are how a mount ends; 'close' follows.
  socket.on('error', () => {});
  socket.on('close', () => resolve());
  let timer: NodeJS.Timeout | undefined;

  const answerFurther = (): void => {
    for (let answered = 1; answered < TURN_REQUESTS_MAX && !events.isWaiting(); answered++) {
      const untilMs = performance.now() + TURN_WAIT_MS;
      while (!readNow(descriptor, bytes)) if (performance.now() > untilMs) return;
      events.handle(words, bytes);
    }
  };

  // Until mount(2) has tied the descriptor to a mount, reading it is an error (EPERM) that would end the socket.
  const waitForMount = (): void => {
    try {
      readSync(descriptor, bytes);
    } catch (error) {
      const code = systemErrorCode(error);
      if (code === 'EPERM') timer = setTimeout(waitForMount, MOUNT_POLL_MS);
      else if (code === 'EAGAIN') socket.resume();
      else socket.destroy();
      return;
    }
    events.handle(words, bytes);
    poll.touch();
    socket.resume();
  };
  waitForMount();

  return {
    closed,
    stop() {
      clearTimeout(timer);
      socket.destroy();
    },
  };
}

/**
 * Whether a request was there. An error is thrown for "none yet" too: without its trace it costs half. The others
 * say that the mount is gone, which the socket hears of by itself.
 */
function readNow(descriptor: number, bytes: Buffer): boolean {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return readSync(descriptor, bytes) > 0;
  } catch {
    return false;
  } finally {
    Error.stackTraceLimit = limit;
  }
}

interface PipeBinding {
  readonly Pipe: new (type: number) => { open(descriptor: number): number };
  readonly constants: { readonly SOCKET: number };
}

interface WithBinding {
  binding(name: 'pipe_wrap'): PipeBinding;
}

function openPipe(descriptor: number): object {
  const { Pipe, constants } = (process as unknown as WithBinding).binding('pipe_wrap');
  const pipe = new Pipe(constants.SOCKET);
  const failed = pipe.open(descriptor);
  if (failed !== 0 && failed !== undefined)
    throw new Error(`/dev/fuse cannot be polled (libuv error ${failed})`);
  return pipe;
}
