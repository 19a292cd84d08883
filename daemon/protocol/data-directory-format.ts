/**
 * What a data directory looks like from outside, shared by the daemon that opens it and the command line
 * that makes it: a directory of mode 0700 whose `format.json` says that it is Warren's, in which version, and
 * whose. Everything else in it belongs to the rooms of the daemon.
 *
 * What can go wrong: a directory that holds somebody else's files, a half-made one after a crash, a version
 * from the future. `format.json` is written last and renamed into place, so it is there only when the
 * directory is whole.
 */

import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { MEMBER_NUMBER_MAX } from './cluster.ts';
import { makeDirectories, writeDurably } from './durable-files.ts';
import { systemErrorCode, WarrenError } from './errors.ts';
import type { NodeId } from './ids.ts';

export const DATA_FORMAT_VERSION = 1;
export const DATA_DIRECTORY_MODE = 0o700;
const FORMAT_FILE = 'format.json';

const formatSchema = z.object({
  format: z.literal('warren-data'),
  version: z.number().int().min(1),
  nodeId: z.string(),
  clusterId: z.string(),
  created: z.string(),
  origin: z.enum(['made', 'joining', 'joined']).default('made'),
  memberNumber: z.number().int().min(0).max(MEMBER_NUMBER_MAX).default(0),
});

export interface DataDirectoryFormat {
  readonly format: 'warren-data';
  readonly version: number;
  readonly nodeId: NodeId;
  /** Random; made with the first node of a cluster. */
  readonly clusterId: string;
  /** ISO 8601. */
  readonly created: string;
  /** `made`: the first node of its cluster. `joining`: never admitted yet, and must not start. */
  readonly origin: 'made' | 'joining' | 'joined';
  /** The node's number among the members, for life. */
  readonly memberNumber: number;
}

/**
 * Makes `directory` (and its parents) a data directory that also holds `files` (name to text). It may exist
 * when it is empty or holds only files of those names, which are then left as they are. Errors: DATA_DIRECTORY_EXISTS, DATA_DIRECTORY_NOT_EMPTY, DATA_DIRECTORY_READ_ONLY,
 * DATA_DIRECTORY_PERMISSIONS, DATA_DIRECTORY_FAILED.
 */
export function createDataDirectory(
  directory: string,
  options: { nodeId: NodeId; joins?: boolean; files?: Readonly<Record<string, string>> },
): DataDirectoryFormat {
  return withDirectoryErrors(directory, 'made', () => {
    const isNew = makeDirectories(directory, DATA_DIRECTORY_MODE);
    const present = readdirSync(directory);
    if (present.includes(FORMAT_FILE)) {
      throw new WarrenError({
        code: 'DATA_DIRECTORY_EXISTS',
        message: `${directory} is a Warren data directory already; nothing was changed.`,
        hint: `start it with \`warrend --config ${join(directory, 'config.toml')}\`, or choose another directory`,
      });
    }
    const files = options.files ?? {};
    // A name with `.new` is what a crash left of an earlier try.
    const allowed = new Set([FORMAT_FILE, ...Object.keys(files)].flatMap((name) => [name, `${name}.new`]));
    const foreign = present.filter((name) => !allowed.has(name));
    if (foreign.length > 0) {
      throw new WarrenError({
        code: 'DATA_DIRECTORY_NOT_EMPTY',
        message: `${directory} holds other files (${foreign.slice(0, 3).join(', ')}${foreign.length > 3 ? ', …' : ''}); nothing was changed.`,
        hint: 'choose a new or empty directory',
      });
    }
    if (!isNew) assertPrivate(directory);
    const format: DataDirectoryFormat = {
      format: 'warren-data',
      version: DATA_FORMAT_VERSION,
      nodeId: options.nodeId,
      clusterId: randomUUID(),
      created: new Date().toISOString(),
      origin: options.joins === true ? 'joining' : 'made',
      memberNumber: 0,
    };
    for (const [name, text] of Object.entries(files)) {
      if (!present.includes(name)) writeDurably(join(directory, name), text);
    }
    writeFormat(directory, format);
    return format;
  });
}

/** The cluster has admitted the node of `directory`; its identity lies there already. */
export function markJoined(
  directory: string,
  admitted: { readonly clusterId: string; readonly memberNumber: number },
): void {
  const format = readDataDirectoryFormat(directory);
  if (format === undefined) throw new Error(`${directory} is no data directory`);
  withDirectoryErrors(directory, 'changed', () =>
    writeFormat(directory, { ...format, ...admitted, origin: 'joined' }),
  );
}

