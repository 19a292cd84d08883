/**
 * A disk whose every write and flush is recorded, so that one run under load gives the images of hundreds of power
 * cuts (disk-record.ts): the unsynced sectors lost, kept or torn, in any combination.
 *
 * The disk is a loop device over a file that `recorded-disk-server.ts` serves; on it lies a real ext4 or xfs, which
 * replays its own journal when the image of a cut is mounted.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type DiskRecord, readDiskRecord } from './disk-record.ts';
import { requireFuse, requirePackage, requireRoot, run } from './requirements.ts';
import { isMounted } from './target.ts';

const SERVER = fileURLToPath(new URL('./recorded-disk-server.ts', import.meta.url));
const MOUNT_TIMEOUT_MS = 20_000;
const END_TIMEOUT_MS = 20_000;
const POLL_MS = 5;

export interface RecordedDisk extends AsyncDisposable {
  /** The disk as it was before the recording; `cut` a copy of it. */
  readonly image: string;
  /** Where it is mounted while `recording` runs. */
  readonly directory: string;
  /** Mounts the disk and records until `stop`, which takes it away as it is. */
  recordUntil(journal: string, body: () => Promise<void>): Promise<DiskRecord>;
  /** Another disk from then on. */
  replace(image: string): void;
  /** A copy of the disk, not mounted. */
  copy(): string;
}

export function openRecordedDisk(type: 'ext4' | 'xfs', megabytes: number): RecordedDisk {
  requireRoot();
  requireFuse();
  const make = requirePackage(`mkfs.${type}`, type === 'xfs' ? 'xfsprogs' : 'e2fsprogs');
  const place = mkdtempSync(join(tmpdir(), 'warren-recorded-'));
  const image = join(place, 'image');
  const working = join(place, 'working');
  const served = join(place, 'served');
  const record = join(place, 'record');
  const directory = join(place, 'disk');
  writeFileSync(image, '');
  truncateSync(image, megabytes * 1024 * 1024);
  mkdirSync(directory);
  writeFileSync(served, '');
  run(make, ['-q', image]);
  let server: ChildProcess | undefined;
  let copies = 0;

  async function takeAway(): Promise<void> {
    if (isMounted(directory)) spawnSync('umount', [directory]);
    if (isMounted(directory)) spawnSync('umount', ['-l', directory]);
    if (server === undefined) return;
    // The loop device lets go of the file a moment after the unmount.
    const limit = performance.now() + END_TIMEOUT_MS;
    while (isMounted(served) && spawnSync('umount', [served]).status !== 0 && performance.now() < limit) {
      await delay(POLL_MS);
    }
    if (isMounted(served)) spawnSync('umount', ['-l', served]);
    if (server.exitCode === null && server.signalCode === null) {
      const ended = once(server, 'exit', { signal: AbortSignal.timeout(END_TIMEOUT_MS) });
      await ended.catch(() => server?.kill('SIGKILL'));
    }
    server = undefined;
  }

  return {
    image,
    directory,
    async recordUntil(journal, body) {
      copySparse(image, working);
      rmSync(record, { force: true });
      const words = [SERVER, working, served, record, journal];
      server = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'inherit'] });
      try {
        const limit = performance.now() + MOUNT_TIMEOUT_MS;
        while (!isMounted(served)) {
          if (performance.now() > limit) throw new Error(`${served} was not mounted in time`);
          await delay(POLL_MS);
        }
        await asyncRun('mount', ['-o', 'loop', served, directory]);
        await body();
      } finally {
        await takeAway();
      }
      return readDiskRecord(record);
    },
    replace: (other) => copySparse(other, image),
    copy() {
      const to = join(place, `copy-${copies++}`);
      copySparse(image, to);
      return to;
    },
    async [Symbol.asyncDispose]() {
      await takeAway();
      rmSync(place, { recursive: true, force: true });
    },
  };
}

/** Mounts an image for the time of `body`. */
export async function withMounted(
  image: string,
  directory: string,
  body: () => Promise<void>,
): Promise<void> {
  run('mount', ['-o', 'loop', image, directory]);
  try {
    await body();
  } finally {
    if (spawnSync('umount', [directory]).status !== 0) spawnSync('umount', ['-l', directory]);
  }
}

function copySparse(from: string, to: string): void {
  rmSync(to, { force: true });
  run('cp', ['--sparse=always', from, to]);
}

/** Without blocking this process: it does not serve the disk, but it may have to end the one that does. */
async function asyncRun(program: string, words: readonly string[]): Promise<void> {
  const child = spawn(program, words, { stdio: ['ignore', 'inherit', 'inherit'] });
  const [code] = (await once(child, 'exit', { signal: AbortSignal.timeout(MOUNT_TIMEOUT_MS) })) as [number];
  if (code !== 0) throw new Error(`${program} ${words.join(' ')} ended with ${code}`);
}
