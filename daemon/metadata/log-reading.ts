/**
 * Reads the log's segment files (their form: operation-log.ts): from start to end when opening, and in pieces for
 * nodes that were away.
 *
 * Reading stops at the first entry that does not check out or is missing: what follows is no part of the log.
 */

import * as fs from 'node:fs';
import * as path from 'node:path';
import { crc32 } from 'node:zlib';
import type { EncodedEntry } from '../protocol/cluster.ts';
import { WarrenError } from '../protocol/errors.ts';
import type { Version } from '../protocol/ids.ts';

export const SEGMENT_BYTES = 16 * 1024 * 1024;
export const MAGIC = 0x57524e4c; // "WRNL"
export const FORMAT_VERSION = 1;
export const HEADER_BYTES = 32;
export const ENTRY_HEADER_BYTES = 8;
const NAME_PATTERN = /^(\d{16})\.log$/;
/** Bytes read at once when a piece of the log is asked for. */
const BLOCK_BYTES = 1024 * 1024;
/** Remembered ends of pieces: one for each node that catches up. */
const CURSORS_MAX = 16;

export interface LogEntry {
  readonly version: number;
  /** View into the segment's bytes: copy what is kept. */
  readonly body: Buffer;
}

export interface Segment {
  readonly file: string;
  readonly first: number;
}

/** Every readable entry from `after` + 1 on, in order; stops at the first gap or damaged entry. */
export function* readLog(directory: string, after: number): Generator<LogEntry> {
  let expected: number | undefined;
  const segments = listSegments(directory);
  for (const [index, segment] of segments.entries()) {
    const next = segments[index + 1];
    if (next !== undefined && next.first <= after + 1) continue;
    if (expected !== undefined && segment.first !== expected) return;
    const content = fs.readFileSync(segment.file);
    for (const entry of entries(content, segment.first)) {
      expected = entry.version + 1;
      if (entry.version > after) yield entry;
    }
    expected ??= segment.first;
  }
}

/** The last operation that the log holds without a gap; undefined when there is no log. */
export function lastVersion(directory: string): number | undefined {
  let last: number | undefined;
  for (const segment of listSegments(directory)) {
    if (last !== undefined && segment.first !== last + 1) return last;
    last = segment.first - 1;
    for (const entry of entries(fs.readFileSync(segment.file), segment.first)) last = entry.version;
  }
  return last;
}

export function hasLog(directory: string): boolean {
  return fs.existsSync(directory) && listSegments(directory).length > 0;
}

/**
 * First version of the log, and the last one that it says was durable; Infinity and 0 for no log. Entries up to
 * `durable` that cannot be read were lost by damage, not by a power cut.
 */
export function logReach(directory: string): { first: number; durable: number } {
  const segments = listSegments(directory);
  let durable = 0;
  const header = Buffer.alloc(HEADER_BYTES);
  for (const { file, first } of segments) {
    const descriptor = fs.openSync(file, 'r');
    try {
      if (fs.readSync(descriptor, header, 0, HEADER_BYTES, 0) < HEADER_BYTES) continue;
    } finally {
      fs.closeSync(descriptor);
    }
    const unknown = header.readUInt32LE(12);
    if (isHeader(header, first) && unknown > 0) durable = Math.max(durable, first - unknown);
  }
  return { first: segments[0]?.first ?? Number.POSITIVE_INFINITY, durable };
}

/** Reads pieces of the log one after the other without reading a segment from its start for each. */
export interface LogPieces {
  /**
   * Entries after `after`, about `bytesMax` of them and at least one; undefined when the log does not hold the next
   * one. What the log has not yet handed to the operating system is not seen.
   */
  read(after: number, bytesMax: number): readonly EncodedEntry[] | undefined;
  /** To be called when the log was cut: remembered places mean nothing any more. */
  forget(): void;
}

export function logPieces(directory: string): LogPieces {
  /** Where the entry after a version lies: segment and offset. */
  let cursors = new Map<number, { first: number; at: number }>();

  function read(after: number, bytesMax: number): readonly EncodedEntry[] | undefined {
    const segments = listSegments(directory);
    const segment = segments.findLast(({ first }) => first <= after + 1);
    if (segment === undefined) return undefined;
    const known = cursors.get(after);
    const start = known?.first === segment.first ? { version: after + 1, at: known.at } : undefined;
    const found: EncodedEntry[] = [];
    let bytes = 0;
    for (const entry of entriesOfFile(segment, start)) {
      if (entry.version <= after) continue;
      found.push({ version: entry.version as Version, body: entry.body });
      bytes += entry.body.length;
      if (bytes < bytesMax) continue;
      remember(entry.version, { first: segment.first, at: entry.end });
      break;
    }
    cursors.delete(after);
    return found.length === 0 ? undefined : found;
  }

  function remember(version: number, place: { first: number; at: number }): void {
    cursors.set(version, place);
    const oldest = cursors.keys().next();
    if (cursors.size > CURSORS_MAX && oldest.done !== true) cursors.delete(oldest.value);
  }

  return {
    read,
    forget() {
      cursors = new Map();
    },
  };
}

