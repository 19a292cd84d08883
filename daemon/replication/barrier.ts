/**
 * `fsync` over the cluster: resolves when everything answered so far is durable on every in-sync node. One round for
 * all who ask while the previous one runs; a follower asks its leader. Rounds go on over a change of leader, until the
 * time of the oldest waiter is over.
 */

import { FsError } from '../protocol/errors.ts';
import type { Context } from './context.ts';
import type { Way } from './proposals.ts';

const RETRY_MS = 20;
const ANSWER_WITHIN_MS = 5000;

export interface Barrier {
  /** Errors: FsError EIO when it could not be reached in time. */
  readonly wait: () => Promise<void>;
  /** The leader changed: do not wait for the old one. */
  resume(): void;
  close(): void;
}

export function openBarrier({ context, way }: { context: Context; way: () => Way }): Barrier {
  const { state, peers, clock, timers } = context;
  let running: Promise<void> | undefined;
  let next: Promise<void> | undefined;
  let closed = false;
  let aborting = new AbortController();

  async function round(): Promise<void> {
    const endMs = clock.monotonicMs() + context.timeoutMs;
    for (;;) {
      const to = way();
      if (await attempt(to)) return;
      if (closed) throw new FsError('EIO', 'this node is shutting down');
      if (clock.monotonicMs() >= endMs) {
        const why = to.kind === 'wait' ? to.reason : 'the nodes in sync did not answer in time';
        throw new FsError('EIO', `it is not known whether everything is durable: ${why}`);
      }
      await new Promise<void>((resolve) => timers.after(RETRY_MS, resolve));
    }
  }

  async function attempt(to: Way): Promise<boolean> {
    const { version } = state.position();
    switch (to.kind) {
      case 'wait':
        return false;
      case 'local':
        return new Promise((resolve) => to.leading.wait(version, true, resolve));
      case 'forward':
        try {
          const options = { timeoutMs: ANSWER_WITHIN_MS, signal: aborting.signal };
          const { answer } = await peers.call(to.leader, 'barrier', { epoch: to.epoch, version }, options);
          return answer.kind === 'durable';
        } catch {
          return false;
        }
    }
  }

  function start(): Promise<void> {
    running = round().finally(() => {
      running = undefined;
    });
    return running;
  }

  return {
    wait() {
      if (running === undefined) return start();
      // What was answered after the running round began needs another one.
      next ??= running
        .catch(() => {})
        .then(() => {
          next = undefined;
          return running ?? start();
        });
      return next;
    },
    resume() {
      aborting.abort();
      aborting = new AbortController();
    },
    close() {
      closed = true;
      aborting.abort();
    },
  };
}