function writeFormat(directory: string, format: DataDirectoryFormat): void {
  writeDurably(join(directory, FORMAT_FILE), `${JSON.stringify(format, null, 2)}\n`);
}

/** The marker, or undefined when there is no directory or no marker. Errors: as `createDataDirectory`, and
 * DATA_DIRECTORY_DAMAGED, DATA_DIRECTORY_NEWER. */
export function readDataDirectoryFormat(directory: string): DataDirectoryFormat | undefined {
  const file = join(directory, FORMAT_FILE);
  const text = withDirectoryErrors(directory, 'read', () => {
    try {
      return readFileSync(file, 'utf8');
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  });
  if (text === undefined) return undefined;
  const parsed = formatSchema.safeParse(parseJson(text));
  if (!parsed.success) {
    throw new WarrenError({
      code: 'DATA_DIRECTORY_DAMAGED',
      message: `${file} does not say what Warren writes there.`,
      hint: 'restore the file from a backup; the data beside it was not touched',
    });
  }
  if (parsed.data.version > DATA_FORMAT_VERSION) {
    throw new WarrenError({
      code: 'DATA_DIRECTORY_NEWER',
      message: `${directory} has data format ${parsed.data.version}; this release knows up to ${DATA_FORMAT_VERSION}. Nothing was changed.`,
      hint: 'start the newer release of Warren that wrote it',
    });
  }
  return { ...parsed.data, nodeId: parsed.data.nodeId as NodeId };
}

/** Errors: DATA_DIRECTORY_PERMISSIONS when others may enter or the owner is another user. */
export function assertPrivate(directory: string): void {
  const status = statSync(directory);
  const mode = status.mode & 0o777;
  if (!status.isDirectory()) {
    throw new WarrenError({
      code: 'DATA_DIRECTORY_NOT_WARREN',
      message: `${directory} is not a directory.`,
      hint: 'name a directory',
    });
  }
  const uid = process.getuid?.() ?? 0;
  if ((mode & 0o077) === 0 && (mode & 0o700) === 0o700 && status.uid === uid) return;
  throw new WarrenError({
    code: 'DATA_DIRECTORY_PERMISSIONS',
    message: `${directory} has mode ${mode.toString(8).padStart(4, '0')} and owner ${status.uid}; it must be 0700 and owned by user ${uid}, who runs Warren.`,
    hint: `chown ${uid} ${directory} && chmod 700 ${directory}`,
  });
}

/** Turns the disk's answers into sentences. `verb` completes "cannot be …". */
export function withDirectoryErrors<T>(directory: string, verb: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof WarrenError) throw error;
    const errno = systemErrorCode(error);
    const known = errno === undefined ? undefined : DIRECTORY_ERRORS[errno];
    throw new WarrenError({
      code: known?.code ?? 'DATA_DIRECTORY_FAILED',
      message: `${directory} cannot be ${verb}: ${known?.reason ?? String(error)}.`,
      hint: known?.hint ?? 'check the disk and its file system (`dmesg` shows its errors)',
      cause: error,
    });
  }
}

const DIRECTORY_ERRORS: Readonly<Record<string, { code: string; reason: string; hint: string }>> = {
  EROFS: {
    code: 'DATA_DIRECTORY_READ_ONLY',
    reason: 'its disk is mounted read-only',
    hint: 'mount it read-write; the kernel remounts read-only after disk errors (`dmesg` shows them)',
  },
  EACCES: {
    code: 'DATA_DIRECTORY_PERMISSIONS',
    reason: 'permission denied',
    hint: 'run as the user that owns the directory, or give it to this user with chown',
  },
  EPERM: {
    code: 'DATA_DIRECTORY_PERMISSIONS',
    reason: 'operation not permitted',
    hint: 'run as the user that owns the directory, or give it to this user with chown',
  },
  ENOTDIR: {
    code: 'DATA_DIRECTORY_NOT_WARREN',
    reason: 'a part of the path is a file',
    hint: 'name a directory',
  },
  EEXIST: {
    code: 'DATA_DIRECTORY_NOT_WARREN',
    reason: 'it is not a directory',
    hint: 'name a directory',
  },
  ENOSPC: {
    code: 'DATA_DIRECTORY_FULL',
    reason: 'its disk is full',
    hint: 'free space on the disk that holds it',
  },
};

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
