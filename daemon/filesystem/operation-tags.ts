/**
 * Which operation a client's call makes: the tag of the call goes with it, so that the cluster knows a call that is
 * repeated at another node.
 *
 * A call makes one operation that counts. What it flushes on the way is done again by whoever repeats it, and harmless.
 * The tag travels with the asynchronous work of the call, not through every signature between the two ends.
 */

import { AsyncLocalStorage } from 'node:async_hooks';
import type { OperationTag } from '../protocol/cluster.ts';
import type { Operation } from '../protocol/operations.ts';

const calls = new AsyncLocalStorage<{ tag: OperationTag | undefined }>();

export function runTagged<Result>(tag: OperationTag, call: () => Result): Result {
  return calls.run({ tag }, call);
}

/** The tag for `operation`, once for each call; undefined outside of one. */
export function takeTag(operation: Operation): OperationTag | undefined {
  if (operation.kind === 'write') return undefined;
  const call = calls.getStore();
  const tag = call?.tag;
  if (call !== undefined) call.tag = undefined;
  return tag;
}
