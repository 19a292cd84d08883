/**
 * What an operation makes old in caches: of kernels, and of this file system. The mounts are told of it when the
 * operation came from another node; for its own operations the file system tells them itself, because it knows
 * which mount needs no telling.
 */

import { FILE_BYTES_MAX, type Inode, type Name, NO_MOUNT } from '../protocol/ids.ts';
import type { Operation, OperationOutcome } from '../protocol/operations.ts';
import type { Invalidation } from './interface.ts';

/** Every kernel cache that the operation made old, for all mounts. */
export function invalidationsOf(operation: Operation, outcome: OperationOutcome): Invalidation[] {
  switch (operation.kind) {
    case 'make':
      return operation.entry === null ? [] : entryChange(operation.entry.parent, operation.entry.name);
    case 'link':
      return [...entryChange(operation.parent, operation.name), attributes(operation.inode)];
    case 'unlink':
    case 'rmdir':
      return [...entryChange(operation.parent, operation.name), ...lost(outcome)];
    case 'rename':
      return [
        ...entryChange(operation.from.parent, operation.from.name),
        ...entryChange(operation.to.parent, operation.to.name),
        ...(outcome.moved ?? []).map(attributes),
        ...lost(outcome),
      ];
    case 'attributes':
      return operation.size === undefined
        ? [attributes(operation.inode)]
        : [bytes(operation.inode, operation.size, 0), attributes(operation.inode)];
    case 'write': {
      const start = operation.extents.reduce((low, { offset }) => Math.min(low, offset), FILE_BYTES_MAX);
      const end = operation.extents.reduce((high, { offset, length }) => Math.max(high, offset + length), 0);
      return [
        ...(end > start ? [bytes(operation.inode, start, end - start)] : []),
        attributes(operation.inode),
      ];
    }
    case 'allocate':
      return [
        ...(operation.zero ? [bytes(operation.inode, operation.offset, operation.length)] : []),
        attributes(operation.inode),
      ];
    case 'punch':
      return [bytes(operation.inode, operation.offset, operation.length), attributes(operation.inode)];
    case 'copy':
      return [bytes(operation.to, operation.toOffset, operation.length), attributes(operation.to)];
    case 'settle-name':
      return [
        ...entryChange(operation.parent, operation.name),
        ...(operation.inode === null ? [] : [attributes(operation.inode)]),
        ...lost(outcome),
      ];
    case 'replace':
      return [bytes(operation.inode, 0, 0), attributes(operation.inode)];
    // The same bytes under other names, or nothing that a kernel could have cached.
    case 'fold':
    case 'reclaim':
    case 'drop-chunks':
    case 'lead':
    case 'member':
    case 'settings':
    case 'conflict-add':
    case 'conflict-resolve':
      return [];
  }
}

/** The inode whose extents the operation changed, if any. */
export function changedContent(operation: Operation): Inode | undefined {
  switch (operation.kind) {
    case 'write':
    case 'punch':
    case 'allocate':
    case 'fold':
    case 'replace':
      return operation.inode;
    case 'copy':
      return operation.to;
    case 'attributes':
      return operation.size === undefined ? undefined : operation.inode;
    default:
      return undefined;
  }
}

/** The inode that got a further name, as one without any may. */
export function gainedName(operation: Operation): readonly Inode[] {
  if (operation.kind === 'link') return [operation.inode];
  return operation.kind === 'settle-name' && operation.inode !== null ? [operation.inode] : [];
}

function entryChange(parent: Inode, name: Name): Invalidation[] {
  return [{ kind: 'entry', parent, name, mount: NO_MOUNT }, attributes(parent)];
}

function attributes(inode: Inode): Invalidation {
  return { kind: 'attributes', inode, mount: NO_MOUNT };
}

/** `length` 0: to the end. */
function bytes(inode: Inode, offset: number, length: number): Invalidation {
  return { kind: 'data', inode, offset, length, mount: NO_MOUNT };
}

function lost(outcome: OperationOutcome): Invalidation[] {
  return outcome.removed === undefined ? [] : [attributes(outcome.removed.inode)];
}
