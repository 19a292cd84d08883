/** What /proc/self/mountinfo says. It is read without touching the mounts, so a dead one cannot block it. */

import { readFile } from 'node:fs/promises';

export interface MountEntry {
  /** Decoded, absolute. */
  readonly path: string;
  /** Minor number of its device (the major is 0 for FUSE). */
  readonly deviceMinor: number;
  /** `major:minor`, the name of its backing device in /sys/class/bdi. */
  readonly device: string;
  readonly type: string;
  readonly source: string;
}

/** All mounts of this mount namespace, lower ones first. */
export async function readMountTable(): Promise<MountEntry[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text.split('\n').flatMap((line) => {
    const [left, right] = line.split(' - ');
    const [, , device, , path] = left?.split(' ') ?? [];
    const [type, source] = right?.split(' ') ?? [];
    if (device === undefined || path === undefined || type === undefined || source === undefined) return [];
    return [
      { path: decode(path), device, deviceMinor: Number(device.split(':')[1]), type, source: decode(source) },
    ];
  });
}

/** The mount one sees at `path`, or undefined when nothing is mounted exactly there. */
export async function findMount(path: string): Promise<MountEntry | undefined> {
  return (await readMountTable()).findLast((entry) => entry.path === path);
}

/** Space, tab, newline and backslash are written as octal. */
function decode(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
