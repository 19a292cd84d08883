/**
 * Log lines about what strangers do: one of a kind in LOG_INTERVAL_MS, with the number of those left out, so that
 * nobody on the network can fill a disk or hide something in the noise.
 */

import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { LOG_INTERVAL_MS } from './limits.ts';

const KINDS_MAX = 256;

export interface QuietLog {
  /** `kind` names what is said at most once in a while; it may hold an address. */
  warn(kind: string, message: string, fields: Record<string, unknown>): void;
  error(kind: string, message: string, fields: Record<string, unknown>): void;
}

export function openQuietLog(log: Log, clock: Clock): QuietLog {
  const kinds = new Map<string, { untilMs: number; left: number }>();

  const say = (
    level: 'warn' | 'error',
    kind: string,
    message: string,
    fields: Record<string, unknown>,
  ): void => {
    const nowMs = clock.monotonicMs();
    const known = kinds.get(kind);
    if (known !== undefined && nowMs < known.untilMs) {
      known.left += 1;
      return;
    }
    kinds.delete(kind);
    if (kinds.size >= KINDS_MAX) {
      for (const [name, { untilMs }] of kinds) if (untilMs <= nowMs) kinds.delete(name);
      // So many kinds at once come from one who makes them up.
      if (kinds.size >= KINDS_MAX) return;
    }
    kinds.set(kind, { untilMs: nowMs + LOG_INTERVAL_MS, left: 0 });
    const left = known?.left ?? 0;
    log[level](message, left === 0 ? fields : { ...fields, leftOut: left });
  };

  return {
    warn: (kind, message, fields) => say('warn', kind, message, fields),
    error: (kind, message, fields) => say('error', kind, message, fields),
  };
}
