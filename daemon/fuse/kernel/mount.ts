/**
 * The `kernel` driver: a mount that speaks the kernel's FUSE protocol itself.
 *
 *   /dev/fuse -> reader (event loop) -> dispatch -> FileSystem -> reply -> /dev/fuse
 *
 * The mount is made by mount(8) with the descriptor inherited as 3. The main thread never makes a blocking
 * call on the mount (it would wait for itself). The mount lives until the kernel says ENODEV to the reader:
 * after an unmount, by whomever, or an abort.
 *
 * A process that leaves through `process.exit` with a live mount aborts it on its way out, so that no program
 * hangs on it. Unmounting first is the orderly way.
 */

import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { WarrenError } from '../../protocol/errors.ts';
import type { Mount, MountOptions } from '../driver.ts';
import { MOUNT_SOURCE, openFuseDevice, prepareMountPoint, requireRoot } from '../mount-point.ts';
import { findMount } from '../mount-table.ts';
import { runCommand } from '../run-command.ts';
import { dispatch } from './dispatch.ts';
import { KERNEL_MINOR_MIN, negotiate, type Negotiated } from './init.ts';
import { createInterrupts } from './interrupts.ts';
import { startNotifier } from './notifier.ts';
import { PROTOCOL_MAJOR, TRANSFER_BYTES_MAX } from './protocol.ts';
import { startReader } from './reader.ts';
import { createSession, type Session } from './session.ts';
import { abandon, unmount } from './unmount.ts';

const MOUNT_TIMEOUT_MS = 10_000;
/** The kernel's default is 128 KiB. Uncached reads: 128 KiB 1.3 GB/s, 1, 4 and 16 MiB 2.5 to 2.7 GB/s in one run. */
const READAHEAD_KIB = 4096;

/** Mounts `options.filesystem`. Errors: WarrenError with what is missing and what to do. */
export async function mountKernel(options: MountOptions): Promise<Mount> {
  requireRoot();
  const path = await prepareMountPoint(options.path, options.log);
  const session = createSession({
    mount: options.mountId,
    filesystem: options.filesystem,
    log: options.log,
    descriptor: openFuseDevice(),
  });
  const running = run(session);
  try {
    await callMount(path, options, session.descriptor);
    const device = (await findMount(path))?.device;
    const negotiated = await running.negotiated;
    if (!negotiated.accepted || device === undefined) throw refusedKernel(path, negotiated);
    await raiseReadahead(session, device);
    const leave = () => abandon(path, device);
    process.once('exit', leave);
    void running.closed.then(() => process.off('exit', leave));
    return {
      id: options.mountId,
      path,
      unmount({ force }) {
        // Its device number may already belong to another mount.
        if (session.descriptor < 0) return running.closed;
        return unmount({ path, device, force, closed: running.closed, log: options.log });
      },
      drained: () => running.drained(),
      closed: running.closed,
    };
  } catch (error) {
    running.stop();
    await runCommand('umount', ['-i', '-l', path], { timeoutMs: MOUNT_TIMEOUT_MS });
    await running.closed;
    throw error;
  }
}

interface Running {
  /** Settles when the kernel's INIT was answered, or the mount ended before. */
  readonly negotiated: Promise<Negotiated>;
  readonly closed: Promise<void>;
  drained(): Promise<void>;
  /** Ends a reader that never got a mount. */
  stop(): void;
}

/** Starts the threads and wires them to the file system, until the mount is gone. */
function run(session: Session): Running {
  const started = Promise.withResolvers<Negotiated>();
  const closed = Promise.withResolvers<void>();
  let kernelMinor = 0;
  const interrupts = createInterrupts(session);
  const notifier = startNotifier(session, () => kernelMinor);
  const control = {
    init(request: Parameters<typeof negotiate>[1], words: Uint32Array): void {
      const negotiated = negotiate(session, request, words);
      if (negotiated === undefined) return;
      kernelMinor = negotiated.kernelMinor;
      started.resolve(negotiated);
    },
    interrupt: (words: Uint32Array) => interrupts.interrupt(words),
  };
  const reader = startReader(session.descriptor, {
    handle(words, bytes) {
      session.requestsInTurn += 1;
      dispatch(session, control, words, bytes);
    },
    turnEnded() {
      session.requestsInTurn = 0;
    },
    isWaiting: () => session.pending.size > 0,
  });

  const end = async (): Promise<void> => {
    started.resolve({ kernelMinor, accepted: false });
    interrupts.stop();
    for (const request of session.pending.values()) request.interrupt();
    await notifier.stop();
    session.descriptor = -1;
    try {
      await session.filesystem.dropMount(session.mount);
    } catch (error) {
      session.log.error('open files of an ended mount could not be released', { error: String(error) });
    }
    closed.resolve();
  };
  void reader.closed.then(end);

  return {
    negotiated: started.promise,
    closed: closed.promise,
    drained: () => notifier.drained(),
    stop: () => reader.stop(),
  };
}

async function callMount(path: string, options: MountOptions, descriptor: number): Promise<void> {
  const mountOptions = [
    'fd=3',
    'rootmode=40000',
    'user_id=0',
    'group_id=0',
    'default_permissions',
    `max_read=${TRANSFER_BYTES_MAX}`,
    ...(options.allowOther ? ['allow_other'] : []),
    ...(options.readOnly === true ? ['ro'] : []),
  ];
  const args = ['-i', '-t', `fuse.${MOUNT_SOURCE}`, '-o', mountOptions.join(','), MOUNT_SOURCE, path];
  const result = await runCommand('mount', args, { timeoutMs: MOUNT_TIMEOUT_MS, descriptor });
  if (result.code === 0) return;
  throw new WarrenError({
    code: 'MOUNT_FAILED',
    message: `Mounting on ${path} failed: ${result.timedOut ? 'mount did not return' : result.message}`,
    hint: /permission denied|not permitted/i.test(result.message)
      ? 'The daemon may not mount: it needs the capability SYS_ADMIN (docker: --cap-add SYS_ADMIN; LXC: a privileged container or the feature fuse=1).'
      : 'See the last lines of: dmesg',
  });
}

function refusedKernel(path: string, negotiated: Negotiated): WarrenError {
  return new WarrenError({
    code: 'MOUNT_FAILED',
    message:
      negotiated.kernelMinor > 0 && negotiated.kernelMinor < KERNEL_MINOR_MIN
        ? `This kernel speaks FUSE ${PROTOCOL_MAJOR}.${negotiated.kernelMinor}; Warren needs ${PROTOCOL_MAJOR}.${KERNEL_MINOR_MIN} (Linux 5.4) or newer.`
        : `The mount on ${path} ended before it began.`,
    hint: 'Use a newer kernel, or see the last lines of: dmesg',
  });
}

/** Only slower without it: a container may have /sys read-only. */
async function raiseReadahead(session: Session, device: string): Promise<void> {
  const file = `/sys/class/bdi/${device}/read_ahead_kb`;
  if (!existsSync(file)) return;
  try {
    await writeFile(file, String(READAHEAD_KIB));
  } catch (error) {
    session.log.info('the readahead of the mount stays at the default; large reads are slower', {
      file,
      error: error instanceof Error ? error.message : String(error),
    });
  }
}
