import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CALLS_MAX, PAYLOAD_BYTES_MAX } from '../../daemon/peers/limits.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import type { ChunkHash } from '../../daemon/protocol/ids.ts';
import { A, B, C, connected, introduce, makeCluster, type TestNode, until } from './cluster.ts';

const HASH = 'ab'.repeat(32) as ChunkHash;
const timeoutMs = 20_000;

interface Call {
  readonly body: unknown;
}

function lock(body: unknown): Call {
  return { body };
}

/** Two nodes that know each other. */
async function pair(context: Parameters<typeof makeCluster>[0]): Promise<[TestNode, TestNode]> {
  const cluster = await makeCluster(context);
  const a = await cluster.open(A);
  const b = await cluster.open(B);
  introduce([a, b]);
  await connected(a, b);
  return [a, b];
}

test('a call carries its request and bytes, and brings the answer and bytes back', async (context) => {
  const [a, b] = await pair(context);
  b.peers.handle('file-call', async (from, request, bytes) => ({
    answer: { from, request, length: bytes.length },
    bytes: [bytes.subarray(0, 3), Buffer.from('!')],
  }));
  const payload = [Buffer.from('abc'), Buffer.alloc(0), Buffer.from('defg')];
  const { answer, bytes } = await a.peers.call(B, 'file-call', lock({ big: 2 ** 50, text: 'ä' }), {
    bytes: payload,
    timeoutMs,
  });
  assert.deepEqual(answer, { from: A, request: lock({ big: 2 ** 50, text: 'ä' }), length: 7 });
  assert.equal(bytes.toString(), 'abc!');
});

test('both nodes call each other, on every lane', async (context) => {
  const [a, b] = await pair(context);
  for (const { peers } of [a, b]) {
    peers.handle('file-call', async (from) => ({ answer: from }));
    peers.handle('chunk-get', async () => ({ answer: { size: 3 }, bytes: [Buffer.from('xyz')] }));
    peers.handle('control', async () => ({ answer: { result: peers.self } }));
  }
  await connected(b, a);
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const { peers } = from;
    assert.equal((await peers.call(to.peers.self, 'file-call', lock(1), { timeoutMs })).answer, peers.self);
    const chunk = await peers.call(to.peers.self, 'chunk-get', { hash: HASH }, { timeoutMs });
    assert.equal(chunk.bytes.toString(), 'xyz');
    const control = await peers.call(to.peers.self, 'control', { method: 'm', params: 1 }, { timeoutMs });
    assert.deepEqual(control.answer, { result: to.peers.self });
  }
});

test('payloads of every size arrive whole, up to the largest', async (context) => {
  const [a, b] = await pair(context);
  b.peers.handle('chunk-put', async (_from, _request, bytes) => {
    for (const [index, byte] of bytes.entries()) if (byte !== index % 251) throw new FsError('EIO');
    return { answer: { stored: true as const } };
  });
  b.peers.handle('snapshot-read', async (_from, { length }) => ({
    answer: {},
    bytes: [Buffer.from(Uint8Array.from({ length }, (_, index) => index % 251))],
  }));
  const sizes = [0, 1, 15, 16, 17, 16_383, 16_384, 16_385, 262_143, 262_144, 1_000_000, PAYLOAD_BYTES_MAX];
  await Promise.all(
    sizes.map(async (length) => {
      const bytes = Uint8Array.from({ length }, (_, index) => index % 251);
      await a.peers.call(B, 'chunk-put', { hash: HASH }, { bytes: [bytes], timeoutMs: 60_000 });
      const back = await a.peers.call(
        B,
        'snapshot-read',
        { id: '', offset: 0, length },
        { timeoutMs: 60_000 },
      );
      assert.equal(Buffer.compare(back.bytes, bytes), 0);
    }),
  );
});

test('more than a frame holds is a mistake of the caller', async (context) => {
  const [a] = await pair(context);
  const bytes = [Buffer.alloc(PAYLOAD_BYTES_MAX), Buffer.alloc(1)];
  await assert.rejects(
    a.peers.call(B, 'chunk-put', { hash: HASH }, { bytes, timeoutMs }),
    /fits into a frame/,
  );
});

