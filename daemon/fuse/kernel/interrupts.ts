/**
 * INTERRUPT: the program that waits for a request got a signal.
 *
 * The kernel sends one INTERRUPT for the first signal of any kind and none after it. On a local file system
 * only a fatal signal ends a wait for a disk; a program that gets EINTR from stat or fsync because of a timer
 * or a child's end would take it for a disk error. So the signal's kind is looked up in /proc, and a request
 * that outlives a harmless signal is looked at again from time to time. Only a wait for a lock ends at any
 * signal, as fcntl(2) promises.
 */

import { readFileSync } from 'node:fs';
import { ERRNO } from '../../protocol/errors.ts';
import { OPCODE, word } from './protocol.ts';
import { type Request, requestKey } from './request.ts';
import { replyError, type Session } from './session.ts';

/** How soon a killed program dies that had a harmless signal before. */
const WATCH_INTERVAL_MS = 100;

/** Requests without effect: answered EINTR at once, whenever the file system gets round to its answer. */
const WITHOUT_EFFECT: ReadonlySet<number> = new Set([
  OPCODE.LOOKUP,
  OPCODE.GETATTR,
  OPCODE.READLINK,
  OPCODE.READ,
  OPCODE.STATFS,
  OPCODE.FSYNC,
  OPCODE.FSYNCDIR,
  OPCODE.GETXATTR,
  OPCODE.LISTXATTR,
  OPCODE.READDIR,
  OPCODE.READDIRPLUS,
  OPCODE.GETLK,
  OPCODE.LSEEK,
]);

export interface Interrupts {
  interrupt(words: Uint32Array): void;
  stop(): void;
}

export function createInterrupts(session: Session): Interrupts {
  const watched = new Set<Request>();
  let timer: NodeJS.Timeout | undefined;

  const watch = (): void => {
    for (const request of watched) {
      if (session.pending.get(request.key) !== request) watched.delete(request);
      else if (hasFatalSignal(request.pid)) {
        watched.delete(request);
        cancel(session, request);
      }
    }
    if (watched.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };

  return {
    interrupt(words) {
      const request = session.pending.get(requestKey(word(words, 10), word(words, 11)));
      // Already answered: the two crossed.
      if (request === undefined) return;
      if (request.opcode === OPCODE.SETLKW) request.interrupt();
      else if (hasFatalSignal(request.pid)) cancel(session, request);
      else {
        watched.add(request);
        timer ??= setInterval(watch, WATCH_INTERVAL_MS).unref();
      }
    },
    stop() {
      clearInterval(timer);
      watched.clear();
    },
  };
}

function cancel(session: Session, request: Request): void {
  request.interrupt();
  if (WITHOUT_EFFECT.has(request.opcode)) replyError(session, request, ERRNO.EINTR);
}

const SIGKILL_BIT = bit(9);
/** CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH: without a handler they are ignored or only stop. */
const NOT_DEADLY_BITS = [17, 18, 19, 20, 21, 22, 23, 28].reduce((bits, signal) => bits | bit(signal), 0n);

function bit(signal: number): bigint {
  return 1n << BigInt(signal - 1);
}

/** Whether the thread is about to die. Yes for a thread that cannot be seen: it must be possible to kill it. */
function hasFatalSignal(pid: number): boolean {
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, 'latin1');
  } catch {
    return true;
  }
  const bits = (name: string): bigint =>
    BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)`, 'm').exec(status)?.[1] ?? '0'}`);
  const pendingBits = bits('SigPnd') | bits('ShdPnd');
  const handled = bits('SigBlk') | bits('SigIgn') | bits('SigCgt');
  return (pendingBits & (SIGKILL_BIT | ~(handled | NOT_DEADLY_BITS))) !== 0n;
}
