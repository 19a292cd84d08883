/**
 * The thread that hashes, writes, syncs and checks chunk files, with blocking calls: that is what a thread of
 * its own is for. It keeps no state between jobs. Descriptors it opens for `write` are closed by the `sync`
 * job, possibly in another thread.
 */

import { hash as digest } from 'node:crypto';
import * as fs from 'node:fs';
import type { ChunkHash } from '../protocol/ids.ts';
import { systemErrorCode } from '../protocol/errors.ts';
import { serveJobs } from '../runtime/worker-pool.ts';
import { checksumsOf } from './checksums.ts';
import type { CheckOutcome, FileIdentity, FileJobs, Outcome, WriteOutcome } from './file-jobs.ts';
import { chunkPath, layoutOf, shardOf } from './layout.ts';

/** Quarantine keeps at most this many versions of one chunk; the last is overwritten then. */
const QUARANTINED_VERSIONS_MAX = 100;
const COMPARE_BYTES = 256 * 1024;

const scratch = Buffer.allocUnsafeSlow(COMPARE_BYTES);

serveJobs<FileJobs>({ hash: hashJob, write, sync, publish, check });

function hashJob({ data }: FileJobs['hash']['job']): FileJobs['hash']['result'] {
  return digest('sha256', data) as ChunkHash;
}

function write(job: FileJobs['write']['job']): WriteOutcome {
  const layout = layoutOf(job.directory);
  let setAside: string | undefined;
  if (job.keep) {
    const path = chunkPath(layout, job.hash);
    if (job.known !== undefined && job.known === identityAt(path)) {
      return { kind: 'kept', descriptor: undefined, identity: job.known, checksums: undefined, setAside };
    }
    const present = compare(path, job.data);
    if (present.kind === 'equal') {
      const { descriptor, identity } = present;
      const checksums = checksumsOf(job.data);
      if (!job.durable) return { kind: 'kept', descriptor, identity, checksums, setAside };
      fs.closeSync(descriptor);
      return { kind: 'kept', descriptor: undefined, identity, checksums, setAside };
    }
    if (present.kind === 'different') {
      quarantine(job.directory, job.hash);
      setAside = present.reason;
    }
  }
  const temporary = `${layout.temporary}/${job.temporary}`;
  const descriptor = fs.openSync(temporary, 'wx', 0o600);
  try {
    let written = 0;
    while (written < job.data.length) written += fs.writeSync(descriptor, job.data, written);
  } catch (error) {
    fs.closeSync(descriptor);
    codeOf(() => fs.rmSync(temporary, { force: true }));
    throw error;
  }
  return { kind: 'written', descriptor, identity: undefined, checksums: checksumsOf(job.data), setAside };
}

type Comparison =
  | { readonly kind: 'absent' }
  | { readonly kind: 'equal'; readonly descriptor: number; readonly identity: FileIdentity }
  | { readonly kind: 'different'; readonly reason: string };

function identityAt(path: string): FileIdentity | undefined {
  const stats = fs.statSync(path, { bigint: true, throwIfNoEntry: false });
  return stats === undefined ? undefined : identityOf(stats);
}

function identityOf({ ino, size, mtimeNs, ctimeNs }: fs.BigIntStats): FileIdentity {
  return `${ino} ${size} ${mtimeNs} ${ctimeNs}`;
}

function compare(path: string, data: Uint8Array): Comparison {
  let descriptor: number;
  try {
    descriptor = fs.openSync(path, 'r');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return { kind: 'absent' };
    throw error;
  }
  let identity: FileIdentity;
  let reason: string | undefined;
  try {
    // Before the bytes are read: a change while they are gives another identity the next time.
    identity = identityOf(fs.fstatSync(descriptor, { bigint: true }));
    reason = differenceOf(descriptor, data);
  } catch (error) {
    fs.closeSync(descriptor);
    throw error;
  }
  if (reason === undefined) return { kind: 'equal', descriptor, identity };
  fs.closeSync(descriptor);
  return { kind: 'different', reason };
}

function differenceOf(descriptor: number, data: Uint8Array): string | undefined {
  const { size } = fs.fstatSync(descriptor);
  if (size !== data.length) return `${size} bytes on disk instead of ${data.length}`;
  for (let offset = 0; offset < size; offset += COMPARE_BYTES) {
    const part = scratch.subarray(0, Math.min(COMPARE_BYTES, size - offset));
    const failure = readWhole(descriptor, part, offset);
    if (failure !== undefined) return failure;
    if (part.compare(data, offset, offset + part.length) !== 0) {
      return `its bytes differ within ${part.length} bytes at offset ${offset}`;
    }
  }
  return undefined;
}

