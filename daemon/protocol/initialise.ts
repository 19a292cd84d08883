/**
 * Makes a new node: a data directory and a configuration that fits it. Two layouts.
 *
 * `initialiseNode` (`warren init -d DIR`): DIR is the data directory and holds `config.toml`.
 * `prepareHere` (`warrend --here DIR`): DIR can be entered by everyone and holds `config.toml`, `data/` (0700),
 * `mnt/` and `control.sock`; the mount would be out of reach for other users inside a private directory.
 */

import { existsSync, mkdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import type { Role } from './cluster.ts';
import { type Config, loadConfig } from './config.ts';
import { exampleConfig } from './config-example.ts';
import { nodeIdSchema } from './config-keys.ts';
import {
  createDataDirectory,
  readDataDirectoryFormat,
  withDirectoryErrors,
} from './data-directory-format.ts';
import { makeDirectories, writeDurably } from './durable-files.ts';
import { systemErrorCode, WarrenError } from './errors.ts';
import type { NodeId } from './ids.ts';

const CONFIG_FILE = 'config.toml';

export interface InitialisedNode {
  readonly nodeId: NodeId;
  readonly clusterId: string;
  readonly dataDirectory: string;
  readonly configFile: string;
}

export interface NodeChoices {
  readonly directory: string;
  readonly id?: string;
  readonly socket?: string;
  readonly mount?: string;
  readonly bind?: string;
  readonly advertise?: string;
  readonly role?: Role;
  readonly discovery?: string;
  readonly peers?: readonly string[];
}

/** Errors: NODE_ID_INVALID, and those of `createDataDirectory`; an existing node is never changed. */
export function initialiseNode(options: NodeChoices & { readonly joins?: boolean }): InitialisedNode {
  const directory = resolve(options.directory);
  const nodeId = options.id === undefined ? defaultNodeId() : checkedNodeId(options.id);
  const format = createDataDirectory(directory, {
    nodeId,
    joins: options.joins === true,
    files: {
      [CONFIG_FILE]: exampleConfig({
        'node.id': nodeId,
        'node.data_dir': directory,
        'mount.path': options.mount === undefined ? '/mnt/warren' : resolve(options.mount),
        ...(options.socket === undefined ? {} : { 'control.socket': resolve(options.socket) }),
        ...(options.bind === undefined ? {} : { 'node.bind': options.bind }),
        ...(options.advertise === undefined ? {} : { 'node.advertise': options.advertise }),
        ...(options.role === undefined ? {} : { 'node.role': options.role }),
        ...(options.discovery === undefined ? {} : { 'cluster.discovery': options.discovery }),
        ...(options.peers === undefined ? {} : { 'cluster.peers': options.peers }),
      }),
    },
  });
  const configFile = join(directory, CONFIG_FILE);
  return { nodeId, clusterId: format.clusterId, dataDirectory: directory, configFile };
}

/** Makes what is missing under `directory` and answers the configuration there. Errors: as `initialiseNode`
 * and `loadConfig`. */
export function prepareHere(directory: string): { config: Config; configFile: string; isNew: boolean } {
  const root = resolve(directory);
  const dataDirectory = join(root, 'data');
  const configFile = join(root, CONFIG_FILE);
  const mountPath = join(root, 'mnt');
  const nodeId = defaultNodeId();
  withDirectoryErrors(root, 'made', () => makeDirectories(root, 0o755));
  const isNew = !existsSync(configFile);
  if (isNew) {
    // The node's data may be older than a lost configuration: its name is what the data says.
    const format = readDataDirectoryFormat(dataDirectory) ?? createDataDirectory(dataDirectory, { nodeId });
    const values = {
      'node.id': format.nodeId,
      'node.data_dir': dataDirectory,
      'mount.path': mountPath,
      // fusermount grants it to ordinary users only where /etc/fuse.conf says so.
      'mount.allow_other': process.getuid?.() === 0,
      'control.socket': join(root, 'control.sock'),
      // A file system to try: nobody else on the network needs to know of it.
      'node.bind': '127.0.0.1:9500',
      'cluster.discovery': 'none',
    };
    withDirectoryErrors(root, 'made', () => writeDurably(configFile, exampleConfig(values), 0o644));
  }
  const config = loadConfig(configFile);
  withDirectoryErrors(mountPath, 'made', () => makeIfMissing(mountPath));
  return { config, configFile, isNew };
}

/** Not recursive: that would look into the directory, and a dead daemon's mount answers ENOTCONN. */
function makeIfMissing(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o755 });
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
  }
}

/** The host name, cut to what a node may be called. */
export function defaultNodeId(hostName = hostname()): NodeId {
  const cleaned = hostName
    .replaceAll(/[^A-Za-z0-9._-]/g, '-')
    .slice(0, 63)
    .replaceAll(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '');
  return (cleaned === '' ? 'node-1' : cleaned) as NodeId;
}

function checkedNodeId(id: string): NodeId {
  if (nodeIdSchema.safeParse(id).success) return id as NodeId;
  throw new WarrenError({
    code: 'NODE_ID_INVALID',
    message: `"${id}" cannot be the name of a node.`,
    hint: 'use 1 to 63 letters, digits, ".", "_" or "-", with a letter or digit at both ends',
  });
}
