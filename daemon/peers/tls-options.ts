/** What both ends of a connection ask of TLS, and what they know of the other end after the handshake. */

import type { X509Certificate } from 'node:crypto';
import { createSecureContext, type SecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { type CertifiedPeer, readPeer } from './certificates.ts';
import type { Identity } from './identity.ts';

/** AES-128 first: it is the fastest where the processor knows AES. */
export const TLS_VERSIONS = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
} as const;

export function secureOptions(identity: Identity): SecureContextOptions {
  return {
    ...TLS_VERSIONS,
    key: identity.key,
    // The authority goes along, so that a joining node can compare it with the fingerprint of its token.
    cert: `${identity.certificate.trimEnd()}\n${identity.authority}`,
    ca: identity.authority,
  };
}

const contexts = new WeakMap<Identity, SecureContext>();

/** The same, parsed once for all dials. */
export function secureContextOf(identity: Identity): SecureContext {
  let context = contexts.get(identity);
  if (context === undefined) {
    context = createSecureContext(secureOptions(identity));
    contexts.set(identity, context);
  }
  return context;
}

/** Whose certificate the other end has shown; undefined when it is none of this cluster's. */
export function certifiedPeer(socket: TLSSocket): CertifiedPeer | undefined {
  if (!socket.authorized) return undefined;
  const certificate: X509Certificate | undefined = socket.getPeerX509Certificate();
  return certificate === undefined ? undefined : readPeer(certificate);
}
