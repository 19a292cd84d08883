/**
 * What a run of log entries touched: inodes by what changed of them, and names. Two sides of a partition are compared by
 * these sets, because a state alone does not tell who changed something.
 *
 * Folding, reclaiming and times of access change nothing that a person would call a change.
 */

import type { Inode, Name } from '../protocol/ids.ts';
import type { Operation } from '../protocol/operations.ts';

export interface TouchedName {
  readonly parent: Inode;
  readonly name: Name;
}

export interface Touched {
  readonly inodes: Map<Inode, 'attributes' | 'content'>;
  /** By `nameKey`, in the order in which they were touched last. */
  readonly names: Map<string, TouchedName>;
  /** Inodes that began in these entries. */
  readonly made: Set<Inode>;
  /** Operations on members and settings, which are not merged. */
  ofCluster: number;
}

export function nothingTouched(): Touched {
  return { inodes: new Map(), names: new Map(), made: new Set(), ofCluster: 0 };
}

export function nameKey(parent: Inode, name: Name): string {
  return `${parent}/${Buffer.from(name).toString('latin1')}`;
}

export function noteTouched(touched: Touched, operation: Operation): void {
  const content = (inode: Inode) => void touched.inodes.set(inode, 'content');
  const attributes = (inode: Inode) => {
    if (!touched.inodes.has(inode)) touched.inodes.set(inode, 'attributes');
  };
  const name = (place: TouchedName) => {
    const key = nameKey(place.parent, place.name);
    touched.names.delete(key);
    touched.names.set(key, { parent: place.parent, name: Buffer.copyBytesFrom(place.name) });
  };
  switch (operation.kind) {
    case 'make':
      content(operation.inode);
      touched.made.add(operation.inode);
      if (operation.entry !== null) name(operation.entry);
      break;
    case 'link':
    case 'unlink':
    case 'rmdir':
    case 'settle-name':
      name(operation);
      break;
    case 'rename':
      name(operation.to);
      name(operation.from);
      break;
    case 'attributes': {
      if (operation.size !== undefined) content(operation.inode);
      else if (operation.time !== null) attributes(operation.inode);
      break;
    }
    case 'write':
    case 'punch':
    case 'replace':
      content(operation.inode);
      break;
    case 'copy':
      content(operation.to);
      break;
    case 'member':
      touched.ofCluster++;
      break;
    case 'settings': {
      const { inSync: _, ...others } = operation.settings;
      if (Object.keys(others).length > 0) touched.ofCluster++;
      break;
    }
    case 'fold':
    case 'reclaim':
    case 'drop-chunks':
    case 'lead':
    case 'conflict-add':
    case 'conflict-resolve':
      break;
  }
}
