/**
 * A program that changes files without end, and a check of what must be there after it, its daemon or its machine
 * was cut off. As a program: `load.ts DIRECTORY JOURNAL SEED [careful]` runs until an operation fails.
 *
 * Before each change it writes "begin" to a journal outside the file system under test, and after it "ack" with
 * what was promised: `close` (close or rename returned) or `fsync`. Three kinds of file make every outcome
 * checkable from the journal alone:
 *   whole   replaced by rename or unlinked: its content is exactly one version
 *   log     only appended to: its content is a prefix of one sequence
 *   blocks  overwritten in place, 4 KiB at a time: each block is exactly one version
 * Invariant checked: the state lies between the newest acknowledged version and the newest begun one.
 *
 * `careful` fsyncs data before a rename: plain file systems promise nothing without it, Warren does.
 */

import * as fs from 'node:fs';
import { join } from 'node:path';

const FILES_OF_A_KIND = 8;
const BLOCK_BYTES = 4096;
const BLOCKS = 40;
const SIZES = [10, 3000, 3000, 20_000, 70_000, 300_000];
const LARGE_BYTES = 5_000_000;
const OPERATIONS_MAX = 1_000_000;

export type Acknowledged = 'close' | 'fsync';

interface Line {
  readonly event: 'begin' | 'ack';
  readonly file: string;
  readonly version: number;
  readonly block?: number;
  readonly gone?: boolean;
  readonly promise?: Acknowledged;
}

function sizeOf(version: number): number {
  return version % 37 === 0 ? LARGE_BYTES : SIZES[version % SIZES.length]!;
}
function contentOf(file: string, version: number, bytes: number): Buffer {
  return Buffer.alloc(bytes, `${file}#${version}|`);
}
function recordOf(file: string, version: number): Buffer {
  return contentOf(file, version, 50 + ((version * 7919) % 6000));
}

/** Works until an operation fails (the file system went away) or OPERATIONS_MAX. */
function work(directory: string, journalPath: string, seed: number, careful: boolean): void {
  const journal = fs.openSync(journalPath, 'a');
  const say = (line: Line): void => void fs.writeSync(journal, `${JSON.stringify(line)}\n`);
  let state = seed * 2 + 1;
  const below = (limit: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % limit;
  };
  const versions = new Map<string, number>();
  const directoryFd = fs.openSync(directory, 'r');
  const finish = (fd: number, line: Omit<Line, 'event' | 'promise'>): void => {
    if (below(2) === 0) {
      fs.fsyncSync(fd);
      // A new name needs its directory on the disk too.
      fs.fsyncSync(directoryFd);
      say({ ...line, event: 'ack', promise: 'fsync' });
    }
    fs.closeSync(fd);
    say({ ...line, event: 'ack', promise: 'close' });
  };
  for (let step = 0; step < OPERATIONS_MAX; step += 1) {
    const kind = ['whole', 'whole', 'log', 'blocks'][below(4)]!;
    const file = `${kind}-${below(FILES_OF_A_KIND)}`;
    const path = join(directory, file);
    const version = (versions.get(file) ?? 0) + 1;
    versions.set(file, version);
    if (kind === 'whole') {
      const gone = below(5) === 0;
      say({ event: 'begin', file, version, gone });
      if (gone) fs.rmSync(path, { force: true });
      else {
        const temporary = `${path}.tmp`;
        const fd = fs.openSync(temporary, 'w');
        writeAll(fd, contentOf(file, version, sizeOf(version)));
        if (careful || below(2) === 0) fs.fsyncSync(fd);
        fs.closeSync(fd);
        fs.renameSync(temporary, path);
      }
      say({ event: 'ack', file, version, gone, promise: 'close' });
      if (below(3) === 0) {
        // The file's own data first: a directory's fsync promises names, not content.
        if (!gone) {
          const fd = fs.openSync(path, 'r');
          fs.fsyncSync(fd);
          fs.closeSync(fd);
        }
        fs.fsyncSync(directoryFd);
        say({ event: 'ack', file, version, gone, promise: 'fsync' });
      }
    } else if (kind === 'log') {
      say({ event: 'begin', file, version });
      const fd = fs.openSync(path, 'a');
      writeAll(fd, recordOf(file, version));
      finish(fd, { file, version });
    } else {
      const block = below(BLOCKS);
      say({ event: 'begin', file, version, block });
      const fd = fs.openSync(path, fs.constants.O_CREAT | fs.constants.O_RDWR, 0o644);
      fs.writeSync(fd, contentOf(file, version, BLOCK_BYTES), 0, BLOCK_BYTES, block * BLOCK_BYTES);
      finish(fd, { file, version, block });
    }
  }
}

function writeAll(fd: number, data: Buffer): void {
  for (let done = 0; done < data.length; )
    done += fs.writeSync(fd, data, done, Math.min(65_536, data.length - done));
}

