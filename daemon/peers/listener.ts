/**
 * The port of this node: everything that strangers can reach.
 *
 * What can go wrong: strangers. Plain HTTP, garbage, no certificate, a certificate of another cluster, a handshake that
 * never ends, more connections than a cluster has. Each costs one connection for a few seconds and at most one log line
 * in a while. What has not said and shown who it is counts against UNPROVEN_MAX, where the oldest gives way, so that
 * idlers cannot keep members out.
 *
 * A connection with a certificate of this cluster begins with a hello and becomes a lane of calls. One without a
 * certificate can ask to join, once.
 */

import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { formatAddress, parseAddress } from '../protocol/addresses.ts';
import { describeError, systemErrorCode, WarrenError } from '../protocol/errors.ts';
import { PEER_PROTOCOL_VERSION } from '../protocol/peer-api.ts';
import { RELEASE } from '../protocol/release.ts';
import { printable } from '../protocol/text.ts';
import { type CertifiedPeer, checkRequest } from './certificates.ts';
import { decodeHeader, encodeFrame, FRAME, type Frame } from './frames.ts';
import {
  type Hello,
  helloRefusal,
  type MemberBook,
  type Refusal,
  readHello,
  versionRefusal,
} from './hello.ts';
import type { Identity } from './identity.ts';
import { type JoinAnswer, type JoinHandler, joinRequestSchema } from './join-messages.ts';
import { CONNECTIONS_MAX, HELLO_TIMEOUT_MS, UNPROVEN_MAX } from './limits.ts';
import { METHOD_NAMES } from './methods.ts';
import type { QuietLog } from './quiet-log.ts';
import { certifiedPeer, secureOptions } from './tls-options.ts';
import { Wire } from './wire.ts';

/** A join is an operation of the whole cluster: it may have to wait for a leader. */
const JOIN_TIMEOUT_MS = 30_000;

export interface Accepted {
  readonly wire: Wire;
  readonly hello: Hello;
  readonly peer: CertifiedPeer;
}

export interface ListenerOptions {
  /** `host:port`; port 0 takes a free one. */
  readonly bind: string;
  readonly identity: () => Identity;
  readonly book: () => MemberBook;
  readonly log: QuietLog;
  readonly onAccepted: (accepted: Accepted) => void;
  readonly onJoin: JoinHandler;
}

export interface Listener {
  readonly address: string;
  /** New connections see the identity as it is now. */
  renewed(): void;
  close(): Promise<void>;
}

/** A connection that has not shown who it is. */
interface Unproven {
  readonly socket: Socket;
  timer: NodeJS.Timeout;
}

