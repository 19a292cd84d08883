/** Shell completion: the three scripts are run by their shells, and name every command and option of the tree. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import type { Command } from 'commander';
import { completionScript, SHELLS } from '../../console/completion.ts';
import { buildProgram } from '../../console/program.ts';
import { requirePackage, run } from '../support/requirements.ts';

const program = buildProgram(() => {});

function complete(...words: string[]): string[] {
  const script = `${completionScript(program, 'bash')}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _warren; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const output = execFileSync('bash', ['-c', script, 'bash', 'warren', ...words], { encoding: 'utf8' });
  return output.split('\n').filter((word) => word !== '');
}

test('bash completes commands, subcommands, choices and options where they belong', () => {
  assert.deepEqual(complete('st'), ['status']);
  assert.deepEqual(
    complete(''),
    program.commands.map((command) => command.name()),
  );
  assert.deepEqual(complete('config', 'sh'), ['show']);
  assert.deepEqual(complete('--socket', '/x', 'config', ''), ['check', 'show', 'example']);
  assert.deepEqual(complete('completion', ''), [...SHELLS]);
  assert.deepEqual(complete('unmount', '--f'), ['--force']);
  assert.deepEqual(complete('status', '--js'), ['--json']);
  // A value of an option: left to file names.
  assert.deepEqual(complete('mount', '-m', ''), []);
});

test('fish completes the same', () => {
  const fish = requirePackage('fish', 'fish');
  const script = completionScript(program, 'fish');
  const offered = (line: string): string[] =>
    run(fish, ['--no-config', '-c', `${script}\ncomplete -C '${line}'`])
      .split('\n')
      .filter((text) => text !== '')
      .map((text) => text.split('\t')[0] ?? '');
  assert.deepEqual(offered('warren st'), ['status']);
  assert.deepEqual(offered('warren '), program.commands.map((command) => command.name()).sort());
  assert.deepEqual(offered('warren --socket /x config '), ['check', 'example', 'show']);
  assert.deepEqual(offered('warren completion '), [...SHELLS].sort());
  assert.deepEqual(offered('warren unmount --f'), ['--force']);
  assert.deepEqual(offered('warren mount -m /de'), ['/dev/'], 'a value of an option: file names');
});

test('zsh completes the same', () => {
  const zsh = requirePackage('zsh', 'zsh');
  // In the place of zsh's own functions: what they are given, which they would filter and show.
  const setting = `compdef() { : }; _files() { print FILES }; _describe() { print -l -- \${(P)2%%:*} }
${completionScript(program, 'zsh')}
words=(warren "$@"); CURRENT=$#words; _warren`;
  const offered = (...words: string[]): string[] =>
    run(zsh, ['-fc', setting, 'zsh', ...words])
      .split('\n')
      .filter((text) => text !== '');
  assert.deepEqual(
    offered(''),
    program.commands.map((command) => command.name()),
  );
  assert.deepEqual(offered('--socket', '/x', 'config', ''), ['check', 'show', 'example']);
  assert.deepEqual(offered('completion', ''), [...SHELLS]);
  assert.ok(offered('unmount', '-').includes('--force'));
  assert.deepEqual(offered('mount', '-m', ''), ['FILES']);
  assert.deepEqual(offered('config', 'check', ''), ['FILES']);
});

test('every shell knows every command and option', () => {
  for (const shell of SHELLS) {
    const script = completionScript(program, shell);
    const check = (command: Command): void => {
      for (const option of command.options) {
        const long = option.long ?? '';
        assert.ok(script.includes(shell === 'fish' ? `-l ${long.slice(2)}` : long), `${shell} ${long}`);
      }
      for (const child of command.commands) {
        assert.ok(script.includes(child.name()), `${shell} ${child.name()}`);
        check(child);
      }
    };
    check(program);
  }
});

test('the bash script is valid and does not disturb the shell that reads it', () => {
  execFileSync('bash', ['-euc', completionScript(program, 'bash')]);
});
