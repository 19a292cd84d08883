/**
 * Entries for nodes that follow: the newest from memory, so that shipping what was just written reads no file, older
 * ones from the log files.
 */

import type { EncodedEntry } from '../protocol/cluster.ts';
import type { Version } from '../protocol/ids.ts';
import { logPieces } from './log-reading.ts';

/** Newest entries kept in memory, bytes of their bodies. */
const TAIL_BYTES_MAX = 8 * 1024 * 1024;
/** Slots of entries that left the tail are given back when they are this many and more than half. */
const TAIL_SLACK = 4096;

export interface EntrySource {
  /** The next entry of the log. */
  push(entry: EncodedEntry): void;
  /**
   * Entries after `version`, at least one and about `bytesMax`, of a log that ends at `last`; undefined when the log
   * does not reach back so far. `flush` hands to the system what the log files do not show yet.
   */
  after(
    version: Version,
    bytesMax: number,
    last: number,
    flush: () => void,
  ): readonly EncodedEntry[] | undefined;
  /** The log was cut or begun anew. */
  reset(): void;
}

export function entrySource(logDirectory: string): EntrySource {
  const pieces = logPieces(logDirectory);
  let tail: EncodedEntry[] = [];
  /** Place of the oldest entry in `tail`. */
  let head = 0;
  let bytes = 0;

  return {
    push(entry) {
      tail.push(entry);
      bytes += entry.body.length;
      while (bytes > TAIL_BYTES_MAX) bytes -= tail[head++]?.body.length ?? 0;
      if (head > TAIL_SLACK && head > tail.length / 2) {
        tail = tail.slice(head);
        head = 0;
      }
    },
    after(version, bytesMax, last, flush) {
      if (version >= last) return [];
      const oldest = tail[head];
      if (oldest === undefined || oldest.version > version + 1) {
        flush();
        return pieces.read(version, bytesMax);
      }
      const from = head + (version + 1 - oldest.version);
      let to = from;
      for (let sum = 0; to < tail.length && (to === from || sum < bytesMax); to++) {
        sum += tail[to]?.body.length ?? 0;
      }
      return tail.slice(from, to);
    },
    reset() {
      tail = [];
      head = 0;
      bytes = 0;
      pieces.forget();
    },
  };
}
