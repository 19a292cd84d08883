import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { chmodSync, cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  checkRequest,
  issueCertificate,
  makeKey,
  makeRequest,
  readPeer,
} from '../../daemon/peers/certificates.ts';
import {
  authorityOf,
  createIdentity,
  fingerprintOfKey,
  loadIdentity,
  pendingKey,
  renewIdentity,
} from '../../daemon/peers/identity.ts';
import { requirePackage, run } from '../support/requirements.ts';
import { A, B, collectingLog, temporaryFolder } from './cluster.ts';

const DAY_MS = 86_400_000;
const clusterId = '0b0d7c0e-0000-4000-8000-000000000001';

test('openssl finds the certificates right, for clients and for servers', async (context) => {
  const openssl = requirePackage('openssl', 'openssl');
  const folder = temporaryFolder(context);
  const identity = await createIdentity(folder, { clusterId, nodeId: A, nowMs: Date.now() });
  const file = (name: string): string => join(folder, 'identity', name);
  for (const purpose of ['sslclient', 'sslserver']) {
    const words = [
      'verify',
      '-x509_strict',
      '-CAfile',
      file('ca.crt'),
      '-purpose',
      purpose,
      file('node.crt'),
    ];
    assert.match(run(openssl, words), /: OK/);
  }
  // Machines whose clocks are hours or months behind accept it, too.
  const then = Math.floor((Date.now() - 300 * DAY_MS) / 1000);
  const words = ['verify', '-attime', String(then), '-CAfile', file('ca.crt'), file('node.crt')];
  assert.match(run(openssl, words), /: OK/);
  assert.match(run(openssl, ['ec', '-in', file('node.key'), '-text', '-noout']), /NIST CURVE: P-256/);
  const key = await makeKey();
  writeFileSync(file('request.pem'), await makeRequest(key, B));
  assert.match(run(openssl, ['req', '-in', file('request.pem'), '-noout', '-subject']), /CN = beta/);
  const publicPem = run(openssl, ['x509', '-in', file('node.crt'), '-pubkey', '-noout']);
  writeFileSync(file('public.pem'), publicPem);
  const der = run(openssl, [
    'pkey',
    '-pubin',
    '-in',
    file('public.pem'),
    '-outform',
    'DER',
    '-out',
    file('der'),
  ]);
  assert.equal(der, '');
  assert.match(run(openssl, ['dgst', '-sha256', file('der')]), new RegExp(`${identity.fingerprint}$`, 'm'));
});

test('an identity is private, is read back, and is made only once', async (context) => {
  const folder = temporaryFolder(context);
  assert.equal(loadIdentity(folder), undefined);
  const made = await createIdentity(folder, { clusterId, nodeId: A, nowMs: Date.now() });
  assert.deepEqual(loadIdentity(folder), made);
  assert.deepEqual(await createIdentity(folder, { clusterId, nodeId: A, nowMs: Date.now() }), made);
  assert.equal(statSync(join(folder, 'identity')).mode & 0o777, 0o700);
  for (const name of ['ca.key', 'node.key']) {
    assert.equal(statSync(join(folder, 'identity', name)).mode & 0o777, 0o600);
  }
  chmodSync(join(folder, 'identity', 'ca.key'), 0o640);
  assert.throws(() => loadIdentity(folder), { code: 'IDENTITY_PERMISSIONS', hint: /chmod 600/ });
});

test('a crash before the certificate leaves no identity, and the same key goes on', async (context) => {
  const folder = temporaryFolder(context);
  const key = await pendingKey(folder);
  assert.equal(loadIdentity(folder), undefined);
  assert.equal(await pendingKey(folder), key);
  const made = await createIdentity(folder, { clusterId, nodeId: A, nowMs: Date.now() });
  assert.equal(made.fingerprint, fingerprintOfKey(key));
});

test('parts that do not belong together are refused by name', async (context) => {
  const folder = temporaryFolder(context);
  const options = { clusterId, nodeId: A, nowMs: Date.now() };
  await createIdentity(join(folder, 'one'), options);
  await createIdentity(join(folder, 'two'), options);
  const mixes: [string, RegExp][] = [
    ['ca.crt', /not issued by ca\.crt/],
    ['node.key', /node\.key does not belong/],
    ['ca.key', /ca\.key does not belong/],
  ];
  for (const [name, message] of mixes) {
    const mixed = join(folder, `mixed-${name}`);
    mkdirSync(mixed);
    cpSync(join(folder, 'one', 'identity'), join(mixed, 'identity'), { recursive: true });
    cpSync(join(folder, 'two', 'identity', name), join(mixed, 'identity', name));
    assert.throws(() => loadIdentity(mixed), { code: 'IDENTITY_DAMAGED', message });
  }
  writeFileSync(join(folder, 'one', 'identity', 'node.crt'), 'not a certificate');
  assert.throws(() => loadIdentity(join(folder, 'one')), { code: 'IDENTITY_DAMAGED' });
  rmSync(join(folder, 'two', 'identity', 'node.key'));
  assert.throws(() => loadIdentity(join(folder, 'two')), { code: 'IDENTITY_DAMAGED', message: /missing/ });
});

test('a certificate is renewed when it is due, by the node itself, under the same key', async (context) => {
  const folder = temporaryFolder(context);
  const log = collectingLog();
  const nowMs = Date.now();
  const made = await createIdentity(folder, { clusterId, nodeId: A, nowMs });
  assert.equal(await renewIdentity(folder, made, { nowMs, log }), made);
  const laterMs = nowMs + 400 * DAY_MS;
  const renewed = await renewIdentity(folder, made, { nowMs: laterMs, log });
  assert.notEqual(renewed.certificate, made.certificate);
  assert.equal(renewed.fingerprint, made.fingerprint);
  assert.equal(readFileSync(join(folder, 'identity', 'node.crt'), 'utf8'), renewed.certificate);
  assert.ok(new X509Certificate(renewed.certificate).validToDate.getTime() > laterMs + 700 * DAY_MS);
  const client = { ...made, authorityKey: undefined };
  assert.equal(await renewIdentity(folder, client, { nowMs: laterMs, log }), client);
  assert.deepEqual(
    log.lines.map(({ level }) => level),
    ['info', 'warn'],
  );
  assert.throws(() => authorityOf(client), { code: 'IDENTITY_CANNOT_ISSUE' });
});

test('a request that its key did not sign is refused; the subject is what the issuer says', async (context) => {
  const identity = await createIdentity(temporaryFolder(context), {
    clusterId,
    nodeId: A,
    nowMs: Date.now(),
  });
  const key = await makeKey();
  const request = await makeRequest(key, A);
  assert.deepEqual(await checkRequest(request), { key: fingerprintOfKey(key) });
  const base64 = request.split('\n').slice(1, -1).join('');
  const der = Buffer.from(base64, 'base64');
  der[der.length - 1]! ^= 1;
  const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----`;
  for (const bad of [forged, 'nonsense', '', identity.certificate]) {
    await assert.rejects(checkRequest(bad), { code: 'CERTIFICATE_REQUEST_INVALID' });
  }
  const certificate = await issueCertificate({
    authority: authorityOf(identity),
    publicKey: request,
    id: B,
    clusterId,
    nowMs: Date.now(),
  });
  assert.deepEqual(readPeer(new X509Certificate(certificate)), {
    id: B,
    clusterId,
    key: fingerprintOfKey(key),
  });
});
