/**
 * Who this node is to the others: files below `<data_dir>/identity/`.
 *
 * `ca.crt` the cluster's authority, `ca.key` its key (on every storing node, so that whoever leads can admit nodes),
 * `node.key`, `node.crt`. Keys have mode 0600. Every file is durable and whole, or absent.
 *
 * What can go wrong: a crash half-way (`node.crt` is written last: without it there is no identity yet, and a second
 * attempt goes on with the keys that are there, so that a key which was admitted is not lost), files of another
 * cluster or of another node copied over, a key that others can read.
 */

import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { makeDirectories, writeDurably } from '../protocol/durable-files.ts';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Log } from '../runtime/log.ts';
import {
  clusterOf,
  fingerprintOf,
  issueCertificate,
  type KeyAndCertificate,
  makeAuthority,
  makeKey,
  makeRequest,
  readPeer,
} from './certificates.ts';

const DIRECTORY = 'identity';
const DIRECTORY_MODE = 0o700;
const KEY_MODE = 0o600;
const CERTIFICATE_MODE = 0o644;
/** A certificate is renewed when less than this is left of it. */
const RENEW_BEFORE_MS = 365 * 86_400_000;

export interface Identity {
  readonly nodeId: NodeId;
  readonly clusterId: string;
  /** PEM texts. */
  readonly authority: string;
  /** Where this node may certify others; clients have none. */
  readonly authorityKey: string | undefined;
  readonly certificate: string;
  readonly key: string;
  /** SHA-256 of the node's public key: `Member.key`. */
  readonly fingerprint: string;
  /** SHA-256 of the authority's public key, as tokens carry it. */
  readonly authorityFingerprint: string;
}

/** The identity of a data directory, undefined where there is none yet. Errors: IDENTITY_DAMAGED. */
export function loadIdentity(dataDirectory: string): Identity | undefined {
  const directory = join(dataDirectory, DIRECTORY);
  const certificate = readIfThere(join(directory, 'node.crt'));
  if (certificate === undefined) return undefined;
  const authority = readIfThere(join(directory, 'ca.crt'));
  const key = readIfThere(join(directory, 'node.key'));
  if (authority === undefined || key === undefined) throw damaged(directory, 'a file is missing');
  assertPrivateKeys(directory);
  return checkIdentity(directory, {
    authority,
    authorityKey: readIfThere(join(directory, 'ca.key')),
    certificate,
    key,
  });
}

/** Makes the authority of a new cluster and this node's certificate; goes on where an earlier attempt ended. */
export async function createIdentity(
  dataDirectory: string,
  options: { readonly clusterId: string; readonly nodeId: NodeId; readonly nowMs: number },
): Promise<Identity> {
  const { clusterId, nodeId, nowMs } = options;
  const existing = loadIdentity(dataDirectory);
  if (existing !== undefined) return existing;
  const authority = await makeAuthority(clusterId, nowMs);
  const key = await pendingKey(dataDirectory);
  const publicKey = await makeRequest(key, nodeId);
  const certificate = await issueCertificate({ authority, publicKey, id: nodeId, clusterId, nowMs });
  return storeIdentity(dataDirectory, {
    authority: authority.certificate,
    authorityKey: authority.key,
    certificate,
    key,
  });
}

/** The node's private key (PEM), made when it is missing: before a node asks to be admitted with it. */
export async function pendingKey(dataDirectory: string): Promise<string> {
  const directory = join(dataDirectory, DIRECTORY);
  const file = join(directory, 'node.key');
  const existing = readIfThere(file);
  if (existing !== undefined) return existing;
  const key = await makeKey();
  makeDirectories(directory, DIRECTORY_MODE);
  writeDurably(file, key, KEY_MODE);
  return key;
}

export interface IdentityTexts {
  readonly authority: string;
  readonly authorityKey: string | undefined;
  readonly certificate: string;
  readonly key: string;
}

/** Checks that the parts belong together and writes them. Errors: IDENTITY_DAMAGED. */
export function storeIdentity(dataDirectory: string, texts: IdentityTexts): Identity {
  const directory = join(dataDirectory, DIRECTORY);
  const identity = checkIdentity(directory, texts);
  makeDirectories(directory, DIRECTORY_MODE);
  writeDurably(join(directory, 'ca.crt'), texts.authority, CERTIFICATE_MODE);
  if (texts.authorityKey !== undefined) writeDurably(join(directory, 'ca.key'), texts.authorityKey, KEY_MODE);
  writeDurably(join(directory, 'node.key'), texts.key, KEY_MODE);
  writeDurably(join(directory, 'node.crt'), texts.certificate, CERTIFICATE_MODE);
  return identity;
}