/** Entries of a segment, read in blocks, from `start` or the first one on. */
function* entriesOfFile(
  { file, first }: Segment,
  start: { version: number; at: number } | undefined,
): Generator<LogEntry & { end: number }> {
  const descriptor = fs.openSync(file, 'r');
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    if (fs.readSync(descriptor, header, 0, HEADER_BYTES, 0) < HEADER_BYTES || !isHeader(header, first))
      return;
    const salt = header.readUInt32LE(8);
    let version = start?.version ?? first;
    let at = start?.at ?? HEADER_BYTES;
    let block = Buffer.alloc(0);
    let blockAt = at;
    const need = (bytes: number): boolean => {
      if (at + bytes <= blockAt + block.length) return true;
      // A new block each time: bodies that were given out are views into the old one.
      const next = Buffer.allocUnsafe(Math.max(BLOCK_BYTES, bytes));
      block = next.subarray(0, fs.readSync(descriptor, next, 0, next.length, at));
      blockAt = at;
      return block.length >= bytes;
    };
    while (need(ENTRY_HEADER_BYTES)) {
      const length = block.readUInt32LE(at - blockAt);
      if (length === 0 || length > SEGMENT_BYTES || !need(ENTRY_HEADER_BYTES + length)) return;
      const from = at - blockAt;
      const body = block.subarray(from + ENTRY_HEADER_BYTES, from + ENTRY_HEADER_BYTES + length);
      if (block.readUInt32LE(from + 4) !== crc32(body, salt)) return;
      at += ENTRY_HEADER_BYTES + length;
      yield { version, body, end: at };
      version++;
    }
  } finally {
    fs.closeSync(descriptor);
  }
}

/** Where the entry `version` lies in its segment; undefined when it is not there. */
export function placeOf(directory: string, version: number): { file: string; at: number } | undefined {
  const segment = listSegments(directory).findLast(({ first }) => first <= version);
  if (segment === undefined) return undefined;
  let at = HEADER_BYTES;
  for (const entry of entriesOfFile(segment, undefined)) {
    if (entry.version === version) return { file: segment.file, at };
    at = entry.end;
  }
  return undefined;
}

export function listSegments(directory: string): Segment[] {
  if (!fs.existsSync(directory)) return [];
  const found: Segment[] = [];
  for (const name of fs.readdirSync(directory).sort()) {
    const match = NAME_PATTERN.exec(name);
    if (match?.[1] !== undefined) found.push({ file: path.join(directory, name), first: Number(match[1]) });
  }
  return found;
}

function isHeader(header: Buffer, first: number): boolean {
  return (
    header.readUInt32LE(0) === MAGIC &&
    header.readUInt32LE(24) === crc32(header.subarray(0, 24)) &&
    Number(header.readBigUInt64LE(16)) === first
  );
}

function* entries(content: Buffer, first: number): Generator<LogEntry> {
  if (content.length < HEADER_BYTES || content.readUInt32LE(0) !== MAGIC) return;
  if (content.readUInt32LE(24) !== crc32(content.subarray(0, 24))) return;
  const format = content.readUInt32LE(4);
  if (format > FORMAT_VERSION) {
    throw new WarrenError({
      code: 'LOG_TOO_NEW',
      message: `The operation log has format version ${format}; this Warren knows versions up to ${FORMAT_VERSION}.`,
      hint: 'Run the newer Warren that wrote it. Nothing was changed.',
    });
  }
  if (Number(content.readBigUInt64LE(16)) !== first) return;
  const salt = content.readUInt32LE(8);
  let version = first;
  let at = HEADER_BYTES;
  while (at + ENTRY_HEADER_BYTES <= content.length) {
    const length = content.readUInt32LE(at);
    if (length === 0 || at + ENTRY_HEADER_BYTES + length > content.length) return;
    const body = content.subarray(at + ENTRY_HEADER_BYTES, at + ENTRY_HEADER_BYTES + length);
    if (content.readUInt32LE(at + 4) !== crc32(body, salt)) return;
    yield { version, body };
    version++;
    at += ENTRY_HEADER_BYTES + length;
  }
}
