/**
 * Waits until the kernels of this node were told what an applied entry made old, before anybody hears that it is done:
 * so the next read here, after the change was answered anywhere, sees it.
 *
 * A kernel may hold the lock that telling it needs, for a request that waits for an entry behind this very one. That can
 * only be while this node has proposals of its own under way; then the wait is short. Otherwise it lasts as long as a
 * busy machine needs.
 */

import type { Context } from './context.ts';

const TOLD_WITHIN_MS = 500;
const CROSSED_WITHIN_MS = 5;

/** Undefined: nothing to wait for. Never rejects. */
export function kernelsTold(context: Context): Promise<void> | undefined {
  const told = context.beforeAck?.();
  if (told === undefined) return undefined;
  const { promise, resolve } = Promise.withResolvers<void>();
  const limitMs = context.hasProposals() ? CROSSED_WITHIN_MS : TOLD_WITHIN_MS;
  const cancel = context.timers.after(limitMs, resolve);
  told.then(resolve, () => resolve());
  return promise.then(cancel);
}