/** Fills `target` from `position`; answers a reason when the disk cannot. */
function readWhole(descriptor: number, target: Uint8Array, position: number): string | undefined {
  let done = 0;
  while (done < target.length) {
    let count: number;
    try {
      count = fs.readSync(descriptor, target, done, target.length - done, position + done);
    } catch (error) {
      if (systemErrorCode(error) === 'EIO')
        return `the disk cannot read it (EIO near offset ${position + done})`;
      throw error;
    }
    if (count === 0) return `it ends at offset ${position + done}`;
    done += count;
  }
  return undefined;
}

function sync({ descriptors }: FileJobs['sync']['job']): readonly Outcome[] {
  return descriptors.map((descriptor) => {
    const outcome = codeOf(() => fs.fdatasyncSync(descriptor));
    return codeOf(() => fs.closeSync(descriptor)) ?? outcome;
  });
}

function publish({ directory, files, newShards }: FileJobs['publish']['job']): readonly Outcome[] {
  const layout = layoutOf(directory);
  for (const shard of newShards) fs.mkdirSync(`${layout.chunks}/${shard}`, { recursive: true });
  const renamed = files.map(({ temporary, hash }) => {
    if (temporary === undefined) return undefined;
    return codeOf(() => fs.renameSync(`${layout.temporary}/${temporary}`, chunkPath(layout, hash)));
  });
  const failed = new Map<string, string>();
  // The shard itself, then the directory that holds it, when its own entry may still be in memory only.
  const shards = new Set(files.map(({ hash }) => shardOf(hash)));
  const parents = new Set(newShards.map((shard) => shard.slice(0, 2)));
  for (const name of [...shards, ...parents]) {
    const code = codeOf(() => syncDirectory(`${layout.chunks}/${name}`));
    if (code !== undefined) failed.set(name, code);
  }
  return files.map(({ temporary, hash }, index) => {
    const code = renamed[index] ?? failed.get(shardOf(hash)) ?? failed.get(hash.slice(0, 2));
    // A second fsync of the same directory may answer success without having written: leave nothing to trust.
    if (code !== undefined && temporary !== undefined) {
      codeOf(() => fs.rmSync(`${layout.temporary}/${temporary}`, { force: true }));
      if (renamed[index] === undefined) codeOf(() => fs.rmSync(chunkPath(layout, hash), { force: true }));
    }
    return code;
  });
}

function syncDirectory(path: string): void {
  const descriptor = fs.openSync(path, 'r');
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

function check(job: FileJobs['check']['job']): CheckOutcome {
  let descriptor: number;
  try {
    descriptor = fs.openSync(chunkPath(layoutOf(job.directory), job.hash), 'r');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return { kind: 'missing' };
    throw error;
  }
  let size: number;
  let reason: string | undefined;
  try {
    size = fs.fstatSync(descriptor).size;
    if (size > job.target.length) reason = `${size} bytes on disk instead of ${job.size}`;
    else reason = readWhole(descriptor, job.target.subarray(0, size), 0);
  } finally {
    fs.closeSync(descriptor);
  }
  const data = job.target.subarray(0, size);
  if (reason === undefined && digest('sha256', data) === job.hash) {
    if (size === job.size) return { kind: 'ok', checksums: checksumsOf(data) };
    // The content is right and the question is wrong: never set a good chunk aside for that.
    return { kind: 'bad', reason: `it has ${size} bytes and not ${job.size}`, setAside: false };
  }
  reason ??=
    size === job.size ? 'its bytes do not have its hash' : `${size} bytes on disk instead of ${job.size}`;
  if (job.setAside) quarantine(job.directory, job.hash);
  return { kind: 'bad', reason, setAside: job.setAside };
}

function quarantine(directory: string, hash: ChunkHash): void {
  const layout = layoutOf(directory);
  let version = 1;
  while (version < QUARANTINED_VERSIONS_MAX && fs.existsSync(`${layout.quarantine}/${hash}.${version}`)) {
    version += 1;
  }
  fs.renameSync(chunkPath(layout, hash), `${layout.quarantine}/${hash}.${version}`);
}

function codeOf(action: () => void): Outcome {
  try {
    action();
    return undefined;
  } catch (error) {
    return systemErrorCode(error) ?? 'EIO';
  }
}
