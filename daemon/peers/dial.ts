/**
 * One attempt to reach one node: TCP, TLS, hello and hello. Several addresses are tried side by side, each a little
 * after the one before, and the first that answers as the right node wins.
 *
 * What can go wrong: nobody there, somebody else there (its certificate tells), a node that refuses us and says why, a
 * machine that accepts and then says nothing (the time limit covers everything up to the other's hello).
 */

import { connect } from 'node:tls';
import { parseAddress } from '../protocol/addresses.ts';
import { systemErrorCode } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';
import { type Lane, PEER_PROTOCOL_VERSION } from '../protocol/peer-api.ts';
import { RELEASE } from '../protocol/release.ts';
import { printable } from '../protocol/text.ts';
import { type CertifiedPeer } from './certificates.ts';
import { decodeHeader, encodeFrame, FRAME, type Frame } from './frames.ts';
import { type Hello, helloRefusal, type MemberBook, readHello } from './hello.ts';
import type { Identity } from './identity.ts';
import { DIAL_STAGGER_MS, DIAL_TIMEOUT_MS } from './limits.ts';
import { METHOD_NAMES } from './methods.ts';
import { certifiedPeer, secureContextOf, TLS_VERSIONS } from './tls-options.ts';
import { readFarewell, Wire } from './wire.ts';

/** Why an attempt failed. `nobody`: its machine says that nothing listens there. `unwelcome`: it, or we, refused. */
export class DialError extends Error {
  override readonly name = 'DialError';
  readonly kind: 'nobody' | 'unwelcome' | 'failed';
  constructor(kind: 'nobody' | 'unwelcome' | 'failed', message: string) {
    super(message);
    this.kind = kind;
  }
}

export interface Dialled {
  readonly wire: Wire;
  readonly address: string;
  readonly hello: Hello;
  readonly peer: CertifiedPeer;
}

export interface DialOptions {
  readonly to: NodeId;
  readonly lane: Lane;
  readonly identity: Identity;
  readonly book: MemberBook;
  readonly signal: AbortSignal;
  /** Told of each address that failed while others are still tried. */
  readonly onFailure?: (address: string, error: DialError) => void;
}

/** The first of `addresses` that answers. Errors: DialError of the first address. */
export async function dial(addresses: readonly string[], options: DialOptions): Promise<Dialled> {
  const [first] = addresses;
  if (first === undefined) throw new DialError('failed', 'no address of it is known');
  if (addresses.length === 1) return dialAddress(first, options);
  const ended = new AbortController();
  const signal = AbortSignal.any([options.signal, ended.signal]);
  let previous: Promise<unknown> = Promise.resolve();
  const attempts = addresses.map((address, index) => {
    const turn = index === 0 ? Promise.resolve() : settledOrAfter(previous, DIAL_STAGGER_MS);
    const attempt = turn.then(() => dialAddress(address, { ...options, signal }));
    attempt.catch((error: unknown) => {
      if (error instanceof DialError && !signal.aborted) options.onFailure?.(address, error);
    });
    previous = attempt;
    return attempt;
  });
  try {
    const winner = await Promise.any(attempts);
    for (const attempt of attempts) {
      // A second one that got through at the same moment.
      attempt.then(
        ({ wire }) => (wire === winner.wire ? undefined : wire.destroy('another address answered first')),
        () => {},
      );
    }
    return winner;
  } catch (error) {
    throw error instanceof AggregateError ? (error.errors[0] as unknown) : error;
  } finally {
    ended.abort();
  }
}

function settledOrAfter(attempt: Promise<unknown>, delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, delayMs);
    attempt.then(
      () => {},
      () => {
        clearTimeout(timer);
        resolve();
      },
    );
  });
}

function dialAddress(address: string, options: DialOptions): Promise<Dialled> {
  const { signal, identity } = options;
  return new Promise((resolve, reject) => {
    const target = parseAddress(address);
    if (target === undefined) {
      return reject(new DialError('failed', `"${printable(address)}" is not an address and port`));
    }
    if (signal.aborted) return reject(new DialError('failed', 'the attempt was given up'));
    const socket = connect({
      ...TLS_VERSIONS,
      secureContext: secureContextOf(identity),
      host: target.host,
      port: target.port,
      // Names of machines mean nothing here: the certificate must be that of the node, which is checked below.
      checkServerIdentity: () => undefined,
      rejectUnauthorized: true,
    });
    let failure: DialError | undefined;
    socket.on('error', (error) => {
      failure ??= connectError(error, address);
    });
    const wire = new Wire(socket, {
      onFrame: (frame) => onFirstFrame(frame),
      onClose: (reason) => finish(failure ?? new DialError('failed', `${address}: ${reason}`)),
    });
    const timer = setTimeout(() => {
      wire.destroy(`no answer within ${DIAL_TIMEOUT_MS / 1000} s`);
    }, DIAL_TIMEOUT_MS);
    const onAbort = (): void => wire.destroy('the attempt was given up');
    signal.addEventListener('abort', onAbort, { once: true });
    const finish = (outcome: DialError | Dialled): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      if (outcome instanceof DialError) {
        reject(outcome);
        if (!wire.closed) wire.destroy(outcome.message);
      } else {
        resolve(outcome);
      }
    };
    socket.once('secureConnect', () => {
      const peer = certifiedPeer(socket);
      if (peer === undefined || peer.id !== options.to) {
        const who = peer === undefined ? 'something without a certificate of a node' : `node "${peer.id}"`;
        return finish(new DialError('unwelcome', `${address} is ${who}, not "${options.to}"`));
      }
      wire.send(encodeFrame({ kind: FRAME.hello, header: ownHello(options) }));
    });
    const onFirstFrame = (frame: Frame): void => {
      const answer = judgeAnswer(frame, certifiedPeer(socket), options);
      if (answer instanceof DialError) return finish(answer);
      wire.trust();
      finish({ ...answer, wire, address });
    };
  });
}

function ownHello({ identity, lane, book }: DialOptions): Hello & { protocol: number } {
  return {
    protocol: PEER_PROTOCOL_VERSION,
    release: RELEASE,
    cluster: identity.clusterId,
    node: identity.nodeId,
    lane,
    members: book.version,
    methods: [...METHOD_NAMES],
  };
}

function judgeAnswer(
  frame: Frame,
  peer: CertifiedPeer | undefined,
  options: DialOptions,
): DialError | { hello: Hello; peer: CertifiedPeer } {
  if (frame.kind === FRAME.farewell) {
    const { message } = readFarewell(frame);
    return new DialError('unwelcome', `it refuses this node: ${printable(message)}`);
  }
  if (frame.kind !== FRAME.hello || peer === undefined) {
    return new DialError('unwelcome', 'it did not answer with a hello');
  }
  const read = readHello(decodeHeader(frame.header));
  if ('refusal' in read) return new DialError('unwelcome', read.refusal.message);
  const refusal = helloRefusal({ hello: read.hello, peer, identity: options.identity, book: options.book });
  return refusal === undefined ? { hello: read.hello, peer } : new DialError('unwelcome', refusal.message);
}

function connectError(error: Error, address: string): DialError {
  const code = systemErrorCode(error);
  if (code === 'ECONNREFUSED') return new DialError('nobody', `nothing listens on ${address}`);
  const reason = code === undefined ? error.message : `${error.message} (${code})`;
  return new DialError('failed', `${address}: ${reason}`);
}
