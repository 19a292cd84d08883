/** Small files and folders whose changes are durable when the call returns. */

import * as fs from 'node:fs';
import * as path from 'node:path';

/** Makes what was renamed or removed in the folder durable. */
export function syncDirectory(directory: string): void {
  const descriptor = fs.openSync(directory, 'r');
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

/** Replaces a small file as a whole: after a crash it is the old one or the new one. */
export function writeDurably(file: string, content: string): void {
  const temporary = `${file}.new`;
  const descriptor = fs.openSync(temporary, 'w', 0o600);
  try {
    fs.writeFileSync(descriptor, content);
    fs.fdatasyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
  fs.renameSync(temporary, file);
  syncDirectory(path.dirname(file));
}
