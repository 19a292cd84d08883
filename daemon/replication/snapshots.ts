/**
 * Whole copies of the metadata over the network: served piece by piece to those who ask, fetched from the leader.
 *
 * A served copy is a file that lives until the other side closes it, or asks nothing for IDLE_MS. A fetched one is
 * compared with its SHA-256 before it is used. A fetch that fails is begun anew by whoever asked for it.
 */

import { createHash, randomUUID } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import type { Peers } from '../peers/interface.ts';
import type { LogPosition } from '../protocol/cluster.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Snapshot, StateMachine } from './state-machine.ts';

const PIECE_BYTES = 1024 * 1024;
/** Copies that are served at one time. */
const SERVED_MAX = 4;
const IDLE_MS = 60_000;
const OPEN_WITHIN_MS = 120_000;
const PIECE_WITHIN_MS = 30_000;

/** Files of copies; the simulator has its own, so that time stands still while they are read. */
export interface SnapshotFiles {
  read(file: string, offset: number, length: number): Promise<Buffer>;
  /** A new empty file for a copy that comes in. */
  receive(): Promise<ReceivedFile>;
}

export interface ReceivedFile {
  readonly path: string;
  write(piece: Uint8Array): Promise<void>;
  /** All is written and durable. */
  finish(): Promise<void>;
  discard(): Promise<void>;
}

export function snapshotFiles(directory: string): SnapshotFiles {
  return {
    async read(file, offset, length) {
      const handle = await fs.promises.open(file, 'r');
      try {
        const buffer = Buffer.allocUnsafe(length);
        const { bytesRead } = await handle.read(buffer, 0, length, offset);
        return buffer.subarray(0, bytesRead);
      } finally {
        await handle.close();
      }
    },
    async receive() {
      await fs.promises.mkdir(directory, { recursive: true, mode: 0o700 });
      const file = path.join(directory, `snapshot-${randomUUID()}`);
      const handle = await fs.promises.open(file, 'wx', 0o600);
      return {
        path: file,
        async write(piece) {
          await handle.writeFile(piece);
        },
        async finish() {
          await handle.datasync();
          await handle.close();
        },
        async discard() {
          await handle.close().catch(() => {});
          await fs.promises.rm(file, { force: true });
        },
      };
    },
  };
}

interface Served {
  readonly snapshot: Snapshot;
  usedMs: number;
}

/** Answers `snapshot-open`, `-read` and `-close`. */
export function serveSnapshots(options: {
  readonly state: StateMachine;
  readonly peers: Peers;
  readonly files: SnapshotFiles;
  readonly clock: Clock;
}): { expire(): void; close(): Promise<void> } {
  const { state, peers, files, clock } = options;
  const served = new Map<string, Served>();
  let opening = 0;
  let opened = 0;

  async function release(id: string): Promise<void> {
    const found = served.get(id);
    served.delete(id);
    await found?.snapshot.release();
  }

  peers.handle('snapshot-open', async () => {
    if (served.size + opening >= SERVED_MAX) throw new Error(`${SERVED_MAX} copies are under way already`);
    opening++;
    try {
      const snapshot = await state.snapshot();
      const id = String(++opened);
      served.set(id, { snapshot, usedMs: clock.monotonicMs() });
      const hash = createHash('sha256');
      for (let at = 0; at < snapshot.size; at += PIECE_BYTES) {
        hash.update(await files.read(snapshot.path, at, Math.min(PIECE_BYTES, snapshot.size - at)));
      }
      const { size, position } = snapshot;
      return { answer: { id, size, position, sha256: hash.digest('hex') } };
    } finally {
      opening--;
    }
  });
  peers.handle('snapshot-read', async (_from, { id, offset, length }) => {
    const found = served.get(id);
    if (found === undefined) throw new Error(`copy ${id} was released`);
    found.usedMs = clock.monotonicMs();
    const bytes = await files.read(found.snapshot.path, offset, Math.min(length, PIECE_BYTES));
    return { answer: {}, bytes: [bytes] };
  });
  peers.handle('snapshot-close', async (_from, { id }) => {
    await release(id);
    return { answer: {} };
  });

  return {
    expire() {
      const nowMs = clock.monotonicMs();
      for (const [id, { usedMs }] of served) if (nowMs - usedMs > IDLE_MS) release(id).catch(() => {});
    },
    async close() {
      await Promise.all([...served.keys()].map(release));
    },
  };
}

/** A copy of the state of `from`, checked. Errors: PeerError; those of the disk; SNAPSHOT_DAMAGED. */
export async function fetchSnapshot(options: {
  readonly from: NodeId;
  readonly peers: Peers;
  readonly files: SnapshotFiles;
}): Promise<{ readonly file: ReceivedFile; readonly position: LogPosition }> {
  const { from, peers, files } = options;
  const { answer } = await peers.call(from, 'snapshot-open', {}, { timeoutMs: OPEN_WITHIN_MS });
  const { id, size, position, sha256 } = answer;
  const file = await files.receive();
  try {
    const hash = createHash('sha256');
    for (let offset = 0; offset < size; ) {
      const length = Math.min(PIECE_BYTES, size - offset);
      const { bytes } = await peers.call(
        from,
        'snapshot-read',
        { id, offset, length },
        { timeoutMs: PIECE_WITHIN_MS },
      );
      if (bytes.length === 0) throw damaged(from, `it ended after ${offset} of ${size} bytes`);
      hash.update(bytes);
      await file.write(bytes);
      offset += bytes.length;
    }
    if (hash.digest('hex') !== sha256) throw damaged(from, 'its SHA-256 is not the one that was announced');
    await file.finish();
    return { file, position };
  } catch (error) {
    await file.discard();
    throw error;
  } finally {
    peers.call(from, 'snapshot-close', { id }, { timeoutMs: PIECE_WITHIN_MS }).catch(() => {});
  }
}

function damaged(from: NodeId, what: string): WarrenError {
  return new WarrenError({
    code: 'SNAPSHOT_DAMAGED',
    message: `The copy of the metadata from ${from} arrived damaged: ${what}.`,
    hint: 'It is fetched again. If this repeats, check the memory and the network of both machines.',
  });
}
