import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { admitNode } from '../../daemon/peers/admission.ts';
import { loadIdentity } from '../../daemon/peers/identity.ts';
import { joinCluster } from '../../daemon/peers/join.ts';
import type { JoinHandler } from '../../daemon/peers/join-messages.ts';
import {
  type JoinSecrets,
  openJoinSecrets,
  WRONG_ATTEMPTS_PER_MINUTE,
} from '../../daemon/peers/join-secrets.ts';
import { makeToken, readToken, SECRET_BYTES, type Token } from '../../daemon/peers/token.ts';
import type { Member } from '../../daemon/protocol/cluster.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { A, B, C, connected, makeCluster, temporaryFolder, type TestNode, until } from './cluster.ts';

const HOUR_MS = 3_600_000;

interface Leader {
  readonly node: TestNode;
  readonly secrets: JoinSecrets;
  readonly folder: string;
  readonly members: Member[];
  token(addresses?: readonly string[], lifetimeMs?: number): Token;
}

/** A cluster of one node that admits whoever has a token. */
async function lead(context: TestContext): Promise<Leader> {
  const folder = temporaryFolder(context);
  const secrets = openJoinSecrets(folder, systemClock());
  const cluster = await makeCluster(context);
  const members: Member[] = [];
  const onJoin: JoinHandler = async (request) => {
    secrets.redeem(request.secret, request.key);
    const { node: id, role, address, key } = request;
    if (!members.some((member) => member.id === id)) {
      members.push({ id, role, address, key, number: members.length, state: 'active' });
      node.peers.setMembers(members, members.length as never);
    }
    return admitNode({
      identity: node.identity,
      request,
      members,
      membersVersion: members.length,
      clusterName: 'home',
      nowMs: Date.now(),
    });
  };
  const node = await cluster.open(A, { onJoin });
  members.push(node.member());
  node.peers.setMembers(members, 1 as never);
  return {
    node,
    secrets,
    folder,
    members,
    token: (addresses = [node.peers.address], lifetimeMs = HOUR_MS) => ({
      addresses,
      authorityFingerprint: node.identity.authorityFingerprint,
      secret: secrets.make(lifetimeMs).secret,
      expiresMs: Date.now() + lifetimeMs,
    }),
  };
}

function joining(context: TestContext, token: Token, changes: Record<string, unknown> = {}) {
  return {
    token,
    dataDirectory: temporaryFolder(context),
    nodeId: B,
    role: 'auto' as const,
    address: '127.0.0.1:9500',
    ...changes,
  };
}

test('a machine with a token becomes a node that the others talk to', async (context) => {
  const leader = await lead(context);
  const token = readToken(makeToken(leader.token()), Date.now());
  const options = joining(context, token, { address: '0.0.0.0:9555' });
  const joined = await joinCluster(options);
  assert.equal(joined.clusterName, 'home');
  assert.equal(joined.number, 1);
  assert.deepEqual(joined.members, leader.members);
  // The wildcard became the address that the leader saw.
  assert.equal(leader.members[1]!.address, '127.0.0.1:9555');
  assert.deepEqual(loadIdentity(options.dataDirectory), joined.identity);
  assert.equal(joined.identity.authorityKey, leader.node.identity.authorityKey);
  for (const name of ['node.key', 'ca.key']) {
    assert.equal(statSync(join(options.dataDirectory, 'identity', name)).mode & 0o777, 0o600);
  }
  const cluster = await makeCluster(context);
  const b = await cluster.open(B, { identity: joined.identity });
  b.peers.setMembers(joined.members, joined.membersVersion);
  await connected(b, leader.node);
});

test('a client gets no key of the authority', async (context) => {
  const leader = await lead(context);
  const joined = await joinCluster(joining(context, leader.token(), { role: 'client' }));
  assert.equal(joined.identity.authorityKey, undefined);
});

test('a token works for one machine; that one may ask again', async (context) => {
  const leader = await lead(context);
  const token = leader.token();
  const options = joining(context, token);
  const first = await joinCluster(options);
  const again = await joinCluster(options);
  assert.equal(again.identity.fingerprint, first.identity.fingerprint);
  await assert.rejects(joinCluster(joining(context, token, { nodeId: C })), { code: 'TOKEN_USED' });
  // Also after a restart of the one that gave it out.
  const reopened = openJoinSecrets(leader.folder, systemClock());
  assert.throws(() => reopened.redeem(token.secret, 'ff'), { code: 'TOKEN_USED' });
  assert.equal(leader.members.length, 2);
});

