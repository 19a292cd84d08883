/**
 * The secrets of tokens that were given out: kept as hashes in `identity/secrets.json`, each good for one machine
 * until its end.
 *
 * What can go wrong: an answer that is lost after the secret was used (so the same key may use it again, and only that
 * key may), guessing (a limit of wrong attempts in a minute; a secret has 192 bits besides), a crash (a use is durable
 * before it counts). A secret is known where it was made: `add` makes it known on another node, by its hash.
 */

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { makeDirectories, writeDurably } from '../protocol/durable-files.ts';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Clock } from '../runtime/clock.ts';
import { expired, SECRET_BYTES } from './token.ts';

const FILE = 'secrets.json';
const RECORDS_MAX = 100;
export const WRONG_ATTEMPTS_PER_MINUTE = 10;
const MINUTE_MS = 60_000;
/** An ended secret is kept this long to say "expired" rather than "unknown". */
const KEEP_ENDED_MS = 7 * 86_400_000;

const recordSchema = z.object({
  /** SHA-256 of the secret's text, hexadecimal. */
  hash: z.string().length(64),
  expiresMs: z.number(),
  /** `Member.key` of the machine that has used it. */
  usedBy: z.string().nullable(),
});
const fileSchema = z.array(recordSchema).max(RECORDS_MAX);
export type SecretRecord = Readonly<z.infer<typeof recordSchema>>;

export interface JoinSecrets {
  /** A new secret and what others may know of it. Errors: TOKENS_TOO_MANY. */
  make(lifetimeMs: number): { readonly secret: string; readonly record: SecretRecord };
  /** Takes over what another node made, or what became of it. */
  add(record: SecretRecord): void;
  /**
   * Uses `secret` for the machine with `key`; answers the record as it is now. Errors: TOKEN_UNKNOWN, TOKEN_EXPIRED,
   * TOKEN_USED, TOKEN_ATTEMPTS.
   */
  redeem(secret: string, key: string): SecretRecord;
}

export function openJoinSecrets(dataDirectory: string, clock: Clock): JoinSecrets {
  const directory = join(dataDirectory, 'identity');
  const file = join(directory, FILE);
  let records = readRecords(file);
  let wrongAttempts = 0;
  let minuteEndsMs = 0;

  const nowMs = (): number => clock.now().seconds * 1000;
  const write = (changed: SecretRecord[]): void => {
    const kept = changed.filter(({ expiresMs }) => expiresMs + KEEP_ENDED_MS > nowMs());
    makeDirectories(directory, 0o700);
    writeDurably(file, `${JSON.stringify(kept, undefined, 2)}\n`);
    records = kept;
  };
  const countWrong = (): void => {
    wrongAttempts += 1;
  };
  const assertAttempts = (): void => {
    const ms = clock.monotonicMs();
    if (ms >= minuteEndsMs) {
      minuteEndsMs = ms + MINUTE_MS;
      wrongAttempts = 0;
    }
    if (wrongAttempts < WRONG_ATTEMPTS_PER_MINUTE) return;
    throw new WarrenError({
      code: 'TOKEN_ATTEMPTS',
      message: `There were ${WRONG_ATTEMPTS_PER_MINUTE} attempts with wrong tokens within a minute.`,
      hint: 'wait a minute, then use the token that "warren token" printed',
    });
  };

  return {
    make(lifetimeMs) {
      const live = records.filter(({ expiresMs, usedBy }) => usedBy === null && expiresMs > nowMs());
      if (live.length >= RECORDS_MAX) {
        throw new WarrenError({
          code: 'TOKENS_TOO_MANY',
          message: `${RECORDS_MAX} tokens are waiting to be used.`,
          hint: 'use one of them, or wait until one ends',
        });
      }
      const secret = randomBytes(SECRET_BYTES).toString('base64url');
      const record = { hash: hashOf(secret).toString('hex'), expiresMs: nowMs() + lifetimeMs, usedBy: null };
      // The newest come first, so that what falls off the end are the oldest, which are used or ended.
      write([record, ...live, ...records.filter((old) => !live.includes(old))].slice(0, RECORDS_MAX));
      return { secret, record };
    },

    add(record) {
      const others = records.filter(({ hash }) => hash !== record.hash);
      write([record, ...others].slice(0, RECORDS_MAX));
    },

    redeem(secret, key) {
      assertAttempts();
      const hash = hashOf(secret);
      let found: SecretRecord | undefined;
      for (const record of records) {
        if (timingSafeEqual(Buffer.from(record.hash, 'hex'), hash)) found = record;
      }
      if (found === undefined) {
        countWrong();
        throw new WarrenError({
          code: 'TOKEN_UNKNOWN',
          message: 'This cluster did not give out that token, or has forgotten it.',
          hint: 'make a new one with "warren token" on a node of the cluster',
        });
      }
      if (found.expiresMs <= nowMs()) throw expired(found.expiresMs);
      if (found.usedBy === key) return found;
      if (found.usedBy !== null) {
        countWrong();
        throw new WarrenError({
          code: 'TOKEN_USED',
          message: 'Another machine has used that token.',
          hint: 'a token is for one machine: make a new one with "warren token"',
        });
      }
      const used = { ...found, usedBy: key };
      write(records.map((record) => (record.hash === used.hash ? used : record)));
      return used;
    },
  };
}

function readRecords(file: string): SecretRecord[] {
  try {
    return fileSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw new WarrenError({
      code: 'IDENTITY_DAMAGED',
      message: `${file} cannot be read: ${error instanceof Error ? error.message : String(error)}.`,
      hint: 'delete that file: tokens that were not used yet become worthless, nothing else is lost',
      cause: error,
    });
  }
}

function hashOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}
