/**
 * Durations and sizes as people write and read them. Parsing is strict: a number with an unknown unit is
 * undefined, never a guess. Powers of 1024 for sizes, since that is what chunks and disks are cut into.
 */

const DURATION_UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
};

const SIZE_UNITS: readonly string[] = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const SIZE_LETTERS = ['B', 'K', 'M', 'G', 'T', 'P'];

/** Milliseconds of `"500ms"`, `"30s"`, `"2m"`, `"1h"`; undefined for anything else. */
export function parseDurationMs(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/.exec(text.trim());
  const unit = DURATION_UNITS_MS[match?.[2] ?? ''];
  if (match?.[1] === undefined || unit === undefined) return undefined;
  return Math.round(Number(match[1]) * unit);
}

/** Bytes of `"4194304"`, `"64 KiB"`, `"4MiB"`, `"4M"`; undefined for anything else or a broken number of bytes. */
export function parseSizeBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$/i.exec(text.trim());
  if (match?.[1] === undefined) return undefined;
  const power = match[2] === '' ? 0 : SIZE_LETTERS.indexOf((match[2] ?? '').toUpperCase());
  const bytes = Number(match[1]) * 1024 ** power;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `0 B`, `12.3 MiB`, `4.0 TiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let power = 0;
  while (value >= 1024 && power < SIZE_UNITS.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${power === 0 ? value : value.toFixed(1)} ${SIZE_UNITS[power]}`;
}

/** `850 ms`, `12 s`, `3 min 5 s`, `4 h 2 min`, `9 d 3 h`: the two largest units that say something. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  const parts: string[] = [];
  let rest = seconds;
  for (const [unit, size] of [
    ['d', 86_400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ] as const) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(`${count} ${unit}`);
  }
  return parts.slice(0, 2).join(' ');
}

/** `1,234,567`, the same in every locale. */
export function formatCount(count: number): string {
  return String(Math.round(count)).replaceAll(/\B(?=(\d{3})+$)/g, ',');
}