interface Known {
  begun: number;
  kept: number;
  gone: Set<number>;
  /** Of a `blocks` file: the begun versions of each block, and the newest kept one. */
  blocks: Map<number, { begun: number[]; kept: number }>;
}

/** How many acknowledgements the journal holds. */
export function journalLines(journalPath: string): number {
  return fs.existsSync(journalPath) ? fs.readFileSync(journalPath, 'utf8').split('\n').length - 1 : 0;
}

/**
 * Compares `directory` with the journal; `promise` says which acknowledgements count (`close` counts both).
 * `looseTails`: unsynced bytes at a log's end may be anything (ext4 promises no more; Warren does).
 * Answers how many files were checked. Errors: every file that is wrong, and how.
 */
export function verifyLoad(
  directory: string,
  journalPath: string,
  promise: Acknowledged,
  options: { looseTails?: boolean } = {},
): number {
  const files = new Map<string, Known>();
  const lines = fs.readFileSync(journalPath, 'utf8').split('\n').filter(Boolean);
  for (const text of lines) {
    const line = JSON.parse(text) as Line;
    const known = files.get(line.file) ?? { begun: 0, kept: 0, gone: new Set<number>(), blocks: new Map() };
    files.set(line.file, known);
    if (line.gone === true) known.gone.add(line.version);
    const block =
      line.block === undefined ? undefined : (known.blocks.get(line.block) ?? { begun: [], kept: 0 });
    if (block !== undefined) known.blocks.set(line.block!, block);
    if (line.event === 'begin') {
      known.begun = line.version;
      block?.begun.push(line.version);
    } else if (promise === 'close' || line.promise === 'fsync') {
      // An fsync of a whole file covers everything written to it before.
      known.kept = line.version;
      for (const each of known.blocks.values()) each.kept = each.begun.at(-1) ?? 0;
    }
  }
  const wrong: string[] = [];
  for (const [file, known] of files) {
    const reason = check(directory, file, known, options.looseTails === true);
    if (reason !== undefined) wrong.push(`${file}: ${reason} (kept ${known.kept}, begun ${known.begun})`);
  }
  if (wrong.length > 0)
    throw new Error(`${wrong.length} of ${files.size} files are wrong:\n${wrong.join('\n')}`);
  return files.size;
}

function check(directory: string, file: string, known: Known, looseTails: boolean): string | undefined {
  let found: Buffer | undefined;
  try {
    found = fs.readFileSync(join(directory, file));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return String(error);
  }
  if (file.startsWith('whole')) return checkWhole(file, known, found);
  if (found === undefined) return known.kept === 0 ? undefined : 'is missing';
  return file.startsWith('log') ? checkLog(file, known, found, looseTails) : checkBlocks(file, known, found);
}

function checkWhole(file: string, known: Known, found: Buffer | undefined): string | undefined {
  for (let version = known.kept; version <= known.begun; version += 1) {
    const gone = version === 0 || known.gone.has(version);
    if (gone && found === undefined) return undefined;
    if (!gone && found?.equals(contentOf(file, version, sizeOf(version)))) return undefined;
  }
  if (found === undefined) return 'is missing';
  return `${found.length} bytes that start with ${JSON.stringify(found.toString('latin1', 0, 24))} are no allowed version`;
}

function checkLog(file: string, known: Known, found: Buffer, looseTails: boolean): string | undefined {
  const records = [];
  let kept = 0;
  for (let version = 1; version <= known.begun; version += 1) {
    const record = recordOf(file, version);
    records.push(record);
    if (version <= known.kept) kept += record.length;
  }
  const all = Buffer.concat(records);
  if (found.length < kept) return `has ${found.length} bytes, ${kept} were acknowledged`;
  if (found.length > all.length) return `has ${found.length} bytes, only ${all.length} were written`;
  const checked = looseTails ? kept : found.length;
  return found.subarray(0, checked).equals(all.subarray(0, checked)) ? undefined : 'is not what was appended';
}

function checkBlocks(file: string, known: Known, found: Buffer): string | undefined {
  for (const [block, { begun, kept }] of known.blocks) {
    const data = found.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    const whole = Buffer.concat([data], BLOCK_BYTES);
    const allowed = begun.filter((version) => version >= kept);
    const matches = allowed.some((version) => whole.equals(contentOf(file, version, BLOCK_BYTES)));
    if (!matches && !(kept === 0 && whole.equals(Buffer.alloc(BLOCK_BYTES)))) {
      return `block ${block} is ${JSON.stringify(whole.toString('latin1', 0, 24))}, allowed ${kept} to ${begun.at(-1)}`;
    }
  }
  return undefined;
}

const [, main, directory, journalPath, seed, careful] = process.argv;
if (main === import.meta.filename && directory !== undefined && journalPath !== undefined) {
  try {
    work(directory, journalPath, Number(seed), careful === 'careful');
  } catch (error) {
    // The file system went away under the load: that is what the caller wants.
    process.stderr.write(`${String(error)}\n`);
  }
}
