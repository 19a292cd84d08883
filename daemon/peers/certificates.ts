/**
 * Certificates of a cluster: one authority (CA) that is made with the first node, and one certificate for each node.
 *
 * What a certificate says: the subject and an URI in the alternative names carry the NodeId, the issuer carries the
 * cluster. Nothing else is trusted from it; what a node may do is what the member list says.
 *
 * What can go wrong: machines whose clocks differ by hours or stand years back. So certificates begin a year before
 * they are made, and live long: they are no means of revocation, the member list is.
 */

import 'reflect-metadata';
import { createHash, createPublicKey, type KeyObject, type webcrypto, X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { nodeIdSchema } from '../protocol/config-keys.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';

const DAY_MS = 86_400_000;
export const CLOCK_TOLERANCE_MS = 365 * DAY_MS;
const AUTHORITY_LIFETIME_MS = 30 * 365 * DAY_MS;
/** Nodes that hold the CA key renew for themselves; a client has nobody to sign and gets the CA's own end. */
const NODE_LIFETIME_MS = 2 * 365 * DAY_MS;
const NODE_URI_PREFIX = 'urn:warren:node:';
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** PEM texts; a key is PKCS #8. */
export interface KeyAndCertificate {
  readonly certificate: string;
  readonly key: string;
}

/** What another node's certificate says once the CA's signature on it was checked. */
export interface CertifiedPeer {
  readonly id: NodeId;
  readonly clusterId: string;
  /** SHA-256 of its public key, as in the member list. */
  readonly key: string;
}

/** A new authority for `clusterId`. */
export async function makeAuthority(clusterId: string, nowMs: number): Promise<KeyAndCertificate> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: authorityName(clusterId),
    notBefore: new Date(nowMs - CLOCK_TOLERANCE_MS),
    notAfter: new Date(nowMs + AUTHORITY_LIFETIME_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: certificate.toString('pem'), key: await privatePem(keys.privateKey) };
}

/** A new private key, as PEM. */
export async function makeKey(): Promise<string> {
  return privatePem((await newKeys()).privateKey);
}

/** A request to be certified (PKCS #10): proves that who asks holds the key. */
export async function makeRequest(key: string, id: NodeId): Promise<string> {
  const keys = await importKeys(key);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: [id] }],
    keys,
    signingAlgorithm: ALGORITHM,
  });
  return request.toString('pem');
}

/** The fingerprint of the key in a request. Errors: CERTIFICATE_REQUEST_INVALID. */
export async function checkRequest(request: string): Promise<{ readonly key: string }> {
  try {
    const parsed = new x509.Pkcs10CertificateRequest(request);
    const algorithm = parsed.publicKey.algorithm as { readonly name: string; readonly namedCurve?: string };
    if (algorithm.name === 'ECDSA' && algorithm.namedCurve === 'P-256' && (await parsed.verify())) {
      return { key: fingerprintOf(spkiKey(parsed.publicKey.rawData)) };
    }
  } catch {
    // Whatever the parser does not like is the same to the one who sent it.
  }
  throw new WarrenError({
    code: 'CERTIFICATE_REQUEST_INVALID',
    message: 'A certificate request is not one, or is not signed by its own ECDSA P-256 key.',
    hint: 'run the same release of Warren on both machines',
  });
}

/** Certifies the key of `publicKey` (a request or a certificate, PEM) as node `id`. `longLived`: as long as the CA. */
export async function issueCertificate(options: {
  readonly authority: KeyAndCertificate;
  readonly publicKey: string;
  readonly id: NodeId;
  readonly clusterId: string;
  readonly nowMs: number;
  readonly longLived?: boolean;
}): Promise<string> {
  const { authority, clusterId, id, nowMs } = options;
  const issuer = new x509.X509Certificate(authority.certificate);
  const publicKey = options.publicKey.includes('CERTIFICATE REQUEST')
    ? new x509.Pkcs10CertificateRequest(options.publicKey).publicKey
    : new x509.X509Certificate(options.publicKey).publicKey;
  const endMs =
    options.longLived === true
      ? issuer.notAfter.getTime()
      : Math.min(nowMs + NODE_LIFETIME_MS, issuer.notAfter.getTime());
  const certificate = await x509.X509CertificateGenerator.create({
    subject: [{ CN: [id] }, { O: [clusterId] }],
    issuer: issuer.subjectName,
    notBefore: new Date(nowMs - CLOCK_TOLERANCE_MS),
    notAfter: new Date(endMs),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: (await importKeys(authority.key)).privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([
        x509.ExtendedKeyUsage.serverAuth,
        x509.ExtendedKeyUsage.clientAuth,
      ]),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: NODE_URI_PREFIX + id }]),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return certificate.toString('pem');
}

/** What a checked certificate says, or undefined when it is not a node's. */
export function readPeer(certificate: X509Certificate): CertifiedPeer | undefined {
  const clusterId = fieldOf(certificate.issuer, 'O');
  const id = fieldOf(certificate.subject, 'CN');
  if (id === undefined || clusterId === undefined || !nodeIdSchema.safeParse(id).success) return undefined;
  if (certificate.subjectAltName !== `URI:${NODE_URI_PREFIX}${id}`) return undefined;
  return { id: id as NodeId, clusterId, key: fingerprintOf(certificate.publicKey) };
}

/** The cluster that an authority's certificate stands for. */
export function clusterOf(authority: X509Certificate): string | undefined {
  return fieldOf(authority.subject, 'O');
}

/** SHA-256 of the public key (SPKI), hexadecimal. */
export function fingerprintOf(key: KeyObject): string {
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

function fieldOf(name: string, field: string): string | undefined {
  const line = name.split('\n').find((line) => line.startsWith(`${field}=`));
  return line?.slice(field.length + 1);
}

function authorityName(clusterId: string): { [type: string]: string[] }[] {
  return [{ CN: ['Warren CA'] }, { O: [clusterId] }];
}

function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

async function importKeys(pem: string): Promise<webcrypto.CryptoKeyPair> {
  const der = x509.PemConverter.decodeFirst(pem);
  const publicDer = createPublicKey(pem).export({ type: 'spki', format: 'der' });
  return {
    privateKey: await crypto.subtle.importKey('pkcs8', der, ALGORITHM, true, ['sign']),
    publicKey: await crypto.subtle.importKey('spki', publicDer, ALGORITHM, true, ['verify']),
  };
}

async function privatePem(key: webcrypto.CryptoKey): Promise<string> {
  return `${x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

function spkiKey(der: ArrayBuffer): KeyObject {
  return createPublicKey({ key: Buffer.from(der), type: 'spki', format: 'der' });
}
