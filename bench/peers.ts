/**
 * What calls between nodes cost beside a bare TLS connection, in one run: `node bench/peers.ts`. Both ends live in this
 * process and share its core, so only the ratios say something. Rounds of the two alternate, and the medians are shown.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:tls';
import { issueCertificate, makeKey, makeRequest } from '../daemon/peers/certificates.ts';
import { authorityOf, createIdentity, type Identity, storeIdentity } from '../daemon/peers/identity.ts';
import { openPeers, type PeerNetwork } from '../daemon/peers/peers.ts';
import { secureOptions } from '../daemon/peers/tls-options.ts';
import type { ChunkHash, NodeId, Version } from '../daemon/protocol/ids.ts';
import { systemClock } from '../daemon/runtime/clock.ts';
import { openLog } from '../daemon/runtime/log.ts';

const ROUNDS = 7;
const SMALL_CALLS = 1000;
const MANY_CALLS = 200;
const LARGE_CALLS = 64;
const LARGE_BYTES = 1 << 20;
const LARGE_AT_ONCE = 4;
const ANSWER = Buffer.alloc(40);
const A = 'alpha' as NodeId;
const B = 'beta' as NodeId;

interface Side {
  small(): Promise<unknown>;
  /** Sends LARGE_CALLS payloads and waits until all are acknowledged. */
  large(): Promise<unknown>;
  close(): Promise<unknown>;
}

const folder = mkdtempSync(join(tmpdir(), 'warren-bench-'));
const [first, second] = await identities();
const raw = await openRaw(first);
const peers = await openPair(first, second);
const figures = new Map<string, number[]>();
try {
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, side] of [
      ['rawSmall', raw],
      ['small', peers],
    ] as const) {
      const { ms } = await timed(async () => {
        for (let call = 0; call < SMALL_CALLS; call++) await side.small();
      });
      note(name, (ms * 1000) / SMALL_CALLS);
    }
    const { ms } = await timed(() => Promise.all(Array.from({ length: MANY_CALLS }, () => peers.small())));
    note('many', (ms * 1000) / MANY_CALLS);
    for (const [name, side] of [
      ['rawLarge', raw],
      ['large', peers],
    ] as const) {
      const { ms, processorMs } = await timed(() => side.large());
      note(name, (LARGE_CALLS * 1000) / ms);
      note(`${name}Processor`, (processorMs * 1000) / LARGE_CALLS);
    }
  }
  const of = (name: string): number => median(figures.get(name) ?? []);
  const ratio = (name: string, base: string): string => `${(of(name) / of(base)).toFixed(2)} times`;
  console.log(`round trip, TLS socket     ${of('rawSmall').toFixed(1)} µs`);
  console.log(`round trip, call           ${of('small').toFixed(1)} µs, ${ratio('small', 'rawSmall')}`);
  console.log(`a call, ${MANY_CALLS} at once       ${of('many').toFixed(1)} µs`);
  for (const [title, name] of [
    ['1 MiB pieces, TLS socket ', 'rawLarge'],
    ['1 MiB payloads, calls    ', 'large'],
  ] as const) {
    console.log(
      `${title}  ${of(name).toFixed(0)} MiB/s, ${ratio(name, 'rawLarge')}; processor ` +
        `${of(`${name}Processor`).toFixed(0)} µs a MiB, ${ratio(`${name}Processor`, 'rawLargeProcessor')}`,
    );
  }
} finally {
  await raw.close();
  await peers.close();
  rmSync(folder, { recursive: true, force: true });
}

async function timed(work: () => Promise<unknown>): Promise<{ ms: number; processorMs: number }> {
  const before = process.cpuUsage();
  const startMs = performance.now();
  await work();
  const ms = performance.now() - startMs;
  const { user, system } = process.cpuUsage(before);
  return { ms, processorMs: (user + system) / 1000 };
}

