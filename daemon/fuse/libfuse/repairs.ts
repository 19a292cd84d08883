/**
 * Defects of fuse-native 2.2.6 that would answer wrongly, and what is done about each. Apply before the
 * mount: the library takes its handlers' addresses then. The package is pinned to this exact version.
 *
 * - `utimens` hands over the access time twice. The right modification time is still in the request's memory
 *   (the struct `fuse_thread_locals_t`); it is read from there, after the access time beside it was seen to be
 *   the one handed over. Should the layout ever differ, the times are NaN and the
 *   operation refuses them.
 * - `getxattr` and `listxattr` answer a length larger than the caller's buffer instead of ERANGE, and libfuse
 *   would then send memory past its end.
 * - `Fuse.unmount` passes the path to a shell. Unmounting is done by the driver, before the library is told.
 */

import type Fuse from 'fuse-native';
import type { Operations, Signal } from 'fuse-native';
import { assert } from '../../runtime/assert.ts';
import { ERRNO } from '../../protocol/errors.ts';

/** `op_utimens` in fuse-native.c. */
const UTIMENS = 12;
/** Offsets in `fuse_thread_locals_t` where pointers and size_t have 8 bytes; times are milliseconds. */
const ATIME_OFFSET = 104;
const MTIME_OFFSET = 112;
const TWO_32 = 2 ** 32;

export function repairLibrary(library: typeof Fuse, session: Fuse, operations: Operations): void {
  library.unmount = (_path, done) => done(null);
  repairUtimens(session);
  session._op_getxattr = (signal, path, name, target, position) => {
    operations.getxattr(path, name, position, (error, ...[value]) => sendValue(signal, target, error, value));
  };
  session._op_listxattr = (signal, path, target) => {
    operations.listxattr(path, (error, ...[names = []]) => {
      sendValue(signal, target, error, Buffer.from(names.map((name) => `${name}\0`).join('')));
    });
  };
}

function repairUtimens(session: Fuse): void {
  const original = session._handlers[UTIMENS];
  assert(original !== undefined, 'fuse-native has a handler for utimens');
  session._handlers[UTIMENS] = (request, operation, ...args) => {
    const [path, atimeLow, atimeHigh] = args;
    const atimeMs = Number(atimeLow) + Number(atimeHigh) * TWO_32;
    if (request.readBigUInt64LE(ATIME_OFFSET) !== BigInt(atimeMs)) {
      original(request, operation, path, Number.NaN, 0, Number.NaN, 0);
      return;
    }
    const mtimeLow = request.readUInt32LE(MTIME_OFFSET);
    const mtimeHigh = request.readUInt32LE(MTIME_OFFSET + 4);
    original(request, operation, path, atimeLow, atimeHigh, mtimeLow, mtimeHigh);
  };
}

/** An empty target asks for the size. The target's memory goes back to the library in every case. */
function sendValue(signal: Signal, target: Buffer, error: number, value: Buffer | undefined): void {
  if (error !== 0 || value === undefined) return signal(error, target.buffer);
  if (target.length > 0 && value.length > target.length) return signal(-ERRNO.ERANGE, target.buffer);
  value.copy(target);
  signal(value.length, target.buffer);
}
