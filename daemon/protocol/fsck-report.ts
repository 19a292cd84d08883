/** The result of a check as lines for a person; `warren fsck` and `warrend fsck` print the same. */

import type { Finding, FsckResult } from './control-api.ts';
import { printable } from './text.ts';
import { formatBytes, formatCount, formatDuration } from './units.ts';

export function fsckLines(result: FsckResult): string[] {
  const { checked } = result;
  const lines = [
    result.clean
      ? '✓ Everything is whole.'
      : `✗ ${formatCount(result.findings.length + result.findingsLeftOut)} findings:`,
    ...result.findings.map(findingLine),
  ];
  if (result.findingsLeftOut > 0) lines.push(`  and ${formatCount(result.findingsLeftOut)} more`);
  lines.push(
    `  checked ${formatCount(checked.inodes)} inodes, ${formatCount(checked.entries)} names, ${formatCount(checked.extents)} extents,`,
    `  ${formatCount(checked.chunks)} chunks (${formatBytes(checked.chunkBytes)} read) in ${formatDuration(result.durationMs)}`,
  );
  if (result.findings.some((finding) => finding.state === 'safe')) {
    lines.push('  what to do: stop the daemon and run `warren fsck --repair`');
  }
  if (result.findings.some((finding) => finding.state === 'loss')) {
    lines.push('  what to do: restore the files named above from a backup');
  }
  return lines;
}

function findingLine(finding: Finding): string {
  const word = { repaired: 'repaired', safe: 'can be repaired', loss: 'DATA LOST' }[finding.state];
  return `  ${finding.code}: ${printable(finding.message)} (${word})`;
}
