/** Discovery over real multicast, between network namespaces on a bridge. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openDiscovery } from '../../daemon/cluster/discovery.ts';
import type { NodeId } from '../../daemon/protocol/ids.ts';
import { systemClock } from '../../daemon/runtime/clock.ts';
import { collectingLog, until } from '../peers/cluster.ts';
import { requirePackage, requireRoot, run } from '../support/requirements.ts';

const PROGRAM = join(import.meta.dirname, 'discovery-process.ts');

/** A bridge in a namespace of its own with one namespace for each host; gone with the test. */
function network(
  context: TestContext,
  hosts: number,
): { ip: string; namespaces: string[]; add: (host: number) => void } {
  requireRoot();
  const ip = requirePackage('ip', 'iproute2');
  const tag = `wd${process.pid}`;
  const hub = `${tag}-hub`;
  const namespaces = Array.from({ length: hosts }, (_, index) => `${tag}-${index}`);
  for (const name of [hub, ...namespaces]) {
    run(ip, ['netns', 'add', name]);
    context.after(() => run(ip, ['netns', 'delete', name]));
  }
  const inside = (name: string, words: string): string => run(ip, ['-n', name, ...words.split(' ')]);
  inside(hub, 'link add hub0 type bridge mcast_snooping 0');
  inside(hub, 'link set hub0 up');
  const add = (host: number): void => {
    const name = namespaces[host]!;
    inside(hub, `link add v${host} type veth peer name eth0 netns ${name}`);
    inside(hub, `link set v${host} master hub0 up`);
    inside(name, 'link set lo up');
    inside(name, `address add 10.77.0.${host + 1}/24 dev eth0`);
    inside(name, 'link set eth0 up');
  };
  return { ip, namespaces, add };
}

test('nodes of one cluster find each other, also on an interface that comes later', {
  timeout: 90_000,
}, async (context) => {
  const { ip, namespaces, add } = network(context, 4);
  const heard = namespaces.map(() => new Set<string>());
  const start = (host: number, id: string, cluster: string): ChildProcess => {
    const words = ['netns', 'exec', namespaces[host]!, process.execPath, PROGRAM, id, cluster, '9500'];
    const child = spawn(ip, words, { stdio: ['ignore', 'pipe', 'inherit'] });
    context.after(() => child.kill('SIGKILL'));
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trim().split('\n')) heard[host]!.add(line);
    });
    return child;
  };
  for (const host of [0, 1, 3]) add(host);
  start(0, 'alpha', 'one');
  start(1, 'beta', 'one');
  // No interface yet.
  start(2, 'gamma', 'one');
  start(3, 'delta', 'two');
  await until(() => heard[0]!.size > 0 && heard[1]!.size > 0, 'the first two hear each other', 40_000);
  add(2);
  await until(() => heard.slice(0, 3).every((lines) => lines.size === 2), 'the third is heard', 40_000);
  assert.deepEqual([...heard[0]!].sort(), ['beta 10.77.0.2:9500', 'gamma 10.77.0.3:9500']);
  assert.deepEqual([...heard[2]!].sort(), ['alpha 10.77.0.1:9500', 'beta 10.77.0.2:9500']);
  assert.deepEqual([...heard[3]!], []);
});

test('discovery can be off, and a wrong setting is named', async () => {
  const options = {
    clusterId: 'one',
    nodeId: 'alpha' as NodeId,
    port: 9500,
    onHint: () => {},
    clock: systemClock(),
    log: collectingLog(),
  };
  await (await openDiscovery({ ...options, discovery: 'none' })).close();
  await assert.rejects(openDiscovery({ ...options, discovery: 'tcp://x' }), { code: 'DISCOVERY_INVALID' });
  await assert.rejects(openDiscovery({ ...options, discovery: 'udp://239.255.0.1' }), {
    code: 'DISCOVERY_INVALID',
  });
});
