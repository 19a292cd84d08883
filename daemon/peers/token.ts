/**
 * Tokens: what a person carries from a node of the cluster to a machine that shall join it. One word of text,
 * `wtk1` and base64url: where nodes are reached, the fingerprint of the cluster's authority (so that the new machine
 * knows that it talks to the right cluster before it says the secret), a secret that works once, and an end.
 */

import { z } from 'zod';
import { WarrenError } from '../protocol/errors.ts';

const PREFIX = 'wtk1';
const FINGERPRINT_BYTES = 32;
export const SECRET_BYTES = 24;
const ADDRESSES_MAX = 20;
/** Clocks of machines that meet for the first time may differ; who gave the token decides in the end. */
const CLOCK_TOLERANCE_MS = 12 * 3_600_000;

export interface Token {
  /** `host:port` of nodes that can be asked, likeliest first. */
  readonly addresses: readonly string[];
  /** SHA-256 of the authority's public key, hexadecimal. */
  readonly authorityFingerprint: string;
  /** base64url. */
  readonly secret: string;
  /** Milliseconds since 1970. */
  readonly expiresMs: number;
}

/** `e` is in whole seconds. */
const contentSchema = z.object({
  a: z.array(z.string().min(1).max(300)).min(1).max(ADDRESSES_MAX),
  f: z.string(),
  s: z.string(),
  e: z.number().int().positive(),
});

export function makeToken(token: Token): string {
  const content = {
    a: token.addresses.slice(0, ADDRESSES_MAX),
    f: Buffer.from(token.authorityFingerprint, 'hex').toString('base64url'),
    s: token.secret,
    e: Math.floor(token.expiresMs / 1000),
  };
  return PREFIX + Buffer.from(JSON.stringify(content)).toString('base64url');
}

/** Errors: TOKEN_INVALID, TOKEN_EXPIRED. */
export function readToken(text: string, nowMs: number): Token {
  // Mail and terminals break long words.
  const word = text.replaceAll(/\s/g, '');
  if (!word.startsWith(PREFIX)) throw invalid(`it does not begin with "${PREFIX}"`);
  const encoded = word.slice(PREFIX.length);
  const bytes = Buffer.from(encoded, 'base64url');
  if (bytes.toString('base64url') !== encoded) throw invalid('it was cut off or changed');
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    throw invalid('it was cut off or changed');
  }
  const parsed = contentSchema.safeParse(value);
  if (!parsed.success) throw invalid('it was cut off or changed');
  const { a, f, s, e } = parsed.data;
  const fingerprint = Buffer.from(f, 'base64url');
  if (fingerprint.length !== FINGERPRINT_BYTES || Buffer.from(s, 'base64url').length !== SECRET_BYTES) {
    throw invalid('it was cut off or changed');
  }
  const expiresMs = e * 1000;
  if (nowMs > expiresMs + CLOCK_TOLERANCE_MS) throw expired(expiresMs);
  return { addresses: a, authorityFingerprint: fingerprint.toString('hex'), secret: s, expiresMs };
}

export function expired(expiresMs: number): WarrenError {
  return new WarrenError({
    code: 'TOKEN_EXPIRED',
    message: `The token was good until ${new Date(expiresMs).toISOString()}.`,
    hint: 'make a new one with "warren token" on a node of the cluster',
  });
}

function invalid(reason: string): WarrenError {
  return new WarrenError({
    code: 'TOKEN_INVALID',
    message: `This is not a token: ${reason}.`,
    hint: 'copy the whole word that "warren token" printed',
  });
}