function note(name: string, value: number): void {
  figures.set(name, [...(figures.get(name) ?? []), value]);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

async function identities(): Promise<[Identity, Identity]> {
  const nowMs = Date.now();
  const clusterId = 'bench';
  const first = await createIdentity(join(folder, 'a'), { clusterId, nodeId: A, nowMs });
  const key = await makeKey();
  const publicKey = await makeRequest(key, B);
  const certificate = await issueCertificate({
    authority: authorityOf(first),
    publicKey,
    id: B,
    clusterId,
    nowMs,
  });
  const { authority, authorityKey } = first;
  return [first, storeIdentity(join(folder, 'b'), { authority, authorityKey, certificate, key })];
}

/** A server that answers each small message, and each LARGE_BYTES of others, with one small message. */
async function openRaw(identity: Identity): Promise<Side> {
  let large = false;
  const server = createServer({ ...secureOptions(identity), requestCert: true, noDelay: true }, (socket) => {
    let bytes = 0;
    socket.on('data', (piece) => {
      if (!large) return void socket.write(ANSWER);
      for (bytes += piece.length; bytes >= LARGE_BYTES; bytes -= LARGE_BYTES) socket.write(ANSWER);
    });
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const socket = connect({
    ...secureOptions(identity),
    host: '127.0.0.1',
    port,
    checkServerIdentity: () => undefined,
  });
  await new Promise((resolve) => socket.once('secureConnect', resolve));
  socket.setNoDelay(true);
  let received = 0;
  let wanted = 0;
  let wake: () => void = () => {};
  socket.on('data', (piece) => {
    received += piece.length;
    if (received >= wanted) wake();
  });
  const answered = (answers: number): Promise<void> => {
    received = 0;
    wanted = answers * ANSWER.length;
    return new Promise((resolve) => {
      wake = resolve;
    });
  };
  const piece = Buffer.alloc(LARGE_BYTES, 1);
  return {
    small() {
      const done = answered(1);
      socket.write(ANSWER);
      return done;
    },
    async large() {
      large = true;
      const done = answered(LARGE_CALLS);
      for (let call = 0; call < LARGE_CALLS; call++) {
        if (!socket.write(piece)) await new Promise((resolve) => socket.once('drain', resolve));
      }
      await done;
      large = false;
    },
    close: () => {
      socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

async function openPair(first: Identity, second: Identity): Promise<Side> {
  const open = (identity: Identity): Promise<PeerNetwork> =>
    openPeers({
      identity,
      bind: '127.0.0.1:0',
      clock: systemClock(),
      log: openLog({ format: 'text', level: 'warn' }),
      onJoin: async () => ({ kind: 'elsewhere', address: null }),
    });
  const a = await open(first);
  const b = await open(second);
  b.handle('file-call', async (_from, request) => ({ answer: request }));
  b.handle('chunk-put', async () => ({ answer: { stored: true as const } }));
  const members = [a, b].map((peers, number) => ({
    id: peers.self,
    number,
    role: 'auto' as const,
    address: peers.address,
    state: 'active' as const,
    key: (number === 0 ? first : second).fingerprint,
  }));
  for (const peers of [a, b]) peers.setMembers(members, 1 as Version);
  while (a.link(B) !== 'connected') await new Promise((resolve) => setTimeout(resolve, 5));
  const bytes = [Buffer.alloc(LARGE_BYTES, 1)];
  const request = { call: 'get', body: 1 } as const;
  return {
    small: () => a.call(B, 'file-call', request, { timeoutMs: 10_000 }),
    async large() {
      let begun = 0;
      const worker = async (): Promise<void> => {
        while (begun++ < LARGE_CALLS) {
          await a.call(B, 'chunk-put', { hash: '' as ChunkHash }, { bytes, timeoutMs: 60_000 });
        }
      };
      await Promise.all(Array.from({ length: LARGE_AT_ONCE }, worker));
    },
    close: () => Promise.all([a.close(), b.close()]),
  };
}
