/**
 * The body of a log entry: what the log files hold and what nodes send each other, byte for byte the same.
 *
 * Form (msgpack): [epoch, operation, small chunks as [hash, bytes][], tag as [session, sequence] or null]. Entries of
 * a node that never was in a cluster may lack the tag.
 */

import { Packr } from 'msgpackr';
import type { ChunkHash, Epoch } from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';
import type { OperationPayload, Proposal } from '../replication/state-machine.ts';

type PackedPayload = [ChunkHash, Uint8Array][];
type EntryBody = [
  epoch: Epoch,
  operation: Operation,
  payload: PackedPayload,
  tag?: [session: string, sequence: number] | null,
];

const packr = new Packr({ useRecords: false });

export function encodeEntry({ epoch, operation, payload, tag }: Proposal): Buffer {
  const packedTag: EntryBody[3] = tag === null ? null : [tag.session, tag.sequence];
  return packr.pack([epoch, operation, packPayload(payload), packedTag] satisfies EntryBody);
}

/** Names and values of the operation are views into `body`; the bytes of small chunks, which are kept, are copies. */
export function decodeEntry(body: Buffer): Proposal {
  const [epoch, operation, payload, tag] = packr.unpack(body) as EntryBody;
  return {
    epoch,
    operation,
    payload: unpackPayload(payload),
    tag: tag === null || tag === undefined ? null : { session: tag[0], sequence: tag[1] },
  };
}

export function encodeProposal(operation: Operation, payload: OperationPayload): Buffer {
  return packr.pack([operation, packPayload(payload)]);
}

export function decodeProposal(bytes: Buffer): { operation: Operation; payload: OperationPayload } {
  const [operation, payload] = packr.unpack(bytes) as [Operation, PackedPayload];
  return { operation, payload: unpackPayload(payload) };
}

export const EMPTY_PAYLOAD: OperationPayload = new Map<ChunkHash, Uint8Array>();

function packPayload(payload: OperationPayload): PackedPayload {
  return payload.size === 0 ? [] : [...payload];
}

function unpackPayload(packed: PackedPayload): OperationPayload {
  if (packed.length === 0) return EMPTY_PAYLOAD;
  return new Map(packed.map(([hash, data]) => [hash, Buffer.from(data)]));
}
