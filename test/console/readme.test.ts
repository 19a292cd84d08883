/** The README says what the program does: the same keys with the same defaults, every command and option. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Command } from 'commander';
import { buildProgram } from '../../console/program.ts';
import { configTable } from '../../daemon/protocol/config-example.ts';

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');

test('the table of the configuration is the one made from the keys', () => {
  assert.ok(readme.includes(configTable()), `replace the table by:\n${configTable()}`);
});

test('every command and its options stand in the README', () => {
  const check = (command: Command, path: string): void => {
    for (const child of command.commands) {
      const childPath = `${path} ${child.name()}`;
      if (child.commands.length === 0) {
        const row = readme.split('\n').find((line) => line.startsWith(`| \`${childPath}`));
        assert.ok(row !== undefined, childPath);
        for (const option of child.options) {
          assert.ok(row.includes(option.short ?? option.long ?? ''), `${childPath} ${option.flags}`);
        }
      }
      check(child, childPath);
    }
  };
  check(
    buildProgram(() => {}),
    'warren',
  );
});
