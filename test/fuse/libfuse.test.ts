/**
 * The libfuse driver as a user without root sees it: the server and the programs that use the mount are
 * processes of their own, run as `nobody` when the test itself runs as root.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

const NOBODY = 65534;
const COMMAND_TIMEOUT_MS = 20_000;
const isRoot = process.getuid!() === 0;
const asUser = isRoot ? ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'] : [];

let mountPoint: string;
let deviceMode: number;

before(() => {
  deviceMode = statSync('/dev/fuse').mode & 0o777;
  if (isRoot && deviceMode !== 0o666) chmodSync('/dev/fuse', 0o666);
  mountPoint = mkdtempSync(path.join(tmpdir(), 'warren-libfuse-'));
  if (isRoot) chownSync(mountPoint, NOBODY, NOBODY);
});

after(() => {
  if (isMounted()) spawnSync('fusermount', ['-uz', mountPoint]);
  rmdirSync(mountPoint);
  if (isRoot) chmodSync('/dev/fuse', deviceMode);
});

test('files, directories and links behave', async () => {
  await using _server = await serve();
  assert.equal(
    shell('umask 027; echo one > a; mkdir -p d/e; echo two >> a; cat a; stat -c %a a d'),
    'one\ntwo\n640\n750\n',
  );
  assert.equal(
    shell('ln a b; ln -s a s; readlink s; stat -c %h b; [ a -ef b ] && echo same'),
    'a\n2\nsame\n',
  );
  assert.equal(shell('mv b d/e/c; cat d/e/c; ls d/e; rm d/e/c; stat -c %h a'), 'one\ntwo\nc\n1\n');
  assert.equal(shell('mkfifo p; stat -c %F p; chmod 4711 a; stat -c %a a; rm p'), 'fifo\n4711\n');
  assert.match(failure('rmdir d'), /not empty/);
  assert.equal(shell('rmdir d/e d; ls -A'), 'a\ns\n');
  assert.match(failure('cat missing'), /No such file/);
  assert.match(failure(`: > ${'n'.repeat(256)}`), /too long/);
});

test('content is right at every offset and after truncation', async () => {
  await using _server = await serve();
  const source = process.execPath;
  assert.equal(
    shell(`head -c 5000000 ${source} > big; head -c 5000000 ${source} | cmp - big && echo equal`),
    'equal\n',
  );
  assert.equal(
    shell('truncate -s 3 big; wc -c < big; truncate -s 6 big; od -An -tx1 -j3 big'),
    '3\n 00 00 00\n',
  );
  assert.equal(
    shell('printf 12 > x; exec 3<>x; rm x; printf 3 >&3; cat /dev/fd/3 | wc -c; ls x 2>&1 | wc -l').trim(),
    '2\n1',
  );
});

test('close flushes, fsync syncs, and every open file is released', async () => {
  await using server = await serve();
  shell(
    'dd if=/dev/zero of=f bs=4k count=1 conv=fsync status=none; dd if=/dev/zero of=f conv=fdatasync count=1 status=none',
  );
  await until(async () => (await server.ask('calls')).open === 0);
  const { calls } = await server.ask('calls');
  for (const call of ['flush', 'fsync', 'fdatasync', 'release'])
    assert.ok((calls as string[]).includes(call), call);
});

test('both times are kept, the second one too', async () => {
  await using _server = await serve();
  const set = "require('fs').utimesSync('t', 1000000.25, 2000000.5)";
  const get = "const s = require('fs').statSync('t'); console.log(s.atimeMs, s.mtimeMs)";
  assert.equal(shell(`: > t; ${process.execPath} -e "${set}; ${get}"`), '1000000250 2000000500\n');
});

test('extended attributes keep their bytes and report their errors', async () => {
  await using _server = await serve();
  const result = python(`
import os, errno
def code(call):
    try: call()
    except OSError as e: return errno.errorcode[e.errno]
open('x', 'w').close()
os.setxattr('x', 'user.a', b'\\0\\xff' * 1000)
assert os.getxattr('x', 'user.a') == b'\\0\\xff' * 1000
os.setxattr('x', 'user.empty', b'')
assert os.getxattr('x', 'user.empty') == b''
assert sorted(os.listxattr('x')) == ['user.a', 'user.empty'], os.listxattr('x')
print(code(lambda: os.setxattr('x', 'user.a', b'', os.XATTR_CREATE)))
print(code(lambda: os.setxattr('x', 'user.b', b'', os.XATTR_REPLACE)))
print(code(lambda: os.getxattr('x', 'user.none')))
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
small = ctypes.create_string_buffer(8)
print(libc.getxattr(b'x', b'user.a', small, 8), errno.errorcode[ctypes.get_errno()])
print(libc.listxattr(b'x', small, 8), errno.errorcode[ctypes.get_errno()])
os.removexattr('x', 'user.a')
print(code(lambda: os.removexattr('x', 'user.a')))
`);
  assert.equal(result, 'EEXIST\nENODATA\nENODATA\n-1 ERANGE\n-1 ERANGE\nENODATA\n');
});

test('what the library cannot do is refused, not pretended', async () => {
  await using _server = await serve();
  const result = python(`
import os, errno
def code(call):
    try: call()
    except OSError as e: return errno.errorcode[e.errno]
open('x', 'w').close()
print(code(lambda: open(b'bad\\xff', 'w')))
print(code(lambda: os.symlink(b'\\xff', 'link')))
print(code(lambda: os.posix_fallocate(os.open('x', os.O_RDWR), 0, 10)) or os.stat('x').st_size)
print(code(lambda: os.open('.', os.O_TMPFILE | os.O_RDWR)))
print(code(lambda: os.setxattr('x', 'system.posix_acl_access', b'\\2\\0\\0\\0' + b'\\1\\0\\6\\0\\xff\\xff\\xff\\xff' + b'\\4\\0\\4\\0\\xff\\xff\\xff\\xff' + b'\\x20\\0\\4\\0\\xff\\xff\\xff\\xff')))
`);
  assert.deepEqual(result.trim().split('\n'), ['EINVAL', 'EINVAL', '10', 'ENOTSUP', 'ENOTSUP']);
});

test('a directory of five thousand entries is listed once each, and df shows a large disk', async () => {
  await using _server = await serve();
  shell(`${process.execPath} -e "for (let i = 0; i < 5000; i++) require('fs').mkdirSync('d' + i)"`);
  assert.equal(shell('ls | wc -l; ls | sort -u | wc -l'), '5000\n5000\n');
  assert.equal(shell('df --output=size -B1T .').split('\n')[1]!.trim(), '64');
});

test('another user has no access', async () => {
  assert.ok(isRoot, 'this test needs root to be another user: run it with sudo');
  await using _server = await serve();
  const ls = spawnSync('ls', [mountPoint], { encoding: 'utf8', timeout: COMMAND_TIMEOUT_MS });
  assert.match(ls.stderr, /Permission denied/);
});

test('a busy mount is not unmounted unless forced', async () => {
  await using server = await serve();
  shell('echo x > held');
  const holder = user(['sh', '-c', 'exec 3< "$0/held"; echo ready; read line', mountPoint]);
  await once(holder.stdout!, 'data');
  assert.deepEqual(await server.ask('unmount'), { result: 'MOUNT_BUSY' });
  assert.ok(isMounted());
  const forced = server.ask('force');
  await until(() => !isMounted());
  holder.stdin!.end();
  // The line `closed` may come before the answer.
  assert.ok(['ok', undefined].includes((await forced).result as string | undefined));
});

test('a mount that somebody else unmounts is noticed', async () => {
  await using server = await serve();
  shell('echo x > f');
  assert.equal(
    spawnSync(asUser[0] ?? 'fusermount', [
      ...asUser.slice(1),
      ...(isRoot ? ['fusermount'] : []),
      '-u',
      mountPoint,
    ]).status,
    0,
  );
  assert.equal(await server.line(), 'closed');
});

test('the mount of a killed server is replaced', async () => {
  const first = await serve();
  first.kill();
  await first.gone;
  assert.ok(isMounted(), 'a dead mount stays behind');
  await using _second = await serve();
  assert.equal(shell('echo alive > f; cat f'), 'alive\n');
});

interface Server extends AsyncDisposable {
  ask(command: string): Promise<Record<string, unknown>>;
  line(): Promise<string>;
  kill(): void;
  readonly gone: Promise<unknown>;
}

async function serve(): Promise<Server> {
  // Another run of this file on the same machine may have put the mode back.
  if (isRoot) chmodSync('/dev/fuse', 0o666);
  const child = user([process.execPath, path.join(import.meta.dirname, 'libfuse-server.ts'), mountPoint]);
  const gone = once(child, 'exit');
  const lines = createInterface(child.stdout!)[Symbol.asyncIterator]();
  const line = async () => String((await lines.next()).value);
  assert.equal(await line(), 'mounted');
  return {
    line,
    gone,
    kill: () => child.kill('SIGKILL'),
    async ask(command) {
      child.stdin!.write(`${command}\n`);
      const text = await line();
      return text.startsWith('{') ? JSON.parse(text) : {};
    },
    async [Symbol.asyncDispose]() {
      child.stdin!.end('force\n');
      await gone;
    },
  };
}

function user(command: string[]): ChildProcess {
  const [program, ...args] = [...asUser, ...command];
  return spawn(program!, args, { stdio: ['pipe', 'pipe', 'inherit'] });
}

function shell(script: string): string {
  const { stdout, stderr, status } = execute(['sh', '-c', script]);
  assert.equal(status, 0, `${script}\n${stderr}${stdout}`);
  return stdout;
}

function failure(script: string): string {
  const { stderr, status } = execute(['sh', '-c', script]);
  assert.notEqual(status, 0, `${script} should fail`);
  return stderr;
}

function python(script: string): string {
  const { stdout, stderr, status } = execute(['python3', '-c', script]);
  assert.equal(status, 0, stderr);
  return stdout;
}

function execute(command: string[]) {
  // The working directory is entered after the change of user: root may not enter the mount.
  const enter = ['sh', '-c', 'cd "$0" && exec "$@"', mountPoint, ...command];
  const [program, ...args] = [...asUser, ...enter];
  return spawnSync(program!, args, {
    encoding: 'utf8',
    timeout: COMMAND_TIMEOUT_MS,
    env: { ...process.env, LC_ALL: 'C' },
  });
}

function isMounted(): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountPoint} `);
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + COMMAND_TIMEOUT_MS;
  while (!(await condition())) {
    assert.ok(performance.now() < deadlineMs, 'the condition came true in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
