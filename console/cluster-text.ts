/** Servers and replication as lines for people. */

import type { ReplicationStatus, Server, Servers } from '../daemon/protocol/control-cluster.ts';
import { printable } from '../daemon/protocol/text.ts';
import { formatBytes, formatCount, formatDuration } from '../daemon/protocol/units.ts';

const CHUNKS_SHOWN = 20;

export function serverLines(servers: Servers): string[] {
  const head = ['', 'node', 'role', 'state', 'address', 'release', 'behind', 'free', 'missing', 'seen'];
  const rows = servers.servers.map((server) => [
    server.isSelf ? '*' : ' ',
    server.id,
    server.role,
    server.state,
    server.address,
    server.release === '' ? '?' : server.release,
    server.state === 'leader' ? '' : formatCount(server.lag),
    server.diskBytes === 0 ? '?' : `${formatBytes(server.diskFreeBytes)} of ${formatBytes(server.diskBytes)}`,
    server.lackingChunks === 0 ? '' : formatCount(server.lackingChunks),
    seen(server),
  ]);
  const reasons = servers.servers
    .filter(({ reason }) => reason !== '')
    .map(({ id, reason }) => `  ${id}: ${printable(reason)}`);
  return [
    servers.leader === null
      ? `${servers.clusterName}: no node leads; changes wait`
      : `${servers.clusterName}: ${servers.leader} leads (epoch ${servers.epoch})`,
    ...table([head, ...rows]),
    ...reasons,
  ];
}

export function replicationLines(status: ReplicationStatus): string[] {
  const { repair } = status;
  const copies =
    status.mode === 'shared' ? 'shared: data stays on the leader' : `${status.factor} copies of each chunk`;
  const left = repair.secondsLeft === null ? '' : `, ${formatDuration(repair.secondsLeft * 1000)} left`;
  const lines = [
    `${copies}; in sync: ${status.inSync.join(', ')}`,
    status.lackingChunks === 0
      ? 'Every chunk has all its copies.'
      : `${formatCount(status.lackingChunks)} copies with ${formatBytes(status.lackingBytes)} are missing.`,
    `repair of this node: ${
      repair.paused
        ? 'paused'
        : repair.queuedChunks === 0
          ? 'nothing to do'
          : `${formatCount(repair.queuedChunks)} chunks with ${formatBytes(repair.queuedBytes)}, ${formatBytes(repair.bytesPerSecond)}/s${left}`
    }`,
  ];
  if (repair.lastError !== '') lines.push(`  last error: ${printable(repair.lastError)}`);
  for (const { chunk, bytes, files, paths } of status.lacking.slice(0, CHUNKS_SHOWN)) {
    const named = paths.map(printable).join(', ');
    const more = files > paths.length ? ` and ${formatCount(files - paths.length)} more` : '';
    lines.push(`  ${chunk.slice(0, 12)} ${formatBytes(bytes)}: ${named}${more}`);
  }
  if (status.lacking.length > CHUNKS_SHOWN) {
    lines.push(`  … and ${status.lacking.length - CHUNKS_SHOWN} more (--json lists them)`);
  }
  return lines;
}

function seen(server: Server): string {
  if (server.isSelf) return 'here';
  return server.lastSeenMs === null ? 'never' : `${formatDuration(server.lastSeenMs)} ago`;
}

function table(rows: string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => printable(cell).padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
