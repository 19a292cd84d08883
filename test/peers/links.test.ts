import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { createIdentity } from '../../daemon/peers/identity.ts';
import { issueCertificate } from '../../daemon/peers/certificates.ts';
import { authorityOf, storeIdentity } from '../../daemon/peers/identity.ts';
import type { LinkState } from '../../daemon/peers/interface.ts';
import { openPeers } from '../../daemon/peers/peers.ts';
import type { Version } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import {
  A,
  B,
  C,
  collectingLog,
  connected,
  introduce,
  makeCluster,
  temporaryFolder,
  until,
} from './cluster.ts';

const timeoutMs = 20_000;
const request = { call: 'get', body: 0 } as const;

test('a node that is closed is gone; when it is back it is connected, and its calls end in between', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  b.peers.handle('file-call', () => new Promise<never>(() => {}));
  introduce([a, b]);
  await connected(a, b);
  const states: LinkState[] = [];
  const stop = a.peers.onLink((id, state) => {
    assert.equal(id, B);
    states.push(state);
  });
  const call = a.peers.call(B, 'file-call', request, { timeoutMs });
  await a.peers.call(B, 'held-inodes', { inodes: [] }, { timeoutMs }).catch(() => {});
  await b.peers.close();
  await assert.rejects(call, { kind: 'lost', message: /"file-call" to node "beta" lost its connection/ });
  await until(() => a.peers.link(B) === 'gone', 'it is gone');
  await assert.rejects(a.peers.call(B, 'file-call', request, { timeoutMs }), {
    kind: 'unreachable',
    message: /nothing listens on 127\.0\.0\.1/,
  });
  const again = await cluster.open(B, { bind: b.peers.address });
  again.peers.handle('file-call', async () => ({ answer: 'back' }));
  introduce([again, a]);
  await connected(a, again);
  assert.equal((await a.peers.call(B, 'file-call', request, { timeoutMs })).answer, 'back');
  assert.deepEqual(
    states.filter((state, index) => state !== states[index - 1]),
    ['lost', 'gone', 'connected'],
  );
  stop();
});

test('a killed process is gone within moments', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const identity = await cluster.identity(B);
  const child = spawn(process.execPath, [join(import.meta.dirname, 'node-process.ts')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  context.after(() => child.kill('SIGKILL'));
  child.stdin.end(JSON.stringify({ identity, members: [a.member()] }));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const address = line.toString().trim();
  const member = { ...a.member(), id: B, number: 7, address, key: identity.fingerprint };
  a.peers.setMembers([a.member(), member], 2 as Version);
  await until(() => a.peers.link(B) === 'connected', 'the process is reached');
  let goneMs = 0;
  a.peers.onLink((_id, state) => {
    if (state === 'gone') goneMs = performance.now();
  });
  const killedMs = performance.now();
  child.kill('SIGKILL');
  await until(() => goneMs > 0, 'it is gone');
  // Tens of milliseconds on an idle machine.
  assert.ok(goneMs - killedMs < 1500, `gone after ${goneMs - killedMs} ms`);
});

test('a process that hangs is lost, not gone', { timeout: 60_000 }, async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const identity = await cluster.identity(B);
  const child = spawn(process.execPath, [join(import.meta.dirname, 'node-process.ts')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  context.after(() => child.kill('SIGKILL'));
  child.stdin.end(JSON.stringify({ identity, members: [a.member()] }));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const member = {
    ...a.member(),
    id: B,
    number: 7,
    address: line.toString().trim(),
    key: identity.fingerprint,
  };
  a.peers.setMembers([a.member(), member], 2 as Version);
  await until(() => a.peers.link(B) === 'connected', 'the process is reached');
  child.kill('SIGSTOP');
  await until(() => a.peers.link(B) === 'lost', 'it is lost', 40_000);
  child.kill('SIGCONT');
  await until(() => a.peers.link(B) === 'connected', 'it is back', 40_000);
});

test('a node that moved is found at its new address, by the list or by a hint', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  introduce([a, b]);
  await connected(a, b);
  await b.peers.close();
  await until(() => a.peers.link(B) === 'gone', 'it is gone');
  const moved = await cluster.open(B);
  a.peers.setMembers([a.member(), moved.member()], 2 as Version);
  await connected(a, moved);
  await moved.peers.close();
  await until(() => a.peers.link(B) === 'gone', 'it is gone again');
  const movedAgain = await cluster.open(B);
  a.peers.hintAddress(B, 'nonsense');
  a.peers.hintAddress(C, movedAgain.peers.address);
  a.peers.hintAddress(B, movedAgain.peers.address);
  await connected(a, movedAgain);
  assert.equal(a.peers.describe(B).reason, `at ${movedAgain.peers.address}`);
});

test('a hint to another node’s address does not pass for the node, nor for its death', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  const c = await cluster.open(C);
  // A machine that takes connections and says nothing.
  const mute = createServer();
  context.after(() => mute.close());
  const held: Socket[] = [];
  context.after(() => held.forEach((socket) => socket.destroy()));
  mute.on('connection', (socket) => held.push(socket));
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
  const { port } = mute.address() as AddressInfo;
  const states: LinkState[] = [];
  a.peers.onLink((id, state) => id === B && states.push(state));
  const members = [a.member(), b.member({ address: `127.0.0.1:${port}` }), c.member()];
  for (const { peers } of [a, c]) peers.setMembers(members, 1 as Version);
  a.peers.hintAddress(B, c.peers.address);
  a.peers.hintAddress(B, '127.0.0.1:1');
  await connected(a, c);
  await until(() => held.length >= 2, 'all addresses were tried again');
  assert.deepEqual(states, []);
  assert.equal(a.peers.link(B), 'lost');
  assert.equal(a.peers.link(C), 'connected');
});