test('handlers of one lane start in the order of the calls, answers come as they are ready', async (context) => {
  const [a, b] = await pair(context);
  const started: unknown[] = [];
  const waiting: (() => void)[] = [];
  b.peers.handle('file-call', async (_from, request) => {
    const { body } = request as Call;
    started.push(body);
    if (body === 0) await new Promise<void>((resolve) => waiting.push(resolve));
    return { answer: body };
  });
  b.peers.handle('held-inodes', async (_from, { inodes }) => {
    started.push(...inodes);
    return { answer: { held: [] } };
  });
  const finished: unknown[] = [];
  const calls: Promise<unknown>[] = [];
  for (let index = 0; index < 1000; index++) {
    const call =
      index % 7 === 3
        ? a.peers.call(B, 'held-inodes', { inodes: [index as never] }, { timeoutMs })
        : a.peers.call(B, 'file-call', lock(index), {
            timeoutMs,
            ...(index % 5 === 0 ? { bytes: [Buffer.alloc(index * 10)] } : {}),
          });
    calls.push(call.then(() => finished.push(index)));
  }
  await until(() => finished.length === 999, 'all but the first are answered');
  waiting[0]!();
  await Promise.all(calls);
  assert.deepEqual(started, [...Array(1000).keys()]);
  assert.equal(finished.at(-1), 0);
});

test('a handler that throws, synchronously or not, refuses the call with its message', async (context) => {
  const [a, b] = await pair(context);
  b.peers.handle('file-call', (_from, request) => {
    const { body } = request as Call;
    if (body === 'now') throw new FsError('EDEADLK', 'a circle');
    return Promise.reject(new TypeError('a defect'));
  });
  await assert.rejects(a.peers.call(B, 'file-call', lock('now'), { timeoutMs }), {
    name: 'PeerError',
    kind: 'refused',
    message: 'EDEADLK: a circle',
  });
  await assert.rejects(a.peers.call(B, 'file-call', lock('later'), { timeoutMs }), {
    kind: 'refused',
    message: 'a defect',
  });
  // A defect is told to the people of the node that has it, once in a while.
  const defects = b.log.lines.filter(({ level }) => level === 'error');
  assert.deepEqual(
    defects.map(({ fields }) => fields['method']),
    ['file-call'],
  );
  await assert.rejects(a.peers.call(B, 'barrier', { epoch: 1 as never, version: null }, { timeoutMs }), {
    kind: 'refused',
    message: /does not answer "barrier"/,
  });
});

test('a call without an answer ends at its time-out, and its late answer is nobody else’s', async (context) => {
  const [a, b] = await pair(context);
  const release: (() => void)[] = [];
  b.peers.handle('file-call', async (_from, request) => {
    const { body } = request as Call;
    if (body === 'slow') await new Promise<void>((resolve) => release.push(resolve));
    return { answer: body };
  });
  // The lane is up: what is called now is sent now.
  await a.peers.call(B, 'file-call', lock('first'), { timeoutMs });
  const startMs = performance.now();
  const slow = a.peers.call(B, 'file-call', lock('slow'), { timeoutMs: 100 });
  const long = a.peers.call(B, 'file-call', lock('slow'), { timeoutMs });
  await assert.rejects(slow, {
    kind: 'timeout',
    message: /"file-call" to node "beta" had no answer in time/,
  });
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs >= 100, `it ended after ${tookMs} ms`);
  const next = a.peers.call(B, 'file-call', lock('next'), { timeoutMs });
  await until(() => release.length === 2, 'both were started');
  for (const go of release) go();
  assert.equal((await next).answer, 'next');
  assert.equal((await long).answer, 'slow');
});

test('an aborted call ends at once; what was not sent is not done', async (context) => {
  const [a, b] = await pair(context);
  const started: unknown[] = [];
  const never = new Promise<never>(() => {});
  b.peers.handle('chunk-have', (_from, { hashes }) => {
    started.push(hashes[0]);
    return never;
  });
  const controller = new AbortController();
  const call = (name: string, signal?: AbortSignal): Promise<unknown> =>
    a.peers.call(
      B,
      'chunk-have',
      { hashes: [name as ChunkHash], verify: false },
      { timeoutMs, ...(signal === undefined ? {} : { signal }) },
    );
  await assert.rejects(call('early', AbortSignal.abort()), { kind: 'aborted' });
  const running = Array.from({ length: CALLS_MAX.bulk }, (_, index) => call(`r${index}`, controller.signal));
  const waiting = call('waiting', controller.signal);
  await until(() => started.length === CALLS_MAX.bulk, 'as many as may run at once have started');
  controller.abort();
  const outcomes = await Promise.allSettled([...running, waiting]);
  for (const outcome of outcomes) {
    assert.ok(outcome.status === 'rejected');
    assert.equal((outcome.reason as { kind: string }).kind, 'aborted');
  }
  assert.ok(!started.includes('waiting'));
});