/** The authority with its key. Errors: IDENTITY_CANNOT_ISSUE on a client. */
export function authorityOf(identity: Identity): KeyAndCertificate {
  if (identity.authorityKey !== undefined)
    return { certificate: identity.authority, key: identity.authorityKey };
  throw new WarrenError({
    code: 'IDENTITY_CANNOT_ISSUE',
    message: `Node "${identity.nodeId}" does not hold the key of the cluster's authority: it stores nothing.`,
    hint: 'ask a node that stores data',
  });
}

/**
 * Renews the certificate when it is due; the key stays, so the others need not be told. Answers the identity to go on
 * with. To be asked daily and at start.
 */
export async function renewIdentity(
  dataDirectory: string,
  identity: Identity,
  options: { readonly nowMs: number; readonly log: Log },
): Promise<Identity> {
  const { nowMs, log } = options;
  const until = new X509Certificate(identity.certificate).validToDate;
  if (until.getTime() - nowMs > RENEW_BEFORE_MS) return identity;
  if (identity.authorityKey === undefined) {
    log.warn('the certificate of this node runs out and only a storing node could renew it', {
      until: until.toISOString(),
    });
    return identity;
  }
  const certificate = await issueCertificate({
    authority: authorityOf(identity),
    publicKey: identity.certificate,
    id: identity.nodeId,
    clusterId: identity.clusterId,
    nowMs,
  });
  const { authority, authorityKey, key } = identity;
  const renewed = storeIdentity(dataDirectory, { authority, authorityKey, certificate, key });
  log.info('the certificate of this node was renewed', {
    until: new X509Certificate(certificate).validToDate.toISOString(),
  });
  return renewed;
}

function checkIdentity(directory: string, texts: IdentityTexts): Identity {
  try {
    const authority = new X509Certificate(texts.authority);
    const certificate = new X509Certificate(texts.certificate);
    const peer = readPeer(certificate);
    if (peer === undefined) throw damaged(directory, 'node.crt is not the certificate of a node');
    if (!certificate.verify(authority.publicKey) || peer.clusterId !== clusterOf(authority)) {
      throw damaged(directory, 'node.crt was not issued by ca.crt');
    }
    if (!certificate.checkPrivateKey(createPrivateKey(texts.key))) {
      throw damaged(directory, 'node.key does not belong to node.crt');
    }
    const { authorityKey } = texts;
    if (authorityKey !== undefined && !authority.checkPrivateKey(createPrivateKey(authorityKey))) {
      throw damaged(directory, 'ca.key does not belong to ca.crt');
    }
    return {
      ...texts,
      nodeId: peer.id,
      clusterId: peer.clusterId,
      fingerprint: peer.key,
      authorityFingerprint: fingerprintOf(authority.publicKey),
    };
  } catch (error) {
    if (error instanceof WarrenError) throw error;
    throw damaged(directory, error instanceof Error ? error.message : String(error), error);
  }
}

/** The fingerprint of a private key's public half. */
export function fingerprintOfKey(key: string): string {
  return fingerprintOf(createPublicKey(key));
}

function assertPrivateKeys(directory: string): void {
  for (const name of ['node.key', 'ca.key']) {
    const status = statSync(join(directory, name), { throwIfNoEntry: false });
    if (status !== undefined && (status.mode & 0o077) !== 0) {
      throw new WarrenError({
        code: 'IDENTITY_PERMISSIONS',
        message: `Other users may read ${join(directory, name)}.`,
        hint: `run "chmod 600 ${join(directory, name)}"; if somebody else has read it, this node must join anew`,
      });
    }
  }
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw damaged(file, error instanceof Error ? error.message : String(error), error);
  }
}

function damaged(place: string, reason: string, cause?: unknown): WarrenError {
  return new WarrenError({
    code: 'IDENTITY_DAMAGED',
    message: `The identity of this node in ${place} cannot be used: ${reason}.`,
    hint: 'restore the folder "identity" from a backup, or remove this node from the cluster and join it anew',
    cause,
  });
}