test('a removed node is refused by all who know it, and its connections end', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  introduce([a, b]);
  await connected(a, b);
  await connected(b, a);
  a.peers.setMembers([a.member(), b.member({ state: 'removed' })], 2 as Version);
  await assert.rejects(a.peers.call(B, 'file-call', request, { timeoutMs }), { kind: 'unreachable' });
  await until(() => /was removed from this cluster/.test(b.peers.describe(A).reason), 'it is told');
  assert.equal(b.peers.link(A), 'lost');
  const told = [...a.log.lines, ...b.log.lines].map(({ fields }) => String(fields['reason']));
  assert.ok(told.includes('Node "beta" was removed from this cluster.'));
});

test('a node of another cluster is refused on both sides', async (context) => {
  const cluster = await makeCluster(context);
  const other = await makeCluster(context, 'cluster-2');
  const a = await cluster.open(A);
  const stranger = await other.open(B);
  a.peers.setMembers([a.member(), stranger.member()], 1 as Version);
  stranger.peers.setMembers([a.member(), stranger.member()], 1 as Version);
  await until(() => a.log.lines.length > 0 && stranger.log.lines.length > 0, 'both logs say so');
  assert.notEqual(a.peers.link(B), 'connected');
  assert.notEqual(stranger.peers.link(A), 'connected');
  assert.match(a.peers.describe(B).reason, /self-signed certificate/);
  assert.match(stranger.peers.describe(A).reason, /self-signed certificate/);
});

test('a certificate of the cluster with another key than the member’s is refused', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  a.peers.setMembers([a.member(), b.member({ key: '00'.repeat(32) })], 1 as Version);
  b.peers.setMembers([a.member(), b.member()], 2 as Version);
  await until(() => /another key/.test(b.peers.describe(A).reason), 'the one is refused');
  await until(() => /another key/.test(a.peers.describe(B).reason), 'and the other refuses');
});

test('a member that this node does not know yet may bring the news, an outdated stranger may not', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const c = await cluster.open(C);
  a.peers.handle('file-call', async (from) => ({ answer: from }));
  a.peers.setMembers([a.member()], 10 as Version);
  c.peers.setMembers([a.member(), c.member()], 5 as Version);
  await until(() => /not a member/.test(c.peers.describe(A).reason), 'it is refused');
  c.peers.setMembers([a.member(), c.member()], 11 as Version);
  await connected(c, a);
  assert.equal((await c.peers.call(A, 'file-call', request, { timeoutMs })).answer, C);
  // The list has caught up and does not name it.
  a.peers.setMembers([a.member()], 12 as Version);
  await until(() => c.peers.link(A) !== 'connected', 'it is let go');
});

test('a renewed certificate is used for new connections, under the same key', async (context) => {
  const folder = temporaryFolder(context);
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  introduce([a, b]);
  await connected(a, b);
  const { identity } = b;
  const certificate = await issueCertificate({
    authority: authorityOf(identity),
    publicKey: identity.certificate,
    id: B,
    clusterId: cluster.clusterId,
    nowMs: Date.now() + 1000,
  });
  mkdirSync(join(folder, 'b'));
  const { authority, authorityKey, key } = identity;
  const renewed = storeIdentity(join(folder, 'b'), { authority, authorityKey, certificate, key });
  assert.equal(renewed.fingerprint, identity.fingerprint);
  b.peers.setIdentity(renewed);
  await a.peers.close();
  const again = await cluster.open(A, { bind: a.peers.address });
  introduce([again, b]);
  await connected(again, b);
  await connected(b, again);
});

test('a port that is taken, and an address of another machine, are errors with a hint', async (context) => {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const open = (bind: string): Promise<unknown> =>
    openPeers({
      identity: a.identity,
      bind,
      clock: systemClock(),
      log: collectingLog(),
      onJoin: async () => ({ kind: 'elsewhere', address: null }),
    });
  await assert.rejects(open(a.peers.address), { code: 'PEER_PORT_IN_USE', hint: /bind in section \[node\]/ });
  await assert.rejects(open('192.0.2.7:9500'), { code: 'PEER_BIND_FAILED' });
  await assert.rejects(open('nonsense'), { code: 'PEER_BIND_INVALID' });
});

test('a node whose identity runs on two machines does not talk to itself', async (context) => {
  const folder = temporaryFolder(context);
  const identity = await createIdentity(folder, { clusterId: 'c', nodeId: A, nowMs: Date.now() });
  const cluster = await makeCluster(context);
  const a = await cluster.open(A, { identity });
  const twin = await cluster.open(A, { identity });
  a.peers.setMembers([a.member(), { ...twin.member(), id: B }], 1 as Version);
  await until(() => /is node "alpha", not "beta"/.test(a.peers.describe(B).reason), 'it is noticed');
});
