/** Names for versions that are put aside: `name (conflict NODE DATE).ext`, any bytes, at most NAME_BYTES_MAX. */

import { NAME_BYTES_MAX, type Name } from '../protocol/ids.ts';

const DOT = 0x2e;

/** `number` from 1 on tells names apart when one is taken. The ending stays, so that programs know the file. */
export function conflictName(name: Name, label: string, number: number): Name {
  const bytes = Buffer.from(name);
  const dot = bytes.lastIndexOf(DOT);
  const added = Buffer.from(` (conflict ${label}${number === 1 ? '' : ` ${number}`})`);
  // A dot at the start is part of the name, and an ending that leaves no room for a name is none.
  const ends = dot > 0 && bytes.length - dot + added.length < NAME_BYTES_MAX / 2;
  const end = ends ? bytes.subarray(dot) : Buffer.alloc(0);
  const base = ends ? bytes.subarray(0, dot) : bytes;
  return Buffer.concat([cut(base, NAME_BYTES_MAX - added.length - end.length), added, end]);
}

/** At most `bytesMax`, without a torn UTF-8 character at the end where there was a whole one. */
function cut(bytes: Buffer, bytesMax: number): Buffer {
  if (bytes.length <= bytesMax) return bytes;
  let end = bytesMax;
  while (end > bytesMax - 4 && end > 1 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

/** The part of the name that says whose version it is and when the two sides met: no `/`, whole seconds, UTC. */
export function conflictLabel(node: string, timeMs: number): string {
  const [day = '', time = ''] = new Date(timeMs).toISOString().split('T');
  return `${node} ${day} ${time.slice(0, 8).replaceAll(':', '.')}`;
}