test('a payload may be changed as soon as its call has ended', async (context) => {
  const [a, b] = await pair(context);
  const wrong: number[] = [];
  let received = 0;
  b.peers.handle('chunk-put', async (_from, _request, bytes) => {
    received += 1;
    wrong.push(bytes.findIndex((byte) => byte !== bytes[0]));
    return { answer: { stored: true as const } };
  });
  for (let round = 1; round <= 8; round++) {
    const controller = new AbortController();
    const bytes = Buffer.alloc(8 * 1024 * 1024, round);
    const call = a.peers.call(
      B,
      'chunk-put',
      { hash: HASH },
      { bytes: [bytes], timeoutMs, signal: controller.signal },
    );
    // Some turns later it is under way.
    for (let turn = 0; turn < round; turn++) await new Promise((resolve) => setImmediate(resolve));
    controller.abort();
    await assert.rejects(call, { kind: 'aborted' });
    bytes.fill(255);
  }
  await a.peers.call(B, 'chunk-put', { hash: HASH }, { bytes: [Buffer.alloc(5, 9)], timeoutMs });
  assert.ok(received >= 1);
  assert.deepEqual(new Set(wrong), new Set([-1]));
});

test('slow handlers hold the sender back, in bounded memory', async (context) => {
  const [a, b] = await pair(context);
  let open: (() => void) | undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  let held = 0;
  let heldMost = 0;
  b.peers.handle('append', async (_from, _request, bytes) => {
    held += bytes.length;
    heldMost = Math.max(heldMost, held);
    await gate;
    held -= bytes.length;
    return { answer: { kind: 'stale' as const, epoch: 1 as never } };
  });
  const request = {
    epoch: 1 as never,
    leader: A,
    previous: { epoch: 1 as never, version: 1 as never },
    sizes: [],
    committed: 1 as never,
    durableTo: 0 as never,
    starts: [],
    fetch: false,
  };
  const bytes = [Buffer.alloc(4 * 1024 * 1024)];
  const before = process.memoryUsage().arrayBuffers;
  // 400 MiB, all from one buffer.
  const calls = Array.from({ length: 100 }, () =>
    a.peers.call(B, 'append', request, { bytes, timeoutMs: 120_000 }),
  );
  await until(() => held >= 32 * 1024 * 1024, 'the handlers have as much as they may');
  // Another lane is not held back.
  b.peers.handle('control', async () => ({ answer: { result: 1 } }));
  await a.peers.call(B, 'control', { method: '', params: 0 }, { timeoutMs });
  const grown = process.memoryUsage().arrayBuffers - before;
  assert.ok(grown < 128 * 1024 * 1024, `${grown} bytes more are in memory`);
  open!();
  await Promise.all(calls);
  assert.ok(heldMost <= 40 * 1024 * 1024, `${heldMost} bytes were in the hands of handlers at once`);
});

test('answers that nobody reads hold back further requests', async (context) => {
  const [a, b] = await pair(context);
  let running = 0;
  let most = 0;
  b.peers.handle('chunk-get', async () => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setImmediate(resolve));
    running -= 1;
    return { answer: { size: 0 }, bytes: [Buffer.alloc(2 * 1024 * 1024)] };
  });
  const answers = await Promise.all(
    Array.from({ length: 80 }, () => a.peers.call(B, 'chunk-get', { hash: HASH }, { timeoutMs: 60_000 })),
  );
  assert.equal(answers.length, 80);
  assert.ok(most <= CALLS_MAX.bulk, `${most} at once`);
});

test('who is no member cannot be called, and a node does not call itself', async (context) => {
  const [a] = await pair(context);
  for (const id of [A, C]) {
    await assert.rejects(a.peers.call(id, 'file-call', lock(0), { timeoutMs }), { kind: 'unreachable' });
  }
});
