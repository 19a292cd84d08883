/** The result of a check as lines for a person; `warren fsck` and `warrend fsck` print the same. */

import type { Finding, FsckResult } from './control-api.ts';

export function fsckLines(result: FsckResult): string[] {
  const { checked } = result;
  const findings = result.findings.length + result.findingsLeftOut;
  const lines = [
    result.clean ? '✓ Everything is whole.' : `✗ ${findings.toLocaleString('en')} findings:`,
    ...result.findings.map(findingLine),
  ];
  if (result.findingsLeftOut > 0) lines.push(`  and ${result.findingsLeftOut.toLocaleString('en')} more`);
  const [inodes, entries, extents, chunks] = [
    checked.inodes,
    checked.entries,
    checked.extents,
    checked.chunks,
  ].map((count) => count.toLocaleString('en'));
  const mebibytes = (checked.chunkBytes / 1024 / 1024).toFixed(1);
  lines.push(
    `  checked ${inodes} inodes, ${entries} names, ${extents} extents,`,
    `  ${chunks} chunks (${mebibytes} MiB read) in ${(result.durationMs / 1000).toFixed(1)} s`,
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

/** File names may hold anything; a terminal gets no control characters. */
function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}
