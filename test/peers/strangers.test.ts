import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { get } from 'node:http';
import { connect as connectPlain, type Socket } from 'node:net';
import { connect, type TLSSocket } from 'node:tls';
import { type TestContext, test } from 'node:test';
import { decodeHeader, encodeFrame, FRAME, FrameReader } from '../../daemon/peers/frames.ts';
import type { Identity } from '../../daemon/peers/identity.ts';
import { HELLO_TIMEOUT_MS, UNPROVEN_MAX } from '../../daemon/peers/limits.ts';
import { METHOD_NAMES } from '../../daemon/peers/methods.ts';
import { secureOptions } from '../../daemon/peers/tls-options.ts';
import { parseAddress } from '../../daemon/protocol/addresses.ts';
import { PEER_PROTOCOL_VERSION } from '../../daemon/protocol/peer-api.ts';
import { A, B, connected, introduce, makeCluster, type TestNode, until } from './cluster.ts';

function target(node: TestNode): { host: string; port: number } {
  return parseAddress(node.peers.address)!;
}

/** A TLS connection with the certificate of `identity`, or without one. */
async function dialRaw(context: TestContext, node: TestNode, identity?: Identity): Promise<TLSSocket> {
  const socket = connect({
    ...(identity === undefined ? { minVersion: 'TLSv1.3' as const } : secureOptions(identity)),
    ...target(node),
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  });
  context.after(() => socket.destroy());
  socket.on('error', () => {});
  await once(socket, 'secureConnect');
  return socket;
}

async function closed(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on('data', (piece: Buffer) => pieces.push(piece));
  // Not `once`: it would reject with a reset, which is a way to be refused.
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
  return Buffer.concat(pieces);
}

function farewellOf(bytes: Buffer): unknown {
  const found: unknown[] = [];
  new FrameReader({
    onFrame: ({ kind, header }) => kind === FRAME.farewell && found.push(decodeHeader(header)),
    blocked: () => false,
  }).push(bytes);
  return found[0];
}

function hello(node: TestNode, changes: Record<string, unknown> = {}): Buffer {
  return encodeFrame({
    kind: FRAME.hello,
    header: {
      protocol: PEER_PROTOCOL_VERSION,
      release: '0.0.0',
      cluster: node.identity.clusterId,
      node: B,
      lane: 'log',
      members: 1,
      methods: METHOD_NAMES,
      ...changes,
    },
  });
}

async function refusing(
  context: TestContext,
): Promise<{ a: TestNode; b: Identity; reasons: () => string[] }> {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.identity(B);
  const member = { ...a.member(), id: B, number: 9, key: b.fingerprint, address: '127.0.0.1:1' };
  a.peers.setMembers([a.member(), member], 1 as never);
  return { a, b, reasons: () => a.log.lines.map(({ fields }) => String(fields['reason'])) };
}

test('plain HTTP gets no answer, and one log line for many attempts', async (context) => {
  const { a, reasons } = await refusing(context);
  const { host, port } = target(a);
  for (let attempt = 0; attempt < 5; attempt++) {
    await assert.rejects(
      new Promise((resolve, reject) => get({ host, port, agent: false }, resolve).on('error', reject)),
    );
  }
  await until(() => reasons().length > 0, 'it is logged');
  assert.equal(reasons().length, 1);
  assert.match(reasons()[0]!, /no TLS/);
});

test('without a certificate nothing but a join is heard', async (context) => {
  const { a, reasons } = await refusing(context);
  const socket = await dialRaw(context, a);
  socket.write(hello(a));
  assert.deepEqual(farewellOf(await closed(socket)), {
    code: 'stranger',
    message: 'A node without a certificate can only join.',
  });
  assert.deepEqual(reasons(), ['A node without a certificate can only join.']);
});

test('a certificate of nobody’s making is refused before a word', async (context) => {
  const { a, reasons } = await refusing(context);
  const other = await makeCluster(context, a.identity.clusterId);
  const socket = await dialRaw(context, a, await other.identity(B));
  socket.write(hello(a));
  assert.equal((await closed(socket)).length, 0);
  assert.match(reasons()[0]!, /its certificate is none of this cluster/);
});

