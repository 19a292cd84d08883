/**
 * The record of a disk: what was written and flushed, in order, and the disk images that a power cut at any moment
 * of it may leave.
 *
 * What a disk promises: writes that were answered before a flush was asked for are durable when the flush is
 * answered. Everything else may be on the disk or not, each sector of 512 bytes for itself and in any order; that
 * is worse than most disks, and exactly what a file system may count on.
 *
 * Form of an event: kind, bytes, journal bytes (u32 each), padding, offset (u64), then the data; zeros are not kept.
 */

import * as fs from 'node:fs';

const HEADER_BYTES = 24;
const SECTOR_BYTES = 512;
const ZEROS = Buffer.alloc(1024 * 1024);
const KINDS = ['write', 'zeros', 'flush'] as const;

export type DiskEvent =
  | { readonly kind: 'write'; readonly journalBytes: number; readonly offset: number; readonly data: Buffer }
  | { readonly kind: 'flush'; readonly journalBytes: number };

export function encodeEvent(event: DiskEvent): Buffer[] {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(event.journalBytes, 8);
  if (event.kind === 'flush') {
    header.writeUInt32LE(KINDS.indexOf('flush'), 0);
    return [header];
  }
  const isZero = event.data.equals(ZEROS.subarray(0, event.data.length));
  header.writeUInt32LE(KINDS.indexOf(isZero ? 'zeros' : 'write'), 0);
  header.writeUInt32LE(event.data.length, 4);
  header.writeBigUInt64LE(BigInt(event.offset), 16);
  return isZero ? [header] : [header, event.data];
}

/** How unsynced sectors meet the cut. */
const TEARS = ['none', 'all', 'few', 'half', 'most', 'in order, the last one torn'] as const;
const SHARE: Record<string, number> = { none: 0, all: 1, few: 0.1, half: 0.5, most: 0.9 };

export interface Cut {
  /** Event before which the power went. */
  readonly event: number;
  /** Bytes of the load's journal at that moment. */
  readonly journalBytes: number;
  /** For a person: what happened to the unsynced sectors. */
  readonly what: string;
}

interface Entry {
  readonly isFlush: boolean;
  readonly journalBytes: number;
  readonly offset: number;
  readonly bytes: number;
  /** Place in the record; undefined for zeros. */
  readonly at: number | undefined;
}

export interface DiskRecord {
  readonly events: number;
  /**
   * Makes `image`, which is the disk as it was when the record began, what a cut before event `event` leaves.
   * `random` answers numbers from 0 to 1.
   */
  cut(image: string, event: number, random: () => number): Cut;
}

export function readDiskRecord(file: string): DiskRecord {
  const entries = [...listEntries(file)];
  return {
    events: entries.length,
    cut(image, event, random) {
      const record = fs.openSync(file, 'r');
      const disk = fs.openSync(image, 'r+');
      try {
        const before = entries.slice(0, event);
        const durable = before.findLastIndex((entry) => entry.isFlush) + 1;
        for (const entry of before.slice(0, durable)) apply(record, disk, entry, () => true);
        const tear = TEARS[Math.floor(random() * TEARS.length)] ?? 'half';
        const pending = before.slice(durable);
        const last = Math.floor(random() * pending.length);
        let kept = 0;
        let sectors = 0;
        for (const [index, entry] of pending.entries()) {
          const share = SHARE[tear] ?? (index < last ? 1 : index === last ? 0.5 : 0);
          apply(record, disk, entry, () => {
            sectors++;
            if (random() >= share) return false;
            kept++;
            return true;
          });
        }
        const journalBytes = entries[event]?.journalBytes ?? entries.at(-1)?.journalBytes ?? 0;
        const what = `event ${event} of ${entries.length}, ${kept} of ${sectors} unsynced sectors kept (${tear})`;
        return { event, journalBytes, what };
      } finally {
        fs.closeSync(record);
        fs.closeSync(disk);
      }
    },
  };
}

function* listEntries(file: string): Generator<Entry> {
  const record = fs.openSync(file, 'r');
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    for (let at = 0; fs.readSync(record, header, 0, HEADER_BYTES, at) === HEADER_BYTES; ) {
      const kind = KINDS[header.readUInt32LE(0)];
      const bytes = header.readUInt32LE(4);
      at += HEADER_BYTES;
      yield {
        isFlush: kind === 'flush',
        journalBytes: header.readUInt32LE(8),
        offset: Number(header.readBigUInt64LE(16)),
        bytes,
        at: kind === 'write' ? at : undefined,
      };
      if (kind === 'write') at += bytes;
    }
  } finally {
    fs.closeSync(record);
  }
}

/** Writes the sectors of an entry for which `keep` answers true; sectors side by side at once. */
function apply(record: number, disk: number, entry: Entry, keep: () => boolean): void {
  if (entry.isFlush) return;
  const data = Buffer.alloc(entry.bytes);
  if (entry.at !== undefined) fs.readSync(record, data, 0, entry.bytes, entry.at);
  let from = 0;
  for (let at = 0; at < entry.bytes; at += SECTOR_BYTES) {
    if (keep()) continue;
    if (at > from) fs.writeSync(disk, data, from, at - from, entry.offset + from);
    from = at + SECTOR_BYTES;
  }
  if (from < entry.bytes) fs.writeSync(disk, data, from, entry.bytes - from, entry.offset + from);
}
