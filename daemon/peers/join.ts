/**
 * The joining side: a machine with a token becomes a node with a certificate.
 *
 * It asks the addresses of the token in turn and goes where it is sent (only the leader admits). Before the secret is
 * said, the other side must have shown a certificate under the authority whose fingerprint stands in the token; so a
 * machine in the middle learns nothing. The private key never leaves this machine, and is on its disk before the first
 * attempt: an answer that was lost is fetched again with the same token.
 */

import { X509Certificate } from 'node:crypto';
import { connect, type TLSSocket } from 'node:tls';
import { parseAddress } from '../protocol/addresses.ts';
import type { Member, Role } from '../protocol/cluster.ts';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { NodeId, Version } from '../protocol/ids.ts';
import { PEER_PROTOCOL_VERSION } from '../protocol/peer-api.ts';
import { RELEASE } from '../protocol/release.ts';
import { printable } from '../protocol/text.ts';
import { fingerprintOf, makeRequest } from './certificates.ts';
import { decodeHeader, encodeFrame, FRAME, type Frame } from './frames.ts';
import { type Identity, pendingKey, storeIdentity } from './identity.ts';
import {
  type Admission,
  type JoinAnswer,
  joinAnswerSchema,
  type JoinRequestMessage,
} from './join-messages.ts';
import type { Token } from './token.ts';
import { TLS_VERSIONS } from './tls-options.ts';
import { readFarewell, Wire } from './wire.ts';

const REDIRECTS_MAX = 5;
const ATTEMPT_TIMEOUT_MS = 40_000;
const CONNECT_TIMEOUT_MS = 10_000;

export interface JoinOptions {
  readonly token: Token;
  readonly dataDirectory: string;
  readonly nodeId: NodeId;
  readonly role: Role;
  /** Where the others shall reach this node; "0.0.0.0:9500" stands for the address that the leader sees. */
  readonly address: string;
}

export interface Joined {
  readonly identity: Identity;
  readonly clusterName: string;
  readonly number: number;
  readonly members: readonly Member[];
  readonly membersVersion: Version;
}

/**
 * Asks to be admitted and stores the identity. Errors: JOIN_UNREACHABLE, JOIN_WRONG_CLUSTER, JOIN_NO_LEADER, and those
 * that the leader answers (TOKEN_UNKNOWN, TOKEN_EXPIRED, TOKEN_USED, …).
 */
export async function joinCluster(options: JoinOptions): Promise<Joined> {
  const { token, nodeId } = options;
  const key = await pendingKey(options.dataDirectory);
  const message: JoinRequestMessage = {
    protocol: PEER_PROTOCOL_VERSION,
    release: RELEASE,
    secret: token.secret,
    node: nodeId,
    request: await makeRequest(key, nodeId),
    role: options.role,
    address: options.address,
  };
  const admission = await findAdmission(token, message);
  const identity = storeIdentity(options.dataDirectory, {
    authority: admission.authority,
    authorityKey: admission.authorityKey ?? undefined,
    certificate: admission.certificate,
    key,
  });
  return {
    identity,
    clusterName: admission.clusterName,
    number: admission.number,
    members: admission.members,
    membersVersion: admission.membersVersion as Version,
  };
}

async function findAdmission(token: Token, message: JoinRequestMessage): Promise<Admission> {
  const queue = [...token.addresses];
  const asked = new Set<string>();
  let redirects = 0;
  let leaderless = false;
  const failures: string[] = [];
  for (let address = queue.shift(); address !== undefined; address = queue.shift()) {
    if (asked.has(address)) continue;
    asked.add(address);
    const answer = await ask(address, token, message).catch((error: unknown) => {
      if (error instanceof WarrenError) throw error;
      failures.push(error instanceof Error ? error.message : String(error));
      return undefined;
    });
    if (answer === undefined) continue;
    if (answer.kind === 'admitted') return checkAdmission(answer, token);
    if (answer.kind === 'refused') {
      const { code, hint } = answer;
      throw new WarrenError({ code, message: printable(answer.message), hint: printable(hint) });
    }
    if (answer.address === null) {
      leaderless = true;
    } else if (redirects < REDIRECTS_MAX) {
      redirects += 1;
      queue.unshift(answer.address);
    }
  }
  throw leaderless ? noLeader() : unreachable(failures);
}

