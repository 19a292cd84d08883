/**
 * Reads and verifies every local chunk once in a long while, because a disk tells of damage only when it is read.
 * What is damaged is set aside and fetched again (replicated-repair.ts).
 *
 * The pace follows the bytes: after each piece the worker rests as long as the piece's share of the round. A round
 * begins at a random place, so that a node that is restarted every day still gets around.
 */

import { randomInt } from 'node:crypto';
import {
  type BackgroundWorker,
  type Sleep,
  startWorker,
  type UnitOutcome,
} from '../runtime/background-worker.ts';
import type { Log } from '../runtime/log.ts';
import { openThrottle } from '../runtime/throttle.ts';
import type { Clock } from '../runtime/clock.ts';
import type { ChunkStore } from './interface.ts';
import type { ChunkName } from './replicated-options.ts';

/** Small chunks are verified on the event loop: this many bytes at a time. */
const SMALL_UNIT_BYTES_MAX = 256 * 1024;
/** A round is never slower than this, so that a nearly empty store is not waited for. */
const BYTES_PER_MS_MIN = 4;
const REST_MS_MAX = 60 * 60_000;

export interface Scrub extends BackgroundWorker {
  figures(): { readonly rounds: number; readonly verified: number; readonly damaged: number };
}

export function startScrub(options: {
  local: ChunkStore;
  clock: Clock;
  log: Log;
  sleep: Sleep;
  roundMs: number;
  onDamaged: (chunk: ChunkName, reason: string) => void;
}): Scrub {
  const { local } = options;
  const figures = { rounds: 0, verified: 0, damaged: 0 };
  let round = chunksOf(local);
  let roundBytes = 0;

  function bytesPerMs(): number {
    const { diskBytes, diskFreeBytes } = local.usage();
    return Math.max(BYTES_PER_MS_MIN, (diskBytes - diskFreeBytes) / options.roundMs);
  }

  async function verify(chunk: ChunkName): Promise<void> {
    const health = await local.verify(chunk, { setAside: true });
    figures.verified += 1;
    roundBytes += chunk.size;
    if (health.kind !== 'bad') return;
    figures.damaged += 1;
    options.onDamaged(chunk, health.reason);
  }

  async function unit(signal: AbortSignal): Promise<UnitOutcome> {
    let bytes = 0;
    while (bytes < SMALL_UNIT_BYTES_MAX && !signal.aborted) {
      const next = await round.next();
      if (next.done === true) {
        figures.rounds += 1;
        round = chunksOf(local);
        roundBytes = 0;
        return { kind: 'idle', nextMs: bytes === 0 ? REST_MS_MAX : restMs(bytes) };
      }
      await verify(next.value);
      bytes += next.value.size;
    }
    return { kind: 'idle', nextMs: restMs(bytes) };
  }

  function restMs(bytes: number): number {
    return Math.min(REST_MS_MAX, Math.ceil(bytes / bytesPerMs()));
  }

  const worker = startWorker({
    name: 'chunk scrub',
    unit,
    queue() {
      const { diskBytes, diskFreeBytes } = local.usage();
      const left = Math.max(0, diskBytes - diskFreeBytes - roundBytes);
      return {
        items: 0,
        bytes: left,
        doneBytes: roundBytes,
        secondsLeft: Math.round(left / bytesPerMs() / 1000),
      };
    },
    throttle: openThrottle(options.clock),
    sleep: options.sleep,
    log: options.log,
  });
  return { ...worker, figures: () => ({ ...figures }) };
}

/** All local chunks once, from a random place on. */
async function* chunksOf(local: ChunkStore): AsyncGenerator<ChunkName> {
  const start = randomInt(0x10000).toString(16).padStart(4, '0');
  yield* local.listLarge(start);
  for (const chunk of local.listSmall()) yield chunk;
  for await (const chunk of local.listLarge()) {
    if (chunk.hash.slice(0, 4) >= start) return;
    yield chunk;
  }
}
