/**
 * Makes written chunk files durable, many for the price of one.
 *
 * While one batch is on its way to the disk, further written files gather and make the next: all their
 * fdatasyncs (spread over the sync threads, so that the disk's journal merges them), then the renames, then
 * one fsync for each distinct directory. Only then are the waiters answered.
 *
 * A failed fdatasync throws the temporary file away and fails its waiter; the same file is never synced again,
 * since a kernel reports a write error once and then forgets it.
 */

import type { ChunkHash } from '../protocol/ids.ts';
import { assert, defined } from '../runtime/assert.ts';
import type { WorkerPool } from '../runtime/worker-pool.ts';
import { asDiskFailure, diskFailure } from './disk-error.ts';
import type { FileJobs, Outcome } from './file-jobs.ts';
import { shardOf } from './layout.ts';

/** Files in one batch: bounds how long the first of them waits. */
const BATCH_FILES_MAX = 64;
const WAITING_FILES_MAX = 4096;

export interface WrittenFile {
  readonly hash: ChunkHash;
  readonly descriptor: number;
  /** Name below tmp/; undefined when the file is in its place already. */
  readonly temporary: string | undefined;
}

export interface Committer {
  /** Answers when the file is durable in its place. Errors: FsError ENOSPC, EROFS, EIO; the file is gone then. */
  commit(file: WrittenFile): Promise<void>;
}

interface Waiting {
  readonly file: WrittenFile;
  readonly answer: PromiseWithResolvers<void>;
}

export function openCommitter(options: {
  directory: string;
  threads: WorkerPool<FileJobs>;
  threadCount: number;
  removeTemporary: (name: string) => void;
}): Committer {
  const { directory, threads, threadCount } = options;
  let waiting: Waiting[] = [];
  let running = false;
  /** Shards (`ab/cd`, at most 65,536) whose own directory entries this process made durable. */
  const durableShards = new Set<string>();

  async function run(): Promise<void> {
    running = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, BATCH_FILES_MAX);
      waiting = waiting.slice(BATCH_FILES_MAX);
      try {
        await commitBatch(batch);
      } catch (error) {
        for (const { file, answer } of batch) {
          if (file.temporary !== undefined) options.removeTemporary(file.temporary);
          answer.reject(asDiskFailure(error, `chunk ${file.hash} could not be made durable`));
        }
      }
    }
    running = false;
  }

  async function commitBatch(batch: readonly Waiting[]): Promise<void> {
    const synced = await syncAll(batch.map(({ file }) => file.descriptor));
    const good: Waiting[] = [];
    for (const [index, item] of batch.entries()) {
      const code = synced[index];
      if (code === undefined) {
        good.push(item);
        continue;
      }
      if (item.file.temporary !== undefined) options.removeTemporary(item.file.temporary);
      item.answer.reject(diskFailure(code, `chunk ${item.file.hash} could not be made durable`));
    }
    if (good.length === 0) return;
    const shards = new Set(good.map(({ file }) => shardOf(file.hash)));
    const newShards = [...shards].filter((shard) => !durableShards.has(shard));
    const outcomes = await threads.run('publish', {
      directory,
      files: good.map(({ file }) => ({ hash: file.hash, temporary: file.temporary })),
      newShards,
    });
    for (const [index, { file, answer }] of good.entries()) {
      const code = outcomes[index];
      if (code === undefined) {
        durableShards.add(shardOf(file.hash));
        answer.resolve();
      } else {
        answer.reject(diskFailure(code, `chunk ${file.hash} could not be made durable`));
      }
    }
  }

  async function syncAll(descriptors: readonly number[]): Promise<Outcome[]> {
    const parts: number[][] = Array.from({ length: Math.min(threadCount, descriptors.length) }, () => []);
    for (const [index, descriptor] of descriptors.entries()) {
      defined(parts[index % parts.length], 'a part for each thread').push(descriptor);
    }
    const results = await Promise.all(parts.map((part) => threads.run('sync', { descriptors: part })));
    return descriptors.map((_, index) => results[index % parts.length]?.[Math.floor(index / parts.length)]);
  }

  return {
    commit(file) {
      assert(waiting.length < WAITING_FILES_MAX, `at most ${WAITING_FILES_MAX} files wait for a sync`);
      const answer = Promise.withResolvers<void>();
      waiting.push({ file, answer });
      if (!running) void run();
      return answer.promise;
    },
  };
}
