/**
 * A network of its own for each node of a test: one namespace per node, joined by a bridge in a further one. A node can be
 * cut off silently, as by a pulled cable behind a switch: nothing is refused, nothing answers.
 *
 * Commands enter the network namespace only (`nsenter --net`): files, mounts and processes stay those of the machine, so
 * that a test reads every mount and reaches every control socket. Nothing outlives `dispose`.
 */

import { spawnSync } from 'node:child_process';
import type { Place } from './cluster.ts';
import { requirePackage, requireRoot } from './requirements.ts';

const COMMAND_TIMEOUT_MS = 20_000;
const PORT = 9500;
let made = 0;

export interface TestNetwork extends Disposable {
  /** One for each node, for `startCluster`. */
  readonly places: readonly Place[];
  /** From now on nothing comes in or goes out, except on loopback. */
  cut(index: number): void;
  heal(index: number): void;
}

/** Errors: a sentence when this machine makes no namespaces. */
export function openNetwork(nodes: number): TestNetwork {
  requireRoot();
  requirePackage('ip', 'iproute2');
  requirePackage('nft', 'nftables');
  requirePackage('nsenter', 'util-linux');
  const prefix = `warren-${process.pid}-${++made}`;
  const hub = `${prefix}-hub`;
  const names = Array.from({ length: nodes }, (_, index) => `${prefix}-${index}`);
  const added: string[] = [];

  function add(name: string): void {
    ip(['netns', 'add', name]);
    added.push(name);
    ip(['-n', name, 'link', 'set', 'lo', 'up']);
  }

  function dispose(): void {
    for (const name of added.splice(0)) spawnSync('ip', ['netns', 'delete', name]);
  }

  try {
    add(hub);
    ip(['-n', hub, 'link', 'add', 'bridge', 'type', 'bridge']);
    ip(['-n', hub, 'link', 'set', 'bridge', 'up']);
    for (const [index, name] of names.entries()) {
      add(name);
      const port = `port${index}`;
      ip(['-n', hub, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name]);
      ip(['-n', hub, 'link', 'set', port, 'master', 'bridge', 'up']);
      ip(['-n', name, 'address', 'add', `${address(index)}/24`, 'dev', 'eth0']);
      ip(['-n', name, 'link', 'set', 'eth0', 'up']);
    }
  } catch (error) {
    dispose();
    throw new Error(
      `This test needs network namespaces with veth and a bridge: run it as root on a machine or in a container that may make them. ${String(error)}`,
      { cause: error },
    );
  }

  const nft = (index: number, rules: string) =>
    command('ip', ['netns', 'exec', names[index] ?? '', 'nft', '-f', '-'], rules);

  return {
    places: names.map((name, index) => ({
      prefix: ['nsenter', `--net=/run/netns/${name}`],
      address: `${address(index)}:${PORT}`,
    })),
    cut: (index) =>
      nft(
        index,
        `table inet cut {
           chain in { type filter hook input priority 0; iifname != "lo" drop; }
           chain out { type filter hook output priority 0; oifname != "lo" drop; }
         }`,
      ),
    heal: (index) => nft(index, 'delete table inet cut'),
    [Symbol.dispose]: dispose,
  };
}

function address(index: number): string {
  return `10.99.0.${index + 1}`;
}

function ip(words: readonly string[]): void {
  command('ip', words);
}

function command(program: string, words: readonly string[], input = ''): void {
  const result = spawnSync(program, words, { input, encoding: 'utf8', timeout: COMMAND_TIMEOUT_MS });
  if (result.status !== 0) {
    throw new Error(`${program} ${words.join(' ')} ended with ${result.status}: ${result.stderr}`);
  }
}
