/**
 * Everything that one storing node keeps on its disk, opened in the right order: the data directory and its
 * lock, the metadata, the chunks.
 *
 * A new file system is made only where nothing of one is there: a missing `meta.db` beside chunks, or a missing
 * `small.db` beside a used `meta.db`, is a loss to report, never an empty start.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import type { ChunkStore } from '../chunks/interface.ts';
import { type ChunkDamage, openChunkStore } from '../chunks/open.ts';
import { type Metadata, openMetadata } from '../metadata/metadata.ts';
import type { NodeId } from '../protocol/ids.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { type DataDirectory, openDataDirectory } from './data-directory.ts';

export interface NodeStorage {
  readonly directory: DataDirectory;
  readonly metadata: Metadata;
  readonly chunks: ChunkStore;
  close(): Promise<void>;
}

export interface NodeStorageOptions {
  readonly directory: string;
  /** Left out: any node's data (fsck by directory). */
  readonly nodeId?: NodeId;
  readonly log: Log;
  readonly clock: Clock;
  readonly onDamage?: (damage: ChunkDamage) => void;
  /** See ChunkStoreOptions. */
  readonly missingIsDamage?: boolean;
  /** Go on without what is lost (`fsck --repair`): a missing log, an unreadable small.db. */
  readonly salvage: boolean;
}

export async function openNodeStorage(options: NodeStorageOptions): Promise<NodeStorage> {
  const { log, clock, salvage } = options;
  const directory = openDataDirectory(
    options.directory,
    options.nodeId === undefined ? {} : { nodeId: options.nodeId },
  );
  let metadata: Metadata | undefined;
  try {
    const isNew = !['chunks', 'small.db', 'log'].some((name) =>
      fs.existsSync(path.join(directory.path, name)),
    );
    metadata = openMetadata({
      directory: directory.path,
      create: isNew,
      salvage,
      memberNumber: directory.format.memberNumber,
      log,
    });
    const chunks = await openChunkStore({
      directory: directory.path,
      log,
      clock,
      create: metadata.status().version === 0,
      rebuildSmallDb: salvage,
      missingIsDamage: options.missingIsDamage ?? true,
      ...(options.onDamage === undefined ? {} : { onDamage: options.onDamage }),
    });
    const opened = metadata;
    return {
      directory,
      metadata: opened,
      chunks,
      async close() {
        await opened.close();
        await chunks.close();
        directory.close();
      },
    };
  } catch (error) {
    await metadata?.close();
    directory.close();
    throw error;
  }
}
