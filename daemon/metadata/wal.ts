/**
 * After a power cut, takes from SQLite's WAL what is not in the log.
 *
 * The kernel writes dirty pages back in any order, so commits of SQLite may have reached the disk while the
 * operations in them have not reached the log. Nothing of them was acknowledged as durable, and the bytes of
 * their small chunks were in the lost part of the log: that state must not come back. Every commit stamps its
 * version into the database header (`application_id`), so the WAL tells the version of each of its commits; it
 * is cut after the last one that the log reaches. What is in the database file itself is never ahead: the log
 * is synced before a checkpoint.
 *
 * The same cut takes back what a leader had that nobody else has (rewinding.ts).
 *
 * Source of the form: https://sqlite.org/fileformat2.html, section 4 (the write-ahead log).
 */

import * as fs from 'node:fs';
import { systemErrorCode } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';
import { lastVersion, logReach } from './log-reading.ts';

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
/** Place of application_id in page 1. */
const STAMP_OFFSET = 68;
const STAMP_MASK = 0x7fff_ffff;

/** What a commit of `version` stamps. */
export function stampOf(version: number): number {
  return version % (STAMP_MASK + 1);
}

/** To be called before the database is opened. An orderly end leaves no WAL, and then there is nothing to do. */
export function takeBackWal(databasePath: string, logDirectory: string, log: Log): void {
  const walPath = `${databasePath}-wal`;
  if (!fs.existsSync(walPath) || fs.statSync(walPath).size === 0) return;
  const last = lastVersion(logDirectory);
  // A log that lacks what it says was durable is damaged, and opening says so: nothing is taken back for that.
  if (last === undefined || last < logReach(logDirectory).durable) return;
  const bytes = cutWal(databasePath, last);
  if (bytes > 0)
    log.info('meta.db was ahead of the log after a power cut and was taken back', { version: last });
}

/** Whether the database file itself, without its WAL, is at or below `version`. */
export function fileIsAtMost(databasePath: string, version: number): boolean {
  return isAtMost(stampOfFile(databasePath), stampOf(version));
}

/**
 * Cuts the WAL of the database behind the last commit at or below `lastVersion`. Answers how many bytes went:
 * none where the database file itself is past that version, which no power cut does. No connection may be open.
 */
export function cutWal(databasePath: string, lastVersion: number): number {
  if (!fileIsAtMost(databasePath, lastVersion)) return 0;
  let descriptor: number;
  try {
    descriptor = fs.openSync(`${databasePath}-wal`, 'r+');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return 0;
    throw error;
  }
  try {
    const { size } = fs.fstatSync(descriptor);
    const { keep, end } = findCut(descriptor, size, stampOf(lastVersion));
    if (keep === end) return 0;
    fs.ftruncateSync(descriptor, keep);
    fs.fsyncSync(descriptor);
    return end - keep;
  } finally {
    fs.closeSync(descriptor);
  }
}

function stampOfFile(databasePath: string): number {
  const descriptor = fs.openSync(databasePath, 'r');
  try {
    const stamp = Buffer.alloc(4);
    fs.readSync(descriptor, stamp, 0, 4, STAMP_OFFSET);
    return stamp.readUInt32BE(0);
  } finally {
    fs.closeSync(descriptor);
  }
}

function findCut(descriptor: number, size: number, last: number): { keep: number; end: number } {
  const header = Buffer.alloc(HEADER_BYTES);
  if (size < HEADER_BYTES || fs.readSync(descriptor, header, 0, HEADER_BYTES, 0) < HEADER_BYTES) {
    return { keep: size, end: size };
  }
  const pageBytes = header.readUInt32BE(8);
  const salt = header.subarray(16, 24);
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  const frame = Buffer.alloc(FRAME_HEADER_BYTES);
  const stamp = Buffer.alloc(4);
  let stampNow: number | undefined;
  let keep = 0;
  let end = 0;
  for (let at = HEADER_BYTES; at + frameBytes <= size; at += frameBytes) {
    fs.readSync(descriptor, frame, 0, FRAME_HEADER_BYTES, at);
    // Frames of an earlier round of the WAL follow the valid ones.
    if (!salt.equals(frame.subarray(8, 16))) break;
    if (frame.readUInt32BE(0) === 1) {
      fs.readSync(descriptor, stamp, 0, 4, at + FRAME_HEADER_BYTES + STAMP_OFFSET);
      stampNow = stamp.readUInt32BE(0);
    }
    const isCommit = frame.readUInt32BE(4) !== 0;
    if (!isCommit) continue;
    end = at + frameBytes;
    // A commit without a stamp changed nothing of the state (it settles or migrates).
    if (stampNow === undefined || isAtMost(stampNow, last)) keep = end;
    else break;
  }
  // Everything up to the end of the scan is kept: the file stays as it is.
  if (keep === end) return { keep: size, end: size };
  return { keep, end: size };
}

/** Whether stamp `a` is not after stamp `b`, on the circle of stamps. */
function isAtMost(a: number, b: number): boolean {
  return ((b - a) & STAMP_MASK) < STAMP_MASK / 2;
}
