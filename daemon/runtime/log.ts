/**
 * Log lines: readable for a person on a terminal, JSON for machines (`--log-format json`). A thin skin over
 * pino so that rooms depend on four methods and tests can collect lines.
 */

import pino from 'pino';
import pretty from 'pino-pretty';

export interface Log {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
  /** A log whose lines carry `room` (the part of the daemon that speaks). */
  room(name: string): Log;
}

export interface LogOptions {
  /** `text` for people (default), `json` one object a line. */
  readonly format: 'text' | 'json';
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** File descriptor; default 2 (standard error). Written synchronously, so that a fatal line is never lost. */
  readonly descriptor?: number;
}

export function openLog(options: LogOptions): Log {
  const descriptor = options.descriptor ?? 2;
  const stream =
    options.format === 'json'
      ? pino.destination({ fd: descriptor, sync: true })
      : pretty({
          destination: descriptor,
          sync: true,
          colorize: false,
          ignore: 'pid,hostname,room',
          translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
          messageFormat: '{if room}{room}: {end}{msg}',
          singleLine: true,
        });
  return wrap(pino({ level: options.level, base: null }, stream));
}

function wrap(logger: pino.Logger): Log {
  return {
    debug: (message, fields) => logger.debug(fields ?? {}, message),
    info: (message, fields) => logger.info(fields ?? {}, message),
    warn: (message, fields) => logger.warn(fields ?? {}, message),
    error: (message, fields) => logger.error(fields ?? {}, message),
    room: (name) => wrap(logger.child({ room: name })),
  };
}