/** Errors: PEER_BIND_INVALID, PEER_PORT_IN_USE, PEER_BIND_FAILED. */
export async function openListener(options: ListenerOptions): Promise<Listener> {
  const { log } = options;
  const unproven = new Map<string, Unproven>();
  const sockets = new Set<Socket>();
  const refuse = (from: string, reason: string): void => {
    const host = parseAddress(from)?.host ?? from;
    log.warn(`refused ${host}`, 'a connection was refused', { from: host, reason });
  };
  const server = createServer({
    ...secureOptions(options.identity()),
    requestCert: true,
    // Who has no certificate may still ask to join; every use of a connection looks at `authorized`.
    rejectUnauthorized: false,
    handshakeTimeout: HELLO_TIMEOUT_MS,
    noDelay: true,
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.on('drop', (data) => {
    refuse(data?.remoteAddress ?? 'unknown', `there are ${CONNECTIONS_MAX} connections already`);
  });
  server.on('connection', (socket: Socket) => {
    const from = remoteOf(socket);
    sockets.add(socket);
    const expired = (): void => {
      refuse(from, `it did not say who it is within ${HELLO_TIMEOUT_MS / 1000} s`);
      socket.destroy();
    };
    const entry: Unproven = { socket, timer: setTimeout(expired, HELLO_TIMEOUT_MS) };
    unproven.set(from, entry);
    socket.once('close', () => {
      sockets.delete(socket);
      clearTimeout(entry.timer);
      if (unproven.get(from) === entry) unproven.delete(from);
    });
    for (const [oldest, { socket }] of unproven) {
      if (unproven.size <= UNPROVEN_MAX) break;
      refuse(oldest, 'too many connections do not say who they are');
      unproven.delete(oldest);
      socket.destroy();
    }
  });
  server.on('tlsClientError', (error, socket) => {
    const left = systemErrorCode(error) === 'ECONNRESET';
    refuse(remoteOf(socket), left ? 'it left during the TLS handshake' : `no TLS: ${error.message}`);
    socket.destroy();
  });
  server.on('secureConnection', (socket) => {
    const from = remoteOf(socket);
    greet(socket, {
      ...options,
      from,
      refuse: (reason) => refuse(from, reason),
      proven: () => {
        clearTimeout(unproven.get(from)?.timer);
        unproven.delete(from);
      },
      extend: () => {
        const entry = unproven.get(from);
        if (entry === undefined) return;
        clearTimeout(entry.timer);
        entry.timer = setTimeout(() => entry.socket.destroy(), JOIN_TIMEOUT_MS);
      },
    });
  });
  const address = await listen(server, options.bind);
  server.on('error', (error) =>
    log.error('accept', 'a connection could not be accepted', { reason: error.message }),
  );
  return {
    address,
    renewed: () => server.setSecureContext(secureOptions(options.identity())),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

interface Greeting extends ListenerOptions {
  readonly from: string;
  readonly refuse: (reason: string) => void;
  readonly proven: () => void;
  readonly extend: () => void;
}

function greet(socket: TLSSocket, greeting: Greeting): void {
  const shown = socket.getPeerX509Certificate() !== undefined;
  const peer = certifiedPeer(socket);
  // An error of the handshake's end may come before there is a wire.
  if (shown && peer === undefined) {
    socket.on('error', () => {});
    const why = socket.authorizationError;
    greeting.refuse(`its certificate is none of this cluster (${why instanceof Error ? why.message : why})`);
    socket.destroy();
    return;
  }
  const silent = {
    onFrame: () => {},
    onClose: (reason: string, fault: boolean) => fault && greeting.refuse(reason),
  };
  const wire = new Wire(socket, {
    onFrame: (frame) => {
      wire.own(silent);
      if (peer !== undefined) welcome(wire, frame, peer, greeting);
      else if (frame.kind === FRAME.join) void answerJoin(wire, frame, greeting);
      else
        dismiss(wire, greeting, { code: 'stranger', message: 'A node without a certificate can only join.' });
    },
    onClose: (reason) => greeting.refuse(`it ended before it said who it is: ${reason}`),
  });
}

function welcome(wire: Wire, frame: Frame, peer: CertifiedPeer, greeting: Greeting): void {
  if (frame.kind !== FRAME.hello) {
    return dismiss(wire, greeting, { code: 'garbage', message: 'A connection did not begin with a hello.' });
  }
  const read = readHello(decodeHeader(frame.header));
  if ('refusal' in read) return dismiss(wire, greeting, read.refusal);
  const { hello } = read;
  const identity = greeting.identity();
  const book = greeting.book();
  const refusal = helloRefusal({ hello, peer, identity, book });
  if (refusal !== undefined) return dismiss(wire, greeting, refusal);
  greeting.proven();
  wire.trust();
  greeting.onAccepted({ wire, hello, peer });
  const answer: Hello = {
    protocol: PEER_PROTOCOL_VERSION,
    release: RELEASE,
    cluster: identity.clusterId,
    node: identity.nodeId,
    lane: hello.lane,
    members: book.version,
    methods: [...METHOD_NAMES],
  };
  wire.send(encodeFrame({ kind: FRAME.hello, header: answer }));
}

function dismiss(wire: Wire, greeting: Greeting, refusal: Refusal): void {
  greeting.refuse(refusal.message);
  wire.farewell(refusal.code, refusal.message);
}

async function answerJoin(wire: Wire, frame: Frame, greeting: Greeting): Promise<void> {
  greeting.extend();
  let answer: JoinAnswer;
  try {
    answer = await judgeJoin(decodeHeader(frame.header), greeting);
  } catch (error) {
    const known = error instanceof WarrenError;
    if (!known) {
      greeting.log.error('join', 'a request to join failed', {
        from: greeting.from,
        reason: describeError(error),
      });
    }
    answer = {
      kind: 'refused',
      code: known ? error.code : 'JOIN_FAILED',
      message: known ? error.message.slice(0, 500) : 'The other node could not admit this one.',
      hint: known ? error.hint.slice(0, 500) : 'its log says why',
    };
  }
  if (answer.kind === 'refused') greeting.refuse(`a request to join was refused: ${answer.message}`);
  wire.send(encodeFrame({ kind: FRAME.joined, header: answer }), undefined, () => wire.socket.end());
}

async function judgeJoin(message: unknown, greeting: Greeting): Promise<JoinAnswer> {
  const other = versionRefusal(message);
  if (other !== undefined) return refusedJoin('JOIN_RELEASE', other.message);
  const parsed = joinRequestSchema.safeParse(message);
  if (!parsed.success) return refusedJoin('JOIN_INVALID', 'The request to join was not understood.');
  const { secret, node, request, role, release } = parsed.data;
  const address = completeAddress(parsed.data.address, greeting.from);
  if (address === undefined) {
    return refusedJoin('JOIN_INVALID', `"${printable(parsed.data.address)}" is not an address and port.`);
  }
  const { key } = await checkRequest(request);
  return greeting.onJoin({ secret, node, request, key, role, address, release });
}

function refusedJoin(code: string, message: string): JoinAnswer {
  return { kind: 'refused', code, message, hint: 'install the same release of Warren on both machines' };
}

/** An address that others can use: a wildcard host stands for where the request comes from. */
function completeAddress(address: string, from: string): string | undefined {
  const parsed = parseAddress(address);
  const source = parseAddress(from);
  if (parsed === undefined || source === undefined || parsed.port === 0) return undefined;
  const wildcard = parsed.host === '0.0.0.0' || parsed.host === '::';
  return wildcard ? formatAddress({ host: source.host, port: parsed.port }) : address;
}

async function listen(server: Server, bind: string): Promise<string> {
  const target = parseAddress(bind);
  if (target === undefined) {
    throw new WarrenError({
      code: 'PEER_BIND_INVALID',
      message: `"${bind}" is not an address and port to listen on.`,
      hint: 'set bind in section [node], for example to "0.0.0.0:9500"',
    });
  }
  await new Promise<void>((resolve, reject) => {
    const fail = (error: Error): void => reject(bindError(bind, error));
    server.once('error', fail);
    server.listen({ host: target.host, port: target.port }, () => {
      server.off('error', fail);
      resolve();
    });
  });
  const bound = server.address();
  return bound === null || typeof bound === 'string'
    ? bind
    : formatAddress({ host: bound.address, port: bound.port });
}

function bindError(bind: string, error: Error): WarrenError {
  const code = systemErrorCode(error);
  if (code === 'EADDRINUSE') {
    return new WarrenError({
      code: 'PEER_PORT_IN_USE',
      message: `Another program listens on ${bind}, where this node should.`,
      hint: 'stop it ("ss -ltnp" names it), or set another bind in section [node]',
      cause: error,
    });
  }
  return new WarrenError({
    code: 'PEER_BIND_FAILED',
    message: `This node cannot listen on ${bind}: ${error.message}.`,
    hint: 'set bind in section [node] to an address of this machine and a port that this user may take',
    cause: error,
  });
}

/** IPv4 in its own form also where it arrives on an IPv6 socket. */
function remoteOf(socket: Socket): string {
  const host = (socket.remoteAddress ?? 'unknown').replace(/^::ffff:(?=\d+\.)/, '');
  return formatAddress({ host, port: socket.remotePort ?? 0 });
}
