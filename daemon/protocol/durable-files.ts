/**
 * Small files and directories that last: after a power cut each is absent (or old) or whole. Shared by the
 * daemon and the command line; synchronous, for start and set-up only.
 */

import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { systemErrorCode } from './errors.ts';

const PARENT_MODE = 0o755;

/** Writes under a temporary name and renames; errors are those of the system. */
export function writeDurably(file: string, text: string, mode = 0o600): void {
  const temporary = `${file}.new`;
  const descriptor = openSync(temporary, 'w', mode);
  try {
    writeFileSync(descriptor, text);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(temporary, file);
  syncDirectory(dirname(file));
}

/**
 * Makes `directory` with `mode` and its missing parents with 0755; answers whether it was missing. Not
 * mkdir's `recursive`: that gives parents the same mode and answers ENOENT where the disk is read-only.
 */
export function makeDirectories(directory: string, mode: number): boolean {
  const path = resolve(directory);
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    const code = systemErrorCode(error);
    // A read-only disk answers EROFS for a directory that is there, too.
    if (code === 'EEXIST' || (code === 'EROFS' && statSync(path, { throwIfNoEntry: false }) !== undefined)) {
      return false;
    }
    if (code !== 'ENOENT' || path === dirname(path)) throw error;
    makeDirectories(dirname(path), PARENT_MODE);
    mkdirSync(path, { mode });
  }
  syncDirectory(dirname(path));
  return true;
}

export function syncDirectory(directory: string): void {
  const descriptor = openSync(directory, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
