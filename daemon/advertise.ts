/** Where the other nodes reach this one: what the configuration says, else the first address that can be reached. */

import { networkInterfaces } from 'node:os';

/** `host:port`. `bind` may name every address of the machine ("0.0.0.0", "[::]"), which nobody can connect to. */
export function advertisedAddress(options: {
  readonly bind: string;
  /** `host:port` or `auto`. */
  readonly advertise: string;
  /** The port that is listened on; `bind` may have had 0. */
  readonly port: number;
}): string {
  if (options.advertise !== 'auto') return options.advertise;
  const host = options.bind.slice(0, options.bind.lastIndexOf(':'));
  if (host !== '0.0.0.0' && host !== '[::]') return `${host}:${options.port}`;
  return `${firstAddress() ?? '127.0.0.1'}:${options.port}`;
}

function firstAddress(): string | undefined {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address;
}
