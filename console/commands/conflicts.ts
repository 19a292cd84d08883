/** `warren conflicts` and `warren conflicts resolve`: what two sides of a partition changed differently. */

import type { Command } from 'commander';
import { KEEPS } from '../../daemon/protocol/conflict.ts';
import type { ConflictList } from '../../daemon/protocol/control-conflicts.ts';
import { WarrenError } from '../../daemon/protocol/errors.ts';
import { EXIT } from '../../daemon/protocol/release.ts';
import { printable } from '../../daemon/protocol/text.ts';
import { formatBytes } from '../../daemon/protocol/units.ts';
import type { Act } from '../command-context.ts';
import { withControl } from '../control-client.ts';
import { locateSocket } from '../locate.ts';

const TIMEOUT_MS = 60_000;

const MEANING = {
  content: 'both sides changed it',
  name: 'both sides gave the name to different things',
  deleted: 'it was deleted (mine), and changed on the other side (theirs); it is there again',
  removed: 'it was changed (mine), and deleted on the other side (theirs); it was kept',
  directory: 'the directory was removed (mine), and used on the other side (theirs); it is there again',
} as const;

export function addConflictCommands(program: Command, act: Act): void {
  const conflicts = program
    .command('conflicts')
    .description('show what two sides of a cut network changed differently')
    .addHelpText('after', '\nEnds with 3 while there are any.\n\nExample: warren conflicts')
    .action(
      act(async ({ options, output }) => {
        const result = await withControl(locateSocket(options), (client) =>
          client.call('conflicts', {}, { timeoutMs: TIMEOUT_MS }),
        );
        output.text(...conflictLines(result));
        output.data(result);
        return result.count + result.merging > 0 ? EXIT.degraded : EXIT.ok;
      }),
    );
  conflicts
    .command('resolve')
    .description('decide which version stays, and take the conflict off the list')
    .argument('<id>', 'number of the conflict')
    .requiredOption('--keep <which>', 'mine (at the name), theirs (beside it), both')
    .addHelpText('after', '\nExample: warren conflicts resolve 4711 --keep theirs')
    .action(
      act(async ({ options, output }, id: string, { keep }: { keep: string }) => {
        const which = KEEPS.find((known) => known === keep);
        if (which === undefined || !/^\d+$/.test(id)) {
          throw new WarrenError({
            code: 'USAGE',
            message: which === undefined ? `"${keep}" is nothing to keep.` : `"${id}" is no number.`,
            hint: `warren conflicts resolve ID --keep ${KEEPS.join('|')}`,
          });
        }
        const result = await withControl(locateSocket(options), (client) =>
          client.call('conflict-resolve', { id: Number(id), keep: which }, { timeoutMs: TIMEOUT_MS }),
        );
        output.text(`Conflict ${result.id} is resolved: ${result.kept} kept.`);
        output.data(result);
        return EXIT.ok;
      }),
    );
}

export function conflictLines({ merging, count, conflicts }: ConflictList): string[] {
  const lines: string[] = [];
  if (merging > 0) lines.push('What one side of a cut network did is still being merged.');
  if (count === 0) return [...lines, 'No conflicts.'];
  for (const { id, kind, node, time, mine, theirs } of conflicts) {
    lines.push(`${id}  ${printable(mine.path)}: ${MEANING[kind]} (${node}, ${time})`);
    lines.push(`    mine:   ${described(mine)}`);
    if (theirs !== null) lines.push(`    theirs: ${described(theirs)}`);
  }
  if (count > conflicts.length) lines.push(`and ${count - conflicts.length} more`);
  return [...lines, '`warren conflicts resolve ID --keep mine|theirs|both` decides.'];
}

function described({ path, exists, bytes, modified }: ConflictList['conflicts'][number]['mine']): string {
  return exists
    ? `${printable(path)}, ${formatBytes(bytes)}, changed ${modified}`
    : `${printable(path)} (not there any more)`;
}
