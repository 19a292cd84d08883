/** The methods of this release with their numbers on the wire. */

import { LANES, type PeerMethod } from '../protocol/peer-api.ts';

/** In the order of their numbers; a hello carries it. */
export const METHOD_NAMES = Object.keys(LANES) as readonly PeerMethod[];

export const METHOD_NUMBERS = Object.fromEntries(METHOD_NAMES.map((name, index) => [name, index])) as {
  readonly [M in PeerMethod]: number;
};

export function isMethod(name: string): name is PeerMethod {
  return Object.hasOwn(LANES, name);
}
