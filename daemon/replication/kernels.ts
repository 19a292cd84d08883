/**
 * Waits until the kernels of this node were told what an applied entry made old, before anybody hears that it is done:
 * so the next read here, after the change was answered anywhere, sees it.
 *
 * A kernel may hold the lock that telling it needs, for a request that waits for an entry behind this very one. That can
 * only be while this node has proposals of its own under way; whoever tells then waits shortly. Otherwise it lasts as long
 * as a busy machine needs.
 */

import type { Context } from './context.ts';

/** Less than what a leader waits for a node. */
const TOLD_WITHIN_MS = 1000;

/** Undefined: nothing to wait for. Never rejects. */
export function kernelsTold(context: Context): Promise<void> | undefined {
  const told = context.beforeAck?.(context.hasProposals());
  if (told === undefined) return undefined;
  const { promise, resolve } = Promise.withResolvers<void>();
  const cancel = context.timers.after(TOLD_WITHIN_MS, resolve);
  told.then(resolve, () => resolve());
  return promise.then(cancel);
}