test('a hello must fit the certificate, the cluster and the protocol', async (context) => {
  const { a, b } = await refusing(context);
  const cases: [Record<string, unknown>, string, RegExp][] = [
    [{ node: 'gamma' }, 'stranger', /says it is "gamma", and its certificate is that of "beta"/],
    [{ cluster: 'another' }, 'cluster', /another cluster/],
    [{ protocol: 99, methods: 'changed' }, 'version', /install the same release on both/],
    [{ lane: 'fast' }, 'garbage', /not a hello/],
    [{ methods: Array(1000).fill('x') }, 'garbage', /not a hello/],
  ];
  for (const [changes, code, message] of cases) {
    const socket = await dialRaw(context, a, b);
    socket.write(hello(a, changes));
    const farewell = farewellOf(await closed(socket)) as { code: string; message: string };
    assert.equal(farewell.code, code);
    assert.match(farewell.message, message);
  }
});

test('garbage and giant frames end the connection and take no memory', async (context) => {
  const { a, b } = await refusing(context);
  const giant = (headerBytes: number, payloadBytes: number): Buffer => {
    const frame = encodeFrame({ kind: FRAME.request, call: 1 });
    frame.writeUInt32BE(headerBytes, 8);
    frame.writeUInt32BE(payloadBytes, 12);
    return frame;
  };
  const before = process.memoryUsage().arrayBuffers;
  const bad = [
    Buffer.alloc(100_000, 'x'),
    giant(0xffff_ffff, 0),
    giant(0, 0xffff_ffff),
    giant(0xffff_ffff, 0xffff_ffff),
    // A header that is no MessagePack, and a kind that does not belong here.
    Buffer.concat([giant(3, 0), Buffer.from([0xc1, 0xc1, 0xc1])]),
    encodeFrame({ kind: FRAME.answer, call: 1, header: 1 }),
  ];
  for (const bytes of bad) {
    // Once as the first word, once after a hello.
    const first = await dialRaw(context, a, b);
    first.write(bytes);
    await closed(first);
    const later = await dialRaw(context, a, b);
    later.write(hello(a));
    await once(later, 'data');
    later.write(bytes);
    await closed(later);
  }
  assert.ok(process.memoryUsage().arrayBuffers - before < 32 * 1024 * 1024);
  const messages = a.log.lines.map(({ message }) => message).sort();
  assert.deepEqual(messages, ['a connection was refused', 'the connections of a node were ended']);
});

test('who dawdles is dropped: in the handshake, after it, and one byte at a time', {
  timeout: 60_000,
}, async (context) => {
  const { a, b, reasons } = await refusing(context);
  const mute = connectPlain(target(a)).on('error', () => {});
  const silent = await dialRaw(context, a, b);
  const slow = await dialRaw(context, a, b);
  const bytes = hello(a);
  let at = 0;
  const dripping = setInterval(() => slow.write(bytes.subarray(at, ++at)), HELLO_TIMEOUT_MS / 50);
  context.after(() => clearInterval(dripping));
  await Promise.all([mute, silent, slow].map(closed));
  assert.match(reasons()[0]!, /did not say who it is|handshake timeout/);
});

test('idlers do not keep a member out', { timeout: 60_000 }, async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const idlers = Array.from({ length: UNPROVEN_MAX * 2 }, () =>
    connectPlain(target(a)).on('error', () => {}),
  );
  context.after(() => idlers.forEach((idler) => idler.destroy()));
  await Promise.all(idlers.map((idler) => once(idler, 'connect')));
  const b = await cluster.open(B);
  introduce([a, b]);
  await connected(b, a);
  await until(() => idlers.filter(({ closed }) => closed).length >= UNPROVEN_MAX, 'the oldest were dropped');
});

test('certificates say who the node is, and whose', async (context) => {
  const { a, b } = await refusing(context);
  const socket = await dialRaw(context, a, b);
  const certificate = new X509Certificate(socket.getPeerCertificate().raw);
  assert.match(certificate.subject, /CN=alpha/);
  assert.match(certificate.issuer, new RegExp(`O=${a.identity.clusterId}`));
  assert.equal(certificate.subjectAltName, 'URI:urn:warren:node:alpha');
  assert.equal(socket.getProtocol(), 'TLSv1.3');
});
