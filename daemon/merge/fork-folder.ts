/**
 * Forks that are kept on the disk until they are merged: `fork/<epoch>-<version>/` in the data directory, with the
 * state of the side that lost (`state.db`), its entries since the common one (`entries`), what the merge has done
 * (`done`), and `fork.json`, which is written last: without it the folder counts for nothing and is removed.
 *
 * Everything is durable when `keep` resolves, because replication drops the entries right after.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import type { EncodedEntry, LogPosition } from '../protocol/cluster.ts';
import type { Version } from '../protocol/ids.ts';

const LENGTH_BYTES = 4;

export interface KeptFork {
  readonly id: string;
  readonly directory: string;
  /** The last entry that both histories have. */
  readonly common: LogPosition;
  readonly last: LogPosition;
  /** When it was kept, milliseconds since 1970. */
  readonly timeMs: number;
  /** Whether the entries are known; else only the state is. */
  readonly hasEntries: boolean;
}

export interface ForkFolder {
  /** Oldest first. */
  list(): KeptFork[];
  keep(
    fork: Pick<KeptFork, 'common' | 'last' | 'timeMs'> & {
      readonly entries: readonly EncodedEntry[] | undefined;
    },
    keepState: (file: string) => Promise<void>,
  ): Promise<KeptFork>;
  entries(fork: KeptFork): Generator<EncodedEntry>;
  /** What `note` was told, also by an earlier life of this process. */
  done(fork: KeptFork): Set<string>;
  note(fork: KeptFork, what: string): void;
  remove(fork: KeptFork): void;
}

export function stateFileOf(fork: KeptFork): string {
  return path.join(fork.directory, 'state.db');
}

export function openForkFolder(dataDirectory: string): ForkFolder {
  const root = path.join(dataDirectory, 'fork');
  for (const name of namesIn(root)) {
    const directory = path.join(root, name);
    if (!fs.existsSync(path.join(directory, 'fork.json'))) fs.rmSync(directory, { recursive: true });
  }

  return {
    list: () =>
      namesIn(root)
        .map((name): KeptFork => {
          const directory = path.join(root, name);
          const text = fs.readFileSync(path.join(directory, 'fork.json'), 'utf8');
          const told = JSON.parse(text) as Omit<KeptFork, 'id' | 'directory'>;
          return { ...told, id: name, directory };
        })
        .sort((a, b) => a.timeMs - b.timeMs),
    async keep({ common, last, timeMs, entries }, keepState) {
      const id = `${last.epoch}-${last.version}`;
      const directory = path.join(root, id);
      const hasEntries = entries !== undefined;
      const fork = { id, directory, common, last, timeMs, hasEntries };
      // Told before, by a try that was interrupted after it.
      if (fs.existsSync(path.join(directory, 'fork.json'))) return fork;
      fs.rmSync(directory, { recursive: true, force: true });
      fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
      await keepState(path.join(directory, 'state.db'));
      if (entries !== undefined) writeDurably(path.join(directory, 'entries'), encoded(entries));
      const told = JSON.stringify({ common, last, timeMs, hasEntries });
      writeDurably(path.join(directory, 'fork.json'), [Buffer.from(told)]);
      for (const folder of [directory, root, dataDirectory]) sync(folder);
      return fork;
    },
    *entries(fork) {
      const bytes = fs.readFileSync(path.join(fork.directory, 'entries'));
      let version = fork.common.version;
      for (let at = 0; at + LENGTH_BYTES <= bytes.length; ) {
        const length = bytes.readUInt32BE(at);
        at += LENGTH_BYTES;
        version = (version + 1) as Version;
        yield { version, body: bytes.subarray(at, at + length) };
        at += length;
      }
    },
    done(fork) {
      const file = path.join(fork.directory, 'done');
      const lines = fs.existsSync(file) ? fs.readFileSync(file, 'utf8').split('\n') : [];
      return new Set(lines.filter((line) => line !== '').map((line) => JSON.parse(line) as string));
    },
    note: (fork, what) => fs.appendFileSync(path.join(fork.directory, 'done'), `${JSON.stringify(what)}\n`),
    remove(fork) {
      // Without its marker it is nothing any more, whatever of it is left.
      fs.rmSync(path.join(fork.directory, 'fork.json'), { force: true });
      fs.rmSync(fork.directory, { recursive: true, force: true });
    },
  };
}

function namesIn(directory: string): string[] {
  return fs.existsSync(directory) ? fs.readdirSync(directory) : [];
}

function* encoded(entries: readonly EncodedEntry[]): Generator<Uint8Array> {
  for (const { body } of entries) {
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeUInt32BE(body.length);
    yield length;
    yield body;
  }
}

function writeDurably(file: string, pieces: Iterable<Uint8Array>): void {
  const temporary = `${file}.new`;
  const descriptor = fs.openSync(temporary, 'w', 0o600);
  try {
    for (const piece of pieces) fs.writeFileSync(descriptor, piece);
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
  fs.renameSync(temporary, file);
  sync(path.dirname(file));
}

function sync(directory: string): void {
  const descriptor = fs.openSync(directory, 'r');
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}
