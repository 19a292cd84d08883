/**
 * Random operations on two trees at once: the file system under test and a reference, a plain directory on the
 * machine's own disk. After every operation both must have answered alike (result or errno, bytes read); every
 * now and then both trees are compared whole: type, mode, links, owner, size, xattrs, content, symlink targets.
 *
 * Everything follows from the seed, so a failure is replayed by seed and count. Times are checked where they must
 * agree: explicitly set ones exactly; others only in order (mtime and ctime never before the operation's).
 */

import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import * as sys from './libc.ts';

const FILE_BYTES_MAX = 9 << 20;
const OPEN_FILES_MAX = 12;
const NAMES_MAX = 60;
const COMPARE_EVERY = 500;
const USERS = [0, 1000, 65534];

export interface RandomOptions {
  readonly seed: number;
  readonly operations: number;
  /** Two empty directories. */
  readonly tested: string;
  readonly reference: string;
}

interface OpenFile {
  readonly tested: number;
  readonly reference: number;
}

/** Runs the operations. Errors: says which operation of which seed went apart, and how. */
export function runRandom(options: RandomOptions): void {
  const random = mulberry(options.seed);
  const state = newState(options, random);
  let step = 0;
  try {
    for (step = 1; step <= options.operations; step += 1) {
      one(state);
      if (step % COMPARE_EVERY === 0 || step === options.operations) compareTrees(state);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(
      `seed ${options.seed}, operation ${step} (${state.last}): ${reason}\n` +
        `replay: node test/posix/random.ts --seed ${options.seed} --operations ${step} --dir DIR`,
      { cause: error },
    );
  } finally {
    for (const file of state.open) {
      sys.close(file.tested);
      sys.close(file.reference);
    }
  }
}

interface State {
  readonly tested: string;
  readonly reference: string;
  readonly random: Random;
  readonly open: OpenFile[];
  last: string;
}

interface Random {
  below(limit: number): number;
  pick<T>(list: readonly T[]): T;
  bytes(length: number): Buffer;
}

function newState(options: RandomOptions, random: Random): State {
  return { tested: options.tested, reference: options.reference, random, open: [], last: '' };
}

/** Mulberry32: small, fast, and the same everywhere. */
function mulberry(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return (value ^ (value >>> 14)) >>> 0;
  };
  const below = (limit: number): number => next() % limit;
  return {
    below,
    pick: (list) => list[below(list.length)]!,
    bytes(length) {
      const data = Buffer.allocUnsafe(length);
      const words = length >>> 2;
      const start = next();
      for (let index = 0; index < words; index += 1)
        data.writeUInt32LE((start + Math.imul(index, 0x9e3779b1)) >>> 0, index * 4);
      for (let index = words * 4; index < length; index += 1) data[index] = (start + index) & 255;
      return data;
    },
  };
}

/** Does one thing on both sides and demands one answer. */
function both(state: State, description: string, action: (root: string) => unknown): string {
  state.last = description;
  return agree(
    attempt(() => action(state.tested)),
    attempt(() => action(state.reference)),
  );
}

function onOpen(state: State, file: OpenFile, description: string, action: (fd: number) => unknown): string {
  state.last = description;
  return agree(
    attempt(() => action(file.tested)),
    attempt(() => action(file.reference)),
  );
}

interface Answer {
  readonly code: string;
  readonly value: unknown;
}

function attempt(action: () => unknown): Answer {
  let value: unknown;
  const code = sys.outcome(() => {
    value = action();
  });
  return { code, value };
}

function agree(tested: Answer, reference: Answer): string {
  if (tested.code !== reference.code)
    throw new Error(`answered ${tested.code}, the reference ${reference.code}`);
  if (Buffer.isBuffer(tested.value) && Buffer.isBuffer(reference.value)) {
    if (!tested.value.equals(reference.value)) throw new Error(difference(tested.value, reference.value));
  } else if (tested.code === 'ok' && tested.value !== reference.value) {
    throw new Error(`answered ${String(tested.value)}, the reference ${String(reference.value)}`);
  }
  return reference.code;
}

function difference(tested: Buffer, reference: Buffer): string {
  if (tested.length !== reference.length) return `${tested.length} bytes, the reference ${reference.length}`;
  const at = tested.findIndex((byte, index) => byte !== reference[index]);
  let end = tested.length;
  while (end > at && tested[end - 1] === reference[end - 1]) end -= 1;
  const show = (data: Buffer): string => data.toString('hex', at, at + 16);
  return `bytes ${at} to ${end} of ${tested.length} differ: ${show(tested)}, the reference ${show(reference)}`;
}

