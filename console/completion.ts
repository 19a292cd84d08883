/**
 * Shell completion, generated from the command tree, so that it cannot lag behind it.
 *
 * The tree is flattened into contexts: the words of the command so far (`config check`, empty at the top) and
 * what may follow. Options that take a value complete file names, since every such value of ours but `--id` is
 * a path.
 */

import type { Command } from 'commander';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

interface Word {
  readonly word: string;
  readonly meaning: string;
}

interface Context {
  /** `config check`; empty at the top. */
  readonly path: string;
  readonly commands: readonly Word[];
  readonly options: readonly (Word & { readonly short: string; readonly takesValue: boolean })[];
  /** Fixed choices of the first operand. */
  readonly choices: readonly string[];
  readonly takesFile: boolean;
}

export function completionScript(program: Command, shell: Shell): string {
  const contexts = flatten(program, [], program);
  switch (shell) {
    case 'bash':
      return bashScript(contexts);
    case 'zsh':
      return zshScript(contexts);
    case 'fish':
      return fishScript(contexts);
  }
}

function flatten(command: Command, path: readonly string[], program: Command): Context[] {
  const own = command === program ? command.options : [...command.options, ...program.options];
  const options = own
    .filter((option) => option.long !== '--version' || command === program)
    .map((option) => ({
      word: option.long ?? option.short ?? '',
      short: option.short ?? '',
      meaning: option.description,
      takesValue: option.required,
    }));
  const [operand] = command.registeredArguments;
  const context: Context = {
    path: path.join(' '),
    commands: command.commands.map((child) => ({ word: child.name(), meaning: child.description() })),
    options: [...options, { word: '--help', short: '-h', meaning: 'show help', takesValue: false }],
    choices: operand?.argChoices ?? [],
    takesFile: operand !== undefined && operand.argChoices === undefined,
  };
  return [context, ...command.commands.flatMap((child) => flatten(child, [...path, child.name()], program))];
}

/** The words of every context that take a value, for `case`. */
function valueOptions(contexts: readonly Context[]): string {
  const words = contexts
    .flatMap((context) => context.options)
    .filter((option) => option.takesValue)
    .flatMap((option) => (option.short === '' ? [option.word] : [option.word, option.short]));
  return [...new Set(words)].join('|');
}

function bashScript(contexts: readonly Context[]): string {
  const paths = contexts.filter((context) => context.path !== '').map((context) => `'${context.path}'`);
  const cases = contexts.map((context) => {
    const words = [...context.commands.map(({ word }) => word), ...context.choices].join(' ');
    const options = context.options.map(({ word }) => word).join(' ');
    return `    '${context.path}') words='${words}'; options='${options}'; files=${context.takesFile ? 1 : 0} ;;`;
  });
  return `# bash completion of warren
_warren() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"
  local path='' word words='' options='' files=0 index skip=0
  COMPREPLY=()
  case "$previous" in
    ${valueOptions(contexts)}) compopt -o default 2>/dev/null; return ;;
  esac
  for ((index = 1; index < COMP_CWORD; index++)); do
    word="\${COMP_WORDS[index]}"
    if ((skip)); then skip=0; continue; fi
    case "$word" in
      ${valueOptions(contexts)}) skip=1; continue ;;
      -*) continue ;;
    esac
    case "\${path:+$path }$word" in
      ${paths.join('|')}) path="\${path:+$path }$word" ;;
    esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  if [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif ((files)); then
    compopt -o default 2>/dev/null
  else
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  fi
}
complete -F _warren warren
`;
}

function zshScript(contexts: readonly Context[]): string {
  const paths = contexts.filter((context) => context.path !== '').map((context) => `'${context.path}'`);
  const cases = contexts.map((context) => {
    const words = [...context.commands, ...context.choices.map((word) => ({ word, meaning: word }))];
    const option = context.options.map(({ word, meaning }) => zshItem(word, meaning)).join(' ');
    return `    ('${context.path}') items=(${words.map(({ word, meaning }) => zshItem(word, meaning)).join(' ')}); opts=(${option}); files=${context.takesFile ? 1 : 0} ;;`;
  });
  return `#compdef warren
_warren() {
  local current="\${words[CURRENT]}" previous="\${words[CURRENT-1]}" place='' word index skip=0 files=0
  local -a items opts
  case "$previous" in
    (${valueOptions(contexts)}) _files; return ;;
  esac
  for ((index = 2; index < CURRENT; index++)); do
    word="\${words[index]}"
    if ((skip)); then skip=0; continue; fi
    case "$word" in
      (${valueOptions(contexts)}) skip=1; continue ;;
      (-*) continue ;;
    esac
    case "\${place:+$place }$word" in
      (${paths.join('|')}) place="\${place:+$place }$word" ;;
    esac
  done
  case "$place" in
${cases.join('\n')}
  esac
  if [[ "$current" == -* ]]; then
    _describe option opts
  elif ((files)); then
    _files
  else
    _describe command items
  fi
}
if [[ "\${funcstack[1]}" == _warren ]]; then _warren "$@"; else compdef _warren warren; fi
`;
}

function fishScript(contexts: readonly Context[]): string {
  const top = contexts[0]?.commands.map(({ word }) => word).join(' ') ?? '';
  const lines = ['# fish completion of warren', 'complete -c warren -f'];
  for (const context of contexts) {
    const words = context.path === '' ? [] : context.path.split(' ');
    const inner = context.commands.map(({ word }) => word).join(' ');
    const conditions = words.map((word) => `__fish_seen_subcommand_from ${word}`);
    const here =
      words.length === 0
        ? `not __fish_seen_subcommand_from ${top}`
        : [...conditions, ...(inner === '' ? [] : [`not __fish_seen_subcommand_from ${inner}`])].join(
            '; and ',
          );
    const start = `complete -c warren -n '${here}'`;
    for (const { word, meaning } of context.commands)
      lines.push(`${start} -a ${word} -d ${fishText(meaning)}`);
    for (const choice of context.choices) lines.push(`${start} -a ${choice}`);
    if (context.takesFile) lines.push(`${start} -F`);
    for (const option of context.options) {
      const short = option.short === '' ? '' : ` -s ${option.short.slice(1)}`;
      const value = option.takesValue ? ' -r -F' : '';
      lines.push(`${start} -l ${option.word.slice(2)}${short}${value} -d ${fishText(option.meaning)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

function zshItem(word: string, meaning: string): string {
  return `'${word}:${meaning.replaceAll("'", "'\\''").replaceAll(':', '\\:')}'`;
}

function fishText(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
