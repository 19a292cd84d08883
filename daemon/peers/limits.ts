/** What one connection between nodes, and all of them together, may cost. Units at the end of the names. */

import type { Lane } from '../protocol/peer-api.ts';

/** A header is a decoded value; an append of many entries or a list of chunks is some hundred KiB. */
export const HEADER_BYTES_MAX = 4 * 1024 * 1024;
export const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024;
/** Before a connection has said who it is: a hello or a request to join. */
export const HELLO_BYTES_MAX = 64 * 1024;

export const CONNECTIONS_MAX = 512;
/** Connections that have not said who they are; above it the oldest is dropped, so that idlers keep nobody out. */
export const UNPROVEN_MAX = 64;
/** From the accepted connection to the hello, handshake included. */
export const HELLO_TIMEOUT_MS = 5000;
/** From the first packet of a dial to the other side's hello. */
export const DIAL_TIMEOUT_MS = 5000;
/** Further addresses of one node are tried this long after the one before, while that has no answer. */
export const DIAL_STAGGER_MS = 200;
export const HINTS_MAX = 8;
export const BACKOFF_MIN_MS = 50;
export const BACKOFF_MAX_MS = 2000;
/** A connection that ended sooner counts as a failed attempt. */
export const STABLE_MS = 1000;

/** Calls of one connection that wait for their answers; further ones wait unsent, and are not read either. */
export const CALLS_MAX: { readonly [L in Lane]: number } = { control: 256, log: 4096, bulk: 16 };
/** Bytes of one connection's requests and answers in the hands of handlers; above it nothing more is read. */
export const HANDLER_BYTES_MAX = 32 * 1024 * 1024;
/** The same for the bulk lanes of all connections together. */
export const BULK_BYTES_MAX = 128 * 1024 * 1024;

/** What is handed to the socket at once: TLS makes a copy of its length. */
export const WRITE_BYTES = 256 * 1024;

/** Liveness is counted in ticks and not in time, so that a stall of this process is not taken for silence. */
export const TICK_MS = 500;
/** A side that sent nothing for this long says that it lives. */
export const PING_TICKS = 2;
/** A connection on which nothing came for this long is dead. */
export const SILENT_TICKS = 10;

export const LOG_INTERVAL_MS = 10_000;