function name(state: State): string {
  const number = state.random.below(NAMES_MAX);
  const directory = state.random.below(4);
  return directory === 0 ? `/n${number}` : `/d${directory}/n${number % 20}`;
}

function range(state: State): { offset: number; length: number } {
  const { random } = state;
  // Edges matter: chunks, pages, and single bytes around them.
  const base = random.pick([0, 0, 4096, 65_536, 131_072, 1 << 20, 4 << 20, 8 << 20]);
  const offset = Math.max(0, base + random.pick([0, 0, -1, 1, random.below(20_000), -random.below(5000)]));
  const length =
    1 +
    random.pick([random.below(100), random.below(8192), 4095, random.below(100_000), random.below(300_000)]);
  return { offset, length: Math.min(length, FILE_BYTES_MAX - offset) };
}

function one(state: State): void {
  state.last = '';
  const { random, open } = state;
  const file = open.length > 0 ? random.pick(open) : undefined;
  const action = random.below(100);
  if (file === undefined || action < 14) openFile(state);
  else if (action < 56) onFile(state, file);
  else onName(state);
}

function openFile(state: State): void {
  const { random, open } = state;
  if (open.length >= OPEN_FILES_MAX || (open.length > 0 && random.below(3) === 0)) {
    const [file] = open.splice(random.below(open.length), 1);
    if (file !== undefined) onOpen(state, file, 'close', (fd) => sys.close(fd));
    return;
  }
  const path = name(state);
  const flags = sys.O.CREAT | sys.O.RDWR | random.pick([0, 0, 0, sys.O.TRUNC, sys.O.EXCL, sys.O.APPEND]);
  const fds = new Map<string, number>();
  const code = both(state, `open ${path} ${flags.toString(8)}`, (root) => {
    fds.set(root, sys.open(root + path, flags));
  });
  if (code === 'ok') open.push({ tested: fds.get(state.tested)!, reference: fds.get(state.reference)! });
}

function onFile(state: State, file: OpenFile): void {
  const { random } = state;
  const { offset, length } = range(state);
  const where = `${offset}+${length}`;
  const action = random.below(100);
  if (action < 28) {
    const data = random.bytes(length);
    onOpen(state, file, `write ${where}`, (fd) => sys.pwrite(fd, data, offset));
  } else if (action < 36) {
    const data = random.bytes(length);
    onOpen(state, file, `append ${length}`, (fd) => {
      sys.lseek(fd, 0, sys.SEEK.END);
      return sys.write(fd, data);
    });
  } else if (action < 58) {
    onOpen(state, file, `read ${where}`, (fd) => {
      const data = Buffer.alloc(length);
      return data.subarray(0, sys.pread(fd, data, offset));
    });
  } else if (action < 68) {
    onOpen(state, file, `truncate ${offset}`, (fd) => sys.ftruncate(fd, offset));
  } else if (action < 76) {
    const mode = random.pick([3, 16, 17, 0, 1]);
    onOpen(state, file, `fallocate ${mode} ${where}`, (fd) => sys.fallocate(fd, mode, offset, length));
  } else if (action < 82) copyRange(state, file);
  else if (action < 88) mapWrite(state, file);
  else if (action < 91) onOpen(state, file, 'fsync', (fd) => sys.syncFile(fd));
  else if (action < 94) {
    // Only dropped, not compared: the next reads come from the file system and not from the page cache.
    onOpen(state, file, 'drop cache', (fd) => {
      sys.syncFile(fd);
      return sys.dropCache(fd);
    });
  } else {
    onOpen(state, file, `seek data from ${offset}`, (fd) => {
      const end = sys.lseek(fd, 0, sys.SEEK.END);
      return offset >= end ? sys.lseek(fd, offset, sys.SEEK.DATA) : end;
    });
  }
}

function copyRange(state: State, from: OpenFile): void {
  const to = state.random.pick(state.open);
  const [a, b] = [range(state), range(state)];
  const length = Math.min(a.length, FILE_BYTES_MAX - b.offset);
  state.last = `copy ${a.offset} to ${b.offset}, ${length} bytes`;
  const copy = (source: number, target: number): number => {
    let done = 0;
    while (done < length) {
      const step = sys.copyFileRange(
        { fd: source, offset: a.offset + done },
        { fd: target, offset: b.offset + done },
        length - done,
      );
      if (step === 0) break;
      done += step;
    }
    return done;
  };
  agree(
    attempt(() => copy(from.tested, to.tested)),
    attempt(() => copy(from.reference, to.reference)),
  );
}

