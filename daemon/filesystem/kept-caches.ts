/**
 * Whether a kernel may keep the pages of a file that it opens again. It always may, because every change is told it,
 * until the past itself changes (history of a partition that lost, a whole copy from another node): from then on each
 * file's pages go at its next open.
 */

import type { Inode } from '../protocol/ids.ts';

/** Files that were opened since; beyond this many all are taken for not opened, which only costs reads. */
const REOPENED_MAX = 100_000;

export interface KeptCaches {
  /** To be asked at each open. */
  mayKeep(inode: Inode): boolean;
  dropAll(): void;
}

export function keptCaches(): KeptCaches {
  let reopened: Set<Inode> | undefined;
  return {
    mayKeep(inode) {
      if (reopened === undefined || reopened.has(inode)) return true;
      if (reopened.size >= REOPENED_MAX) reopened.clear();
      reopened.add(inode);
      return false;
    },
    dropAll() {
      reopened = new Set();
    },
  };
}
