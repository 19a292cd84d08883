/** Network addresses as people write them: `host:port`, `[v6]:port`. */

export interface HostAndPort {
  readonly host: string;
  readonly port: number;
}

/** The parts of `host:port`, undefined when it is not one. Port 0 is allowed: any free one. */
export function parseAddress(text: string): HostAndPort | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  return host === undefined || port > 65_535 ? undefined : { host, port };
}

export function formatAddress({ host, port }: HostAndPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
