/** The control channel end to end over real sockets: good clients, bad clients, and their limits. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { connectControl } from '../../console/control-client.ts';
import { REQUESTS_PER_CONNECTION_MAX, startControlServer } from '../../daemon/control/server.ts';
import type { ControlHandlers, Progress } from '../../daemon/protocol/control-api.ts';
import { FRAME_BYTES_MAX, SEND_QUEUE_BYTES_MAX } from '../../daemon/protocol/control-stream.ts';
import { FsError } from '../../daemon/protocol/errors.ts';
import { CLEAN_FSCK, collectLog, STATUS, startFixture } from './fixture.ts';

const handlers = {} as ControlHandlers;

test('every method answers, with errors and hints intact', async () => {
  await using fixture = await startFixture();
  const client = await connectControl({ socket: fixture.socketPath });
  assert.deepEqual(await client.call('status'), STATUS);
  assert.equal((await client.call('version')).api, 1);
  assert.deepEqual(await client.call('mount', { path: '/a' }), {
    path: '/a',
    driver: 'kernel',
    openFiles: 0,
  });
  await assert.rejects(client.call('unmount', { path: '/a' }), {
    code: 'MOUNT_BUSY',
    message: '/a is in use.',
    hint: 'close the files',
  });
  assert.deepEqual(await client.call('unmount', { path: '/a', force: true }), { path: '/a' });
  assert.deepEqual(await client.call('barrier'), { logVersion: 7 });
  const progress: Progress[] = [];
  const onProgress = (step: Progress): void => void progress.push(step);
  assert.deepEqual(await client.call('fsck', { data: true }, { onProgress }), CLEAN_FSCK);
  assert.deepEqual(progress, [{ phase: 'checking inodes', done: 5, total: 10 }]);
  assert.deepEqual(fixture.calls, ['mount /a', 'unmount /a false', 'unmount /a true', 'fsck true']);
  client.close();
});

test('the socket belongs to owner and group only, and goes with the server', async () => {
  const fixture = await startFixture();
  assert.equal(statSync(fixture.socketPath).mode & 0o777, 0o660);
  await fixture[Symbol.asyncDispose]();
  assert.ok(!existsSync(fixture.socketPath));
});

test('the socket is given to the group where there is one', async () => {
  await using fixture = await startFixture();
  const log = collectLog([]);
  const socketPath = join(fixture.directory, 'group.sock');
  const own = readFileSync('/etc/group', 'utf8')
    .split('\n')
    // As root any group will do, so take one that is not the process's own.
    .map((line) => ({ name: line.split(':')[0] ?? '', gid: Number(line.split(':')[2]) }))
    .find(({ gid }) => (process.getuid?.() === 0 ? gid > 0 : gid === process.getgid?.()));
  const server = await startControlServer({ socketPath, handlers, log, group: own!.name });
  assert.equal(statSync(socketPath).gid, own!.gid);
  await server.close();
  const without = await startControlServer({ socketPath, handlers, log, group: 'no-such-group' });
  assert.equal(statSync(socketPath).gid, process.getgid?.());
  await without.close();
});

test('a handler that throws is an answer, not an accident', async () => {
  await using fixture = await startFixture({
    status: () => {
      throw new TypeError('a defect');
    },
    barrier: async () => {
      throw new FsError('EIO');
    },
    version: () => ({ version: 5 }) as never,
  });
  const client = await connectControl({ socket: fixture.socketPath });
  await assert.rejects(client.call('status'), { code: 'INTERNAL', message: /a defect/ });
  assert.ok(fixture.logLines.some((line) => line.includes('a defect')));
  await assert.rejects(client.call('barrier'), { code: 'EIO' });
  await assert.rejects(client.call('version'), { code: 'CONTROL_PROTOCOL' });
  await assert.rejects(client.call('mount', { path: '' }), { code: 'CONTROL_PROTOCOL', message: /path/ });
  await assert.rejects(client.call('nothing' as 'status'), { message: /no method "nothing"/ });
  await assert.rejects(client.call('toString' as 'status'), { message: /no method/ });
  client.close();
});

test('cancelling, a time-out and a client that goes away each abort the handler', async () => {
  let aborted = 0;
  let started = Promise.withResolvers<void>();
  await using fixture = await startFixture({
    fsck: (_, { signal }) => {
      started.resolve();
      return new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          aborted += 1;
          reject(signal.reason as Error);
        });
      });
    },
  });
  const client = await connectControl({ socket: fixture.socketPath });
  const stop = new AbortController();
  const call = client.call('fsck', {}, { signal: stop.signal });
  await started.promise;
  stop.abort();
  await assert.rejects(call, { code: 'CANCELLED' });
  await until(() => aborted === 1);
  await assert.rejects(client.call('fsck', {}, { timeoutMs: 50 }), { code: 'CONTROL_TIMEOUT' });
  await until(() => aborted === 2);
  started = Promise.withResolvers();
  const lost = client.call('fsck');
  await started.promise;
  client.close();
  await assert.rejects(lost, { code: 'CONTROL_UNREACHABLE' });
  await until(() => aborted === 3);
});

test('a daemon that ends in the middle of a call is reported at once', async () => {
  const fixture = await startFixture({ barrier: () => new Promise(() => {}) });
  const client = await connectControl({ socket: fixture.socketPath });
  const call = client.call('barrier');
  call.catch(() => {});
  await client.call('version');
  await fixture[Symbol.asyncDispose]();
  await assert.rejects(call, { code: 'CONTROL_UNREACHABLE', message: /closed the connection/ });
  await assert.rejects(client.call('version'), { code: 'CONTROL_UNREACHABLE' });
});

test('garbage, huge frames and strange messages end the one connection or get an error, never the daemon', async () => {
  await using fixture = await startFixture();
  const closing = [
    'not json\n',
    '[]\n',
    '{"jsonrpc":"1.0"}\n',
    '5\n',
    'null\n',
    '\u0000\u0001\n',
    `"${'x'.repeat(9)}"\n`,
  ];
  for (const text of closing) {
    const socket = await open(fixture.socketPath);
    socket.write(text);
    await once(socket, 'close');
  }
  const huge = await open(fixture.socketPath);
  huge.write(Buffer.alloc(FRAME_BYTES_MAX + 1, 'x'));
  await once(huge, 'close');

  const strange = [
    '{"jsonrpc":"2.0"}',
    '{"jsonrpc":"2.0","id":1}',
    '{"jsonrpc":"2.0","id":99,"result":{}}',
    '{"jsonrpc":"2.0","id":null,"error":5}',
    '{"jsonrpc":"2.0","id":{"a":1},"method":"status"}',
    '{"jsonrpc":"2.0","id":[1],"method":5}',
    '{"jsonrpc":"2.0","method":"$/cancelRequest","params":null}',
    '{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":{"x":1}}}',
    '{"jsonrpc":"2.0","method":"$/progress"}',
    '{"jsonrpc":"2.0","method":"exit"}',
    '{"jsonrpc":"2.0","id":2,"method":"status","params":[1,2]}',
    '{"jsonrpc":"2.0","id":3,"method":"__proto__"}',
    '{"jsonrpc":"2.0","id":4,"method":"mount","params":{"path":7}}',
    '{"jsonrpc":"2.0","id":5,"method":"fsck","params":{"progressToken":{}}}',
    '',
  ];
  for (const text of strange) {
    const socket = await open(fixture.socketPath);
    socket.pause();
    socket.write(`${text}\n{"jsonrpc":"2.0","id":"last","method":"barrier"}\n`);
    // Either the connection is dropped or the next request is answered; what must not be is silence.
    const answers = await readUntil(socket, '"last"');
    if (answers.includes('"last"')) assert.match(answers, /"id":"last","result":\{"logVersion":7\}/, text);
    socket.destroy();
  }
  await alive(fixture.socketPath);
});

test('random bytes and random cuts of a good message never hurt', async () => {
  await using fixture = await startFixture();
  const good = Buffer.from('{"jsonrpc":"2.0","id":1,"method":"version"}\n');
  let seed = 12_345;
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return seed % below;
  };
  for (let round = 0; round < 200; round++) {
    const bytes = Buffer.from(good);
    for (let change = random(4); change > 0; change--) bytes[random(bytes.length)] = random(256);
    const socket = await open(fixture.socketPath);
    socket.write(bytes.subarray(0, random(bytes.length + 1)));
    if (round % 2 === 0) socket.destroy();
    else socket.end();
    if (!socket.closed) await once(socket, 'close');
  }
  await alive(fixture.socketPath);
});

test('a client that floods without reading is dropped, within bounded memory', async () => {
  const long = 'x'.repeat(4000);
  await using fixture = await startFixture({
    status: () => ({ ...STATUS, dataDirectory: long }),
  });
  const socket = connect(fixture.socketPath);
  await once(socket, 'connect');
  socket.pause();
  const request = Buffer.from('{"jsonrpc":"2.0","id":1,"method":"status"}\n');
  const batch = Buffer.concat(Array.from({ length: REQUESTS_PER_CONNECTION_MAX }, () => request));
  let sent = 0;
  socket.on('error', () => {});
  while (!fixture.logLines.some((line) => line.includes('does not read')) && sent < 50_000) {
    socket.write(batch);
    sent += REQUESTS_PER_CONNECTION_MAX;
    await turn();
  }
  const line = fixture.logLines.find((line) => line.includes('does not read'));
  assert.ok(line !== undefined, `${sent} requests were taken`);
  const waiting = Number(/(\d+) bytes wait/.exec(line)?.[1]);
  assert.ok(waiting < 2 * SEND_QUEUE_BYTES_MAX, line);
  socket.destroy();
  await alive(fixture.socketPath);
});

test('too many requests at once on one connection are refused, others go on', async () => {
  const gate = Promise.withResolvers<void>();
  await using fixture = await startFixture({
    barrier: async () => {
      await gate.promise;
      return { logVersion: 1 };
    },
  });
  const client = await connectControl({ socket: fixture.socketPath });
  const calls = Array.from({ length: REQUESTS_PER_CONNECTION_MAX + 1 }, () => client.call('barrier'));
  await assert.rejects(calls.at(-1)!, { message: /requests at once/ });
  await alive(fixture.socketPath);
  gate.resolve();
  await Promise.all(calls.slice(0, -1));
  client.close();
});

test('a stale socket is replaced; a live one, another file and a long path are errors', async () => {
  await using fixture = await startFixture();
  const log = collectLog([]);
  await assert.rejects(startControlServer({ socketPath: fixture.socketPath, handlers, log }), {
    code: 'CONTROL_SOCKET_IN_USE',
  });
  await alive(fixture.socketPath);
  const file = join(fixture.directory, 'file');
  writeFileSync(file, 'x');
  await assert.rejects(startControlServer({ socketPath: file, handlers, log }), {
    code: 'CONTROL_SOCKET_FAILED',
  });
  assert.ok(existsSync(file));
  const long = join(fixture.directory, 'x'.repeat(108));
  await assert.rejects(startControlServer({ socketPath: long, handlers, log }), {
    code: 'CONTROL_SOCKET_FAILED',
  });
  await assert.rejects(startControlServer({ socketPath: join(file, 'c'), handlers, log }), {
    code: 'CONTROL_SOCKET_FAILED',
  });

  const stale = join(fixture.directory, 'stale.sock');
  const script = `require('node:net').createServer().listen(process.argv[1], () => console.log('up'))`;
  const killed = spawn(process.execPath, ['-e', script, stale], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(killed.stdout, 'data');
  killed.kill('SIGKILL');
  await once(killed, 'exit');
  assert.ok(existsSync(stale));
  const server = await startControlServer({ socketPath: stale, handlers, log });
  await server.close();
});

test('connecting to nothing says which socket and how to start', async () => {
  await using fixture = await startFixture();
  await assert.rejects(connectControl({ socket: join(fixture.directory, 'none') }), {
    code: 'CONTROL_UNREACHABLE',
    message: /none: there is no such socket/,
    hint: /warrend --config/,
  });
});

async function alive(socketPath: string): Promise<void> {
  const client = await connectControl({ socket: socketPath });
  assert.equal((await client.call('version')).api, 1);
  client.close();
}

async function open(path: string): Promise<Socket> {
  const socket = connect(path);
  await once(socket, 'connect');
  // The server may reset a connection in the middle of a write.
  socket.on('error', () => {});
  socket.resume();
  return socket;
}

async function readUntil(socket: Socket, part: string): Promise<string> {
  let text = '';
  for await (const data of socket) {
    text += String(data);
    if (text.includes(part)) return text;
  }
  return text;
}

/** Waits for a condition that other turns of the event loop bring about; the test runner bounds it. */
async function until(condition: () => boolean): Promise<void> {
  const endMs = performance.now() + 10_000;
  while (!condition()) {
    assert.ok(performance.now() < endMs, 'the condition did not come true in 10 s');
    await turn();
  }
}
