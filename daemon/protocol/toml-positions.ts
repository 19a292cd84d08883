/**
 * Where each key of a TOML file stands. smol-toml gives values without positions, and an error message
 * without a line makes people search.
 *
 * The idea: the file is known to be valid TOML, so a scan that only skips strings and comments and counts
 * brackets finds every table header and every key at the start of a statement. Keys inside an inline table
 * (`node = { id = "a" }`) get the position of that table: `positionOf` falls back to the nearest parent.
 */

export interface Position {
  /** Both from 1. */
  readonly line: number;
  readonly column: number;
}

/** Positions by dotted key (`node`, `node.id`). `text` must have been accepted by the TOML parser. */
export function tomlPositions(text: string): Map<string, Position> {
  const positions = new Map<string, Position>();
  let table: string[] = [];
  let offset = 0;
  let line = 1;
  let lineStart = 0;
  let depth = 0;
  let atStatement = true;

  while (offset < text.length) {
    const character = text[offset] ?? '';
    if (character === '\n') {
      offset += 1;
      line += 1;
      lineStart = offset;
      if (depth === 0) atStatement = true;
    } else if (character === '#') {
      offset = endOfLine(text, offset);
    } else if (atStatement && depth === 0 && !/\s/.test(character)) {
      atStatement = false;
      const position = { line, column: offset - lineStart + 1 };
      const isHeader = character === '[';
      const start = isHeader ? offset + (text.startsWith('[[', offset) ? 2 : 1) : offset;
      const read = readKey(text, start);
      if (isHeader) table = read.parts;
      note(positions, isHeader ? [] : table, read.parts, position);
      offset = isHeader ? endOfLine(text, read.end) : read.end;
    } else if (character === '"' || character === "'") {
      const end = endOfString(text, offset);
      for (let index = offset; index < end; index++) {
        if (text[index] !== '\n') continue;
        line += 1;
        lineStart = index + 1;
      }
      offset = end;
    } else {
      if (character === '[' || character === '{') depth += 1;
      if (character === ']' || character === '}') depth -= 1;
      offset += 1;
    }
  }
  return positions;
}

/** Of the key, or of its nearest parent that is written in the file, or the first line. */
export function positionOf(positions: ReadonlyMap<string, Position>, key: string): Position {
  const parts = key.split('.');
  while (parts.length > 0) {
    const position = positions.get(parts.join('.'));
    if (position !== undefined) return position;
    parts.pop();
  }
  return { line: 1, column: 1 };
}

function note(
  positions: Map<string, Position>,
  table: readonly string[],
  parts: readonly string[],
  position: Position,
): void {
  // `a.b = 1` also defines `a`; the first place that mentions a table is the one to show.
  for (let count = 1; count <= parts.length; count++) {
    const key = [...table, ...parts.slice(0, count)].join('.');
    if (!positions.has(key)) positions.set(key, position);
  }
}

function readKey(text: string, start: number): { parts: string[]; end: number } {
  const parts: string[] = [];
  let offset = start;
  while (offset < text.length) {
    const character = text[offset] ?? '';
    if (character === '"' || character === "'") {
      const end = endOfString(text, offset);
      parts.push(text.slice(offset + 1, end - 1));
      offset = end;
    } else if (/[A-Za-z0-9_-]/.test(character)) {
      const end = offset + (/^[A-Za-z0-9_-]+/.exec(text.slice(offset))?.[0].length ?? 1);
      parts.push(text.slice(offset, end));
      offset = end;
    } else if (character === '.' || character === ' ' || character === '\t') {
      offset += 1;
    } else {
      break;
    }
  }
  return { parts, end: offset };
}

function endOfLine(text: string, offset: number): number {
  const end = text.indexOf('\n', offset);
  return end === -1 ? text.length : end;
}

function endOfString(text: string, start: number): number {
  const quote = text[start] ?? '';
  const triple = quote.repeat(3);
  const delimiter = text.startsWith(triple, start) ? triple : quote;
  let offset = start + delimiter.length;
  while (offset < text.length && !text.startsWith(delimiter, offset)) {
    offset += quote === '"' && text[offset] === '\\' ? 2 : 1;
  }
  return Math.min(offset + delimiter.length, text.length);
}
