/**
 * `npm run cluster -- --nodes 3`: a whole cluster on this machine, to play with and to develop against. Ctrl+C stops all
 * nodes. Its data lie in a temporary folder that goes away then, or stay in `--directory DIR`.
 */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startCluster } from '../support/cluster.ts';

const NODES_MAX = 8;

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '3' },
    directory: { type: 'string' },
    quiet: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const count = Number(values.nodes);
if (values.help || !Number.isInteger(count) || count < 1 || count > NODES_MAX) {
  process.stderr.write('usage: npm run cluster -- [--nodes 1-8] [--directory DIR] [--quiet]\n');
  process.exit(values.help ? 0 : 2);
}
const directory = values.directory === undefined ? undefined : resolve(values.directory);
if (directory !== undefined && existsSync(directory)) {
  process.stderr.write(`${directory} is there already: name a new folder.\n`);
  process.exit(1);
}
const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
process.on('SIGINT', ask);
process.on('SIGTERM', ask);
await using cluster = await startCluster({
  nodes: count,
  ...(directory === undefined ? {} : { directory }),
  ...(values.quiet
    ? {}
    : { onLog: (node, text) => void process.stderr.write(text.replaceAll(/^(?=.)/gm, node.padEnd(8))) }),
});
for (const node of cluster.nodes) {
  process.stdout.write(`${node.id.padEnd(8)} ${node.mount}   warren --socket ${node.socket} servers\n`);
}
process.stdout.write('Press Ctrl+C to stop the cluster.\n');
await asked;
