/**
 * A small disk of its own: a file system in an image file on a loop device, which can lose power
 * (`xfs_io -x -c shutdown`: all that was not synced is gone), fill up, or be mounted again.
 */

import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { requirePackage, requireRoot, run } from './requirements.ts';

export interface LoopDisk extends Disposable {
  readonly directory: string;
  readonly image: string;
  /** Power goes: what was not synced is lost. The disk stays mounted and answers EIO until `remount`. */
  cutPower(): void;
  /** Unmounts and mounts again (replaying the journal). `options` as for mount -o. */
  remount(options?: string): void;
}

export function openLoopDisk(type: 'ext4' | 'xfs', megabytes: number): LoopDisk {
  requireRoot();
  const make = requirePackage(`mkfs.${type}`, type === 'xfs' ? 'xfsprogs' : 'e2fsprogs');
  const place = mkdtempSync(join(tmpdir(), 'warren-disk-'));
  const image = join(place, 'image');
  const directory = join(place, 'disk');
  writeFileSync(image, '');
  truncateSync(image, megabytes * 1024 * 1024);
  mkdirSync(directory);
  run(make, ['-q', image]);
  const mount = (options: string): string => run('mount', ['-o', `loop,${options}`, image, directory]);
  mount('rw');
  return {
    directory,
    image,
    cutPower: () => void run(requirePackage('xfs_io', 'xfsprogs'), ['-x', '-c', 'shutdown', directory]),
    remount(options = 'rw') {
      run('umount', [directory]);
      mount(options);
    },
    [Symbol.dispose]() {
      spawnSync('umount', ['-l', directory]);
      rmSync(place, { recursive: true, force: true });
    },
  };
}