test('secrets are kept as hashes only', async (context) => {
  const leader = await lead(context);
  const { secret } = leader.token();
  const file = join(leader.folder, 'identity', 'secrets.json');
  assert.ok(!readFileSync(file, 'utf8').includes(secret));
  assert.equal(statSync(file).mode & 0o777, 0o600);
  writeFileSync(file, '[{');
  assert.throws(() => openJoinSecrets(leader.folder, systemClock()), { code: 'IDENTITY_DAMAGED' });
});

test('a token that has ended is refused, here or there', async (context) => {
  const leader = await lead(context);
  const ended = leader.token(undefined, -1000);
  await assert.rejects(joinCluster(joining(context, ended)), { code: 'TOKEN_EXPIRED' });
  const old = makeToken({ ...ended, expiresMs: Date.now() - 48 * HOUR_MS });
  assert.throws(() => readToken(old, Date.now()), { code: 'TOKEN_EXPIRED', hint: /warren token/ });
});

test('guessing ends after some attempts a minute, and the right token has to wait', async (context) => {
  const leader = await lead(context);
  const right = leader.token();
  const wrong = { ...right, secret: Buffer.alloc(SECRET_BYTES).toString('base64url') };
  for (let attempt = 0; attempt < WRONG_ATTEMPTS_PER_MINUTE; attempt++) {
    await assert.rejects(joinCluster(joining(context, wrong)), { code: 'TOKEN_UNKNOWN' });
  }
  await assert.rejects(joinCluster(joining(context, right)), { code: 'TOKEN_ATTEMPTS' });
});

test('the secret is not said to a node of another cluster', async (context) => {
  const leader = await lead(context);
  const impostor = await lead(context);
  const token = leader.token([impostor.node.peers.address]);
  await assert.rejects(joinCluster(joining(context, token)), {
    code: 'JOIN_WRONG_CLUSTER',
    message: /the secret was not sent/,
  });
  await until(() => impostor.node.log.lines.length > 0, 'the impostor saw a connection that said nothing');
  assert.match(String(impostor.node.log.lines[0]!.fields['reason']), /^it (ended before|left during)/);
});

test('a node that does not lead sends the machine to the leader, a dead address is passed over', async (context) => {
  const leader = await lead(context);
  const cluster = await makeCluster(context);
  // Same authority: a follower of the leader's cluster.
  const joined = await joinCluster(joining(context, leader.token(), { nodeId: C }));
  const follower = await cluster.open(C, {
    identity: joined.identity,
    onJoin: async () => ({ kind: 'elsewhere', address: leader.node.peers.address }),
  });
  const token = leader.token(['127.0.0.1:1', follower.peers.address]);
  assert.equal((await joinCluster(joining(context, token))).number, 2);
});

test('without a leader, and without anybody, the error says so', async (context) => {
  const cluster = await makeCluster(context);
  const alone = await cluster.open(A);
  const { authorityFingerprint } = alone.identity;
  const secret = Buffer.alloc(SECRET_BYTES).toString('base64url');
  const token = { addresses: [alone.peers.address], authorityFingerprint, secret, expiresMs: Date.now() };
  await assert.rejects(joinCluster(joining(context, token)), { code: 'JOIN_NO_LEADER' });
  await alone.peers.close();
  await assert.rejects(joinCluster(joining(context, token)), {
    code: 'JOIN_UNREACHABLE',
    message: /nothing listens on 127\.0\.0\.1/,
  });
});

test('a defect of the leader is told as one, without its insides', async (context) => {
  const cluster = await makeCluster(context);
  const node = await cluster.open(A, { onJoin: () => Promise.reject(new TypeError('secret inside')) });
  const secret = Buffer.alloc(SECRET_BYTES).toString('base64url');
  const { authorityFingerprint } = node.identity;
  const token = { addresses: [node.peers.address], authorityFingerprint, secret, expiresMs: Date.now() };
  await assert.rejects(joinCluster(joining(context, token)), {
    code: 'JOIN_FAILED',
    message: /could not admit/,
  });
});

test('words that are no tokens are told from tokens', () => {
  const token = {
    addresses: ['10.0.0.1:9500', '[fd00::1]:9500'],
    authorityFingerprint: 'ab'.repeat(32),
    secret: Buffer.alloc(SECRET_BYTES, 1).toString('base64url'),
    expiresMs: Math.ceil(Date.now() / 1000) * 1000,
  };
  const text = makeToken(token);
  assert.match(text, /^wtk1[\w-]+$/);
  assert.deepEqual(readToken(` ${text.slice(0, 40)}\n${text.slice(40)} `, Date.now()), token);
  for (const bad of ['', 'wtk1', 'hello', text.slice(0, -3), `${text}A`, `wtk2${text.slice(4)}`, 'wtk1e30']) {
    assert.throws(() => readToken(bad, Date.now()), { code: 'TOKEN_INVALID' }, bad);
  }
});
