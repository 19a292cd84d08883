/** The notify thread: writes invalidations one by one; each may block until a request in flight is answered. */

import { writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { systemErrorCode } from '../../protocol/errors.ts';
import type { NotifyDone } from './notifier.ts';

const { descriptor } = workerData as { descriptor: number };

/** Nothing cached (ENOENT, ENOTDIR), pages in use that the kernel drops later (EBUSY), the mount is gone. */
const EXPECTED: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR', 'EBUSY', 'ENOTCONN', 'ENODEV', 'EBADF']);

parentPort?.on('message', (batch: Uint8Array[]) => {
  const refused: string[] = [];
  for (const message of batch) {
    try {
      writeSync(descriptor, message);
    } catch (error) {
      const code = systemErrorCode(error) ?? String(error);
      if (!EXPECTED.has(code)) refused.push(code);
    }
  }
  parentPort?.postMessage({ refused } satisfies NotifyDone, []);
});