function mapWrite(state: State, file: OpenFile): void {
  const { random } = state;
  const ask = random.below(1 << 20);
  const data = random.bytes(1 + random.below(9000));
  onOpen(state, file, `mapped write ${data.length} bytes`, (fd) => {
    const size = sys.lseek(fd, 0, sys.SEEK.END);
    if (size < data.length) return 0;
    const offset = ask % (size - data.length + 1);
    using mapping = sys.mmap(fd, size, { write: true, shared: true });
    mapping.write(offset, data);
    if (ask % 2 === 0) mapping.sync();
    return mapping.read(
      Math.max(0, offset - 10),
      Math.min(size - Math.max(0, offset - 10), data.length + 20),
    );
  });
}

function onName(state: State): void {
  const { random } = state;
  const [path, second] = [name(state), name(state)];
  const seconds = random.below(2 ** 31);
  const value = random.bytes(random.below(200));
  const directory = `/d${1 + random.below(3)}`;
  const bits = random.below(0o10000);
  const user = random.pick(USERS);
  const table: [string, (root: string) => unknown][] = [
    [`rename ${path} ${second}`, (root) => sys.rename(root + path, root + second)],
    [`rename ${path} ${second}`, (root) => sys.rename(root + path, root + second)],
    [`rename noreplace ${path} ${second}`, (root) => sys.rename(root + path, root + second, 1)],
    [`exchange ${path} ${second}`, (root) => sys.rename(root + path, root + second, 2)],
    [`link ${path} ${second}`, (root) => sys.link(root + path, root + second)],
    [`unlink ${path}`, (root) => sys.unlink(root + path)],
    [`unlink ${path}`, (root) => sys.unlink(root + path)],
    [`symlink ${path}`, (root) => sys.symlink(`target-${seconds}`, root + path)],
    [`mkdir ${directory}`, (root) => sys.mkdir(root + directory)],
    [`mkdir ${path}`, (root) => sys.mkdir(root + path)],
    [`rmdir ${path}`, (root) => sys.rmdir(root + path)],
    [`rmdir ${directory}`, (root) => sys.rmdir(root + directory)],
    [`mkfifo ${path}`, (root) => sys.mknod(root + path, sys.TYPE.FIFO | 0o600)],
    [`chmod ${path} ${bits.toString(8)}`, (root) => sys.chmod(root + path, bits)],
    [`chown ${path} ${user}`, (root) => sys.lchown(root + path, user, user)],
    [`truncate ${path}`, (root) => sys.truncate(root + path, seconds % 300_000)],
    [
      `utimens ${path} ${seconds}`,
      (root) => {
        const stamp = { seconds, nanoseconds: seconds % 1_000_000_000 };
        sys.utimens(root + path, { atime: stamp, mtime: stamp }, false);
        return lstatSync(root + path, { bigint: true }).mtimeNs;
      },
    ],
    [`setxattr ${path}`, (root) => sys.setxattr(root + path, `trusted.x${seconds % 4}`, value, 0, false)],
    [`removexattr ${path}`, (root) => sys.removexattr(root + path, `trusted.x${seconds % 4}`, false)],
    [`stat ${path}`, (root) => describe(root + path)],
    [
      `list ${directory}`,
      (root) =>
        readdirSync(root + directory)
          .sort()
          .join(' '),
    ],
  ];
  const [description, action] = random.pick(table);
  both(state, description, action);
}

/** What must be the same of one object, on a line. Sizes of directories and devices are each file system's own. */
function describe(path: string): string {
  const found = lstatSync(path);
  const size = found.isDirectory() ? '-' : found.size;
  return [found.mode.toString(8), found.nlink, found.uid, found.gid, size].join(' ');
}

function compareTrees(state: State): void {
  state.last = 'compare the trees';
  const walk = (below: string): void => {
    const names = [state.tested, state.reference].map((root) => readdirSync(root + below).sort());
    if (names[0]!.join('/') !== names[1]!.join('/')) {
      throw new Error(`${below || '/'} lists ${names[0]!.join(' ')}; the reference ${names[1]!.join(' ')}`);
    }
    for (const leaf of names[1]!) {
      const path = `${below}/${leaf}`;
      state.last = `compare ${path}`;
      agree(
        attempt(() => describe(state.tested + path)),
        attempt(() => describe(state.reference + path)),
      );
      const look = (root: string): string =>
        sys
          .listxattr(root + path, false)
          .sort()
          .map((key) => `${key}=${sys.getxattr(root + path, key, false).toString('hex')}`)
          .join(' ');
      agree(
        attempt(() => look(state.tested)),
        attempt(() => look(state.reference)),
      );
      const kind = lstatSync(state.reference + path);
      if (kind.isDirectory()) walk(path);
      else if (kind.isSymbolicLink()) both(state, `readlink ${path}`, (root) => readlinkSync(root + path));
      else if (kind.isFile()) both(state, `read ${path}`, (root) => readFileSync(root + path));
    }
  };
  walk('');
}
