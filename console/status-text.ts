/**
 * The status of a node as lines for people. The first line answers whether the data is safe, the next what is
 * wrong and what to do; figures come after.
 */

import type { Health, Status } from '../daemon/protocol/control-api.ts';
import { printable } from '../daemon/protocol/text.ts';
import { formatBytes, formatCount, formatDuration } from '../daemon/protocol/units.ts';
import type { Tone } from './output.ts';

export function statusLines(status: Status, paint: (tone: Tone, text: string) => string): string[] {
  const { health, usage } = status;
  const lines = [paint(toneOf(health), headline(health))];
  if (health.reason !== '') lines.push(`  why: ${printable(health.reason)}`);
  if (health.nextStep !== '') lines.push(`  what to do: ${printable(health.nextStep)}`);
  const rows: [string, string][] = [
    ['node', `${status.nodeId} of ${status.clusterName}, role ${status.role}`],
    ['daemon', `warrend ${status.version}, process ${status.pid}, up ${formatDuration(status.uptimeMs)}`],
    ...mountRows(status),
    ['files', `${formatCount(usage.files)} with ${formatBytes(usage.fileBytes)}`],
    ['chunks', `${formatCount(usage.chunks)} with ${formatBytes(usage.chunkBytes)}${saving(usage)}`],
    ['disk', `${formatBytes(usage.diskFreeBytes)} free of ${formatBytes(usage.diskBytes)}`],
    ['data', status.dataDirectory],
    ['config', status.configFile === '' ? 'none' : status.configFile],
    ['log', `version ${formatCount(status.logVersion)}`],
    ['memory', formatBytes(status.memory.residentBytes)],
  ];
  return [...lines, '', ...rows.map(([label, text]) => `  ${label.padEnd(8)}${printable(text)}`)];
}

function headline(health: Health): string {
  const safety = health.dataSafe ? 'Your data is safe' : 'Your data is at risk';
  switch (health.state) {
    case 'healthy':
      return `✓ ${safety}. Healthy.`;
    case 'degraded':
      return `! ${safety}. Degraded.`;
    case 'read-only':
      return `✗ ${safety}. Read-only: nothing can be written.`;
  }
}

function toneOf(health: Health): Tone {
  if (!health.dataSafe || health.state === 'read-only') return 'bad';
  return health.state === 'healthy' ? 'good' : 'warning';
}

function mountRows(status: Status): [string, string][] {
  if (status.mounts.length === 0) return [['mount', 'none; mount it with `warren mount -m PATH`']];
  return status.mounts.map((mount) => [
    'mount',
    `${mount.path} (${mount.driver} driver, ${mount.openFiles === 1 ? '1 open file' : `${formatCount(mount.openFiles)} open files`})`,
  ]);
}

/** Repeated content and holes; nothing is said where nothing is saved. */
function saving(usage: Status['usage']): string {
  const saved = usage.fileBytes - usage.chunkBytes;
  if (saved <= 0 || usage.fileBytes === 0) return '';
  return `, ${formatBytes(saved)} saved by repeated content and holes`;
}
