/** `warren completion bash|zsh|fish`. */

import { Argument, type Command } from 'commander';
import { EXIT } from '../../daemon/protocol/release.ts';
import { completionScript, SHELLS, type Shell } from '../completion.ts';
import type { Act } from '../command-context.ts';

export function addCompletionCommand(program: Command, act: Act): void {
  program
    .command('completion')
    .description('print a completion script for a shell')
    .addArgument(new Argument('<shell>').choices(SHELLS))
    .addHelpText(
      'after',
      '\nExamples:\n  warren completion bash > /etc/bash_completion.d/warren' +
        '\n  warren completion zsh > /usr/local/share/zsh/site-functions/_warren' +
        '\n  warren completion fish > ~/.config/fish/completions/warren.fish',
    )
    .action(
      act(({ output }, shell: Shell) => {
        const script = completionScript(program, shell);
        output.text(script.trimEnd());
        output.data({ shell, script });
        return EXIT.ok;
      }),
    );
}
