/**
 * The highest epoch that this node ever asked for, in a file of its own: an epoch is never used twice, also when the
 * log that it began was lost. Written durably before it is used.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeDurably } from '../protocol/durable-files.ts';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Epoch } from '../protocol/ids.ts';

const FILE = 'epoch.json';

export interface UsedEpochs {
  readonly highestUsed: Epoch;
  save(epoch: Epoch): void;
}

/** Errors: EPOCH_DAMAGED. */
export function openUsedEpochs(directory: string): UsedEpochs {
  const file = join(directory, FILE);
  return {
    highestUsed: read(file),
    save(epoch) {
      writeDurably(file, `${JSON.stringify({ highestUsed: epoch })}\n`);
    },
  };
}

function read(file: string): Epoch {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return 0 as Epoch;
    throw error;
  }
  const found = /^\{"highestUsed":(\d{1,15})\}\s*$/.exec(text)?.[1];
  if (found !== undefined) return Number(found) as Epoch;
  throw new WarrenError({
    code: 'EPOCH_DAMAGED',
    message: `${file} does not say what Warren writes there.`,
    hint: 'remove the file while the other nodes run: they know the newest epoch',
  });
}