function checkAdmission(admission: Admission, token: Token): Admission {
  const authority = new X509Certificate(admission.authority);
  if (fingerprintOf(authority.publicKey) !== token.authorityFingerprint) throw wrongCluster('the leader');
  return admission;
}

/** One question to one node. A WarrenError ends the whole attempt, another error only this address. */
function ask(address: string, token: Token, message: JoinRequestMessage): Promise<JoinAnswer> {
  return new Promise((resolve, reject) => {
    const target = parseAddress(address);
    if (target === undefined) return reject(new Error(`"${printable(address)}" is not an address and port`));
    // No authority is known yet: the chain is checked below, against the token.
    const socket = connect({ ...TLS_VERSIONS, ...target, rejectUnauthorized: false });
    let failure: Error | undefined;
    socket.on('error', (error) => {
      const code = systemErrorCode(error);
      failure ??= new Error(
        code === 'ECONNREFUSED' ? `nothing listens on ${address}` : `${address}: ${error.message}`,
      );
    });
    const timers = new Set<NodeJS.Timeout>();
    const end = (outcome: Error | JoinAnswer): void => {
      for (const timer of timers) clearTimeout(timer);
      if (outcome instanceof Error) reject(outcome);
      else resolve(outcome);
      socket.destroy();
    };
    const wire = new Wire(socket, {
      onFrame: (frame) => end(readAnswer(frame, address)),
      onClose: (reason) => end(failure ?? new Error(`${address}: the connection ended: ${reason}`)),
    });
    const giveUp = (): void => end(new Error(`${address} did not answer in time`));
    const connecting = setTimeout(giveUp, CONNECT_TIMEOUT_MS);
    timers.add(connecting).add(setTimeout(giveUp, ATTEMPT_TIMEOUT_MS));
    socket.once('secureConnect', () => {
      clearTimeout(connecting);
      if (!isUnder(socket, token.authorityFingerprint)) return end(wrongCluster(address));
      wire.send(encodeFrame({ kind: FRAME.join, header: message }));
    });
  });
}

/** Whether the other end has shown a certificate that the authority of the token has issued. */
function isUnder(socket: TLSSocket, authorityFingerprint: string): boolean {
  const chain = socket.getPeerCertificate(true);
  const raw = chain.issuerCertificate?.raw;
  if (chain.raw === undefined || raw === undefined) return false;
  const leaf = new X509Certificate(chain.raw);
  const authority = new X509Certificate(raw);
  return (
    fingerprintOf(authority.publicKey) === authorityFingerprint &&
    authority.ca &&
    leaf.checkIssued(authority) &&
    leaf.verify(authority.publicKey)
  );
}

function readAnswer(frame: Frame, address: string): Error | JoinAnswer {
  if (frame.kind === FRAME.farewell) {
    return new Error(`${address} refused: ${printable(readFarewell(frame).message)}`);
  }
  const parsed = joinAnswerSchema.safeParse(decodeHeader(frame.header));
  if (frame.kind === FRAME.joined && parsed.success) return parsed.data;
  return new Error(`${address} gave an answer that this release does not understand`);
}

function wrongCluster(who: string): WarrenError {
  return new WarrenError({
    code: 'JOIN_WRONG_CLUSTER',
    message: `${who} does not belong to the cluster that gave out the token; the secret was not sent.`,
    hint: 'make a new token on a node of the right cluster; if this was one, somebody is between the machines',
  });
}

function noLeader(): WarrenError {
  return new WarrenError({
    code: 'JOIN_NO_LEADER',
    message: 'The cluster was reached, and has no leader at the moment.',
    hint: 'look at "warren status" on a node of the cluster, then try again with the same token',
  });
}

function unreachable(failures: readonly string[]): WarrenError {
  return new WarrenError({
    code: 'JOIN_UNREACHABLE',
    message: `No node of the cluster could be asked: ${failures.join('; ')}.`,
    hint: 'check that a node of the cluster runs, and that its port can be reached from here',
  });
}
