/**
 * The reader thread: blocking reads of /dev/fuse into the ring. It decodes nothing; a thread of its own is
 * there because a blocking read is twice as fast as the thread pool's and costs the event loop nothing.
 *
 * It ends when the kernel says that the mount is gone (ENODEV).
 */

import { readSync } from 'node:fs';
import { workerData } from 'node:worker_threads';
import { systemErrorCode } from '../../protocol/errors.ts';
import { HEAD, READER_WAITS, type ReaderInput, SLOT_BYTES, SLOTS, STOP, slotIndex, TAIL } from './ring.ts';

const MOUNT_POLL_MS = 1;

const input = workerData as ReaderInput;
const control = new Int32Array(input.control);
const slots = Array.from(
  { length: SLOTS },
  (_, index) => new Uint8Array(input.slots, index * SLOT_BYTES, SLOT_BYTES),
);

for (let head = 0; ; head = (head + 1) | 0) {
  waitForFreeSlot(head);
  if (!readRequest(slots[slotIndex(head)] as Uint8Array)) break;
  Atomics.store(control, HEAD, (head + 1) | 0);
  Atomics.notify(control, HEAD);
}

function waitForFreeSlot(head: number): void {
  for (;;) {
    const tail = Atomics.load(control, TAIL);
    if (((head - tail) | 0) < SLOTS) return;
    Atomics.store(control, READER_WAITS, 1);
    Atomics.wait(control, TAIL, tail);
    Atomics.store(control, READER_WAITS, 0);
  }
}

/** False when the mount is gone. */
function readRequest(slot: Uint8Array): boolean {
  for (;;) {
    try {
      readSync(input.descriptor, slot);
      return true;
    } catch (error) {
      const code = systemErrorCode(error);
      // ENOENT: the request was interrupted while it was handed over.
      if (code === 'ENOENT' || code === 'EINTR' || code === 'EAGAIN') continue;
      // EPERM: mount(2) has not been called yet; the thread starts meanwhile.
      if (code === 'EPERM' && Atomics.wait(control, STOP, 0, MOUNT_POLL_MS) === 'timed-out') continue;
      if (code === 'EPERM') return false;
      if (code === 'ENODEV' || code === 'ECONNABORTED' || code === 'EBADF') return false;
      throw error;
    }
  }
}
