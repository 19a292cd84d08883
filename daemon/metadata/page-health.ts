/**
 * What the log and the status say of the pages of `meta.db`: found damaged, put back from `meta.copy`, or without a
 * copy because that file cannot be written.
 */

import * as path from 'node:path';
import type { Log } from '../runtime/log.ts';
import type { PageDamage } from './checkpoint-worker.ts';
import type { VerifiedPages } from './checkpointer.ts';
import { copyFileOf, healBeforeOpening } from './page-copy.ts';

export interface PageHealth {
  /** Pages that the last comparison found damaged in both files. */
  readonly damaged: readonly PageDamage[];
  /** Pages put back since the start, the start included. */
  readonly healed: number;
  /** Takes what a comparison found. */
  compared(found: VerifiedPages): void;
  /** A checkpoint wrote the copy, or could not. */
  copied(error: string | undefined): void;
  renewed(): void;
}

/**
 * Compares and heals the database before it is opened; with `salvage` also one that is gone. Errors: those of the
 * disk.
 */
export function openPageHealth(databasePath: string, options: { salvage: boolean; log: Log }): PageHealth {
  const { log } = options;
  const copyName = path.basename(copyFileOf(databasePath));
  let damaged: readonly PageDamage[] = [];
  let healed = 0;
  let copyError: string | undefined;

  function noteHealed(pages: number): void {
    if (pages === 0) return;
    healed += pages;
    log.warn(`${databasePath}: ${pages} damaged pages were put back from ${copyName}; nothing is lost`, {
      hint: 'the disk changed bytes by itself: look at its health (`smartctl -a`, `dmesg`) and keep a backup',
    });
  }

  function noteCopy(error: string | undefined): void {
    if (error !== undefined && error !== copyError) {
      log.warn(`${copyName} cannot be written: damage to meta.db could not be healed`, { error });
    }
    copyError = error;
  }

  const found = healBeforeOpening(databasePath, { missing: options.salvage });
  noteHealed(found?.healed.length ?? 0);
  return {
    get damaged() {
      return damaged;
    },
    get healed() {
      return healed;
    },
    compared(verified) {
      noteHealed(verified.healed);
      noteCopy(verified.copyError);
      damaged = verified.damaged;
      if (damaged.length === 0) return;
      log.error(`${databasePath} is damaged: ${damaged.length} pages are not what was written`, {
        pages: damaged.slice(0, 10).map(({ page, table }) => `${page} ${table}`.trim()),
        hint: `the disk changed bytes by itself, and ${copyName} does not have these pages either: copy the data directory to another disk, see \`warren fsck\`, and restore meta.db, meta.sums and log/ from one backup`,
      });
    },
    copied: noteCopy,
    renewed() {
      damaged = [];
    },
  };
}
