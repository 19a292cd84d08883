/**
 * The highest epoch that this node ever led or asked for, in a small file of the node: written down before anybody hears
 * of it, so that no two leaderships ever have one number, also when the disk forgot the entries of the first.
 */

import { readFileSync } from 'node:fs';
import { writeDurably } from '../protocol/durable-files.ts';
import { systemErrorCode, WarrenError } from '../protocol/errors.ts';
import type { Epoch } from '../protocol/ids.ts';

export interface EpochFile {
  readonly highestUsed: Epoch;
  /** Errors: those of the disk. */
  save(epoch: Epoch): void;
}

/** Errors: EPOCH_FILE_DAMAGED; those of the disk. */
export function openEpochFile(file: string): EpochFile {
  return { highestUsed: read(file), save: (epoch) => writeDurably(file, `${epoch}\n`) };
}

function read(file: string): Epoch {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return 0 as Epoch;
    throw error;
  }
  const epoch = Number(text);
  if (/^\d+\n$/.test(text) && Number.isSafeInteger(epoch)) return epoch as Epoch;
  throw new WarrenError({
    code: 'EPOCH_FILE_DAMAGED',
    message: `${file} does not hold the number of a leadership.`,
    hint: 'Restore the file, or write into it a number above every leadership that `warren servers` shows on the other nodes.',
  });
}
