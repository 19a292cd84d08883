/**
 * A cluster of real daemons on this machine, each with its folder, mount, control socket and port.
 *
 * Everything goes away at the end, also when a test fails or a daemon hangs: every wait has a limit, SIGKILL follows
 * SIGTERM, mounts that are left are taken away lazily.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { withControl } from '../../console/control-client.ts';
import type { ControlMethod, ControlParams, ControlResult } from '../../daemon/protocol/control-api.ts';
import type { Servers } from '../../daemon/protocol/control-cluster.ts';
import { requireFuse, requireRoot } from './requirements.ts';
import { DAEMON_MAIN, isMounted, NODE, REPOSITORY } from './target.ts';

const CONSOLE_MAIN = join(REPOSITORY, 'dist/console/main.js');
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 40_000;
const COMMAND_TIMEOUT_MS = 60_000;
const CALL_TIMEOUT_MS = 20_000;
const POLL_MS = 20;
const NAMES = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta'];

/** Where a node runs: on loopback, or in a network namespace of its own. */
export interface Place {
  /** Words before the command, as ["ip", "netns", "exec", "NAME"]. */
  readonly prefix: readonly string[];
  /** `host:port`. */
  readonly address: string;
}

export interface ClusterOptions {
  readonly nodes: number;
  /** Default: loopback with a free port each. */
  readonly places?: readonly Place[];
  /** By index; default auto. */
  readonly roles?: readonly string[];
  /** Words for `warren init` and `warren join` of every node. */
  readonly words?: readonly string[];
  /** Folder of the cluster; default: a temporary one that goes away at the end. */
  readonly directory?: string;
  readonly logLevel?: string;
  /** Lines of the daemons as they come. */
  readonly onLog?: (node: string, text: string) => void;
}

export interface ClusterNode {
  readonly id: string;
  readonly directory: string;
  readonly dataDirectory: string;
  readonly configFile: string;
  readonly mount: string;
  readonly socket: string;
  readonly place: Place;
  readonly pid: number;
  log(): string;
  /** Answers when the daemon has said that it is ready. */
  start(): Promise<void>;
  stop(): Promise<void>;
  kill(): Promise<void>;
  pause(): void;
  resume(): void;
  /** Takes a stale mount away. */
  detach(): void;
  running(): boolean;
  call<M extends ControlMethod>(method: M, params: ControlParams<M>): Promise<ControlResult<M>>;
  /** The command line against this node; throws when it does not end with `code` (default 0). */
  warren(words: readonly string[], code?: number): string;
}

export interface Cluster extends AsyncDisposable {
  readonly directory: string;
  readonly nodes: readonly ClusterNode[];
  node(index: number): ClusterNode;
  /** The node that leads, as the running nodes agree; waits for it. */
  leader(timeoutMs?: number): Promise<ClusterNode>;
  /** Waits until the running nodes agree on a leader and all of them are in sync. */
  settled(timeoutMs?: number): Promise<Servers>;
  /** Joins one more node and starts it. */
  add(options?: { role?: string; place?: Place }): Promise<ClusterNode>;
}

/** Makes and starts a cluster; answers when every mount answers and all nodes are in sync. */
export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  requireRoot();
  requireFuse();
  const temporary =
    options.directory === undefined ? mkdtempSync(join(tmpdir(), 'warren-cluster-')) : undefined;
  const directory = options.directory ?? temporary ?? '';
  if (temporary !== undefined) chmodSync(temporary, 0o755);
  const nodes: ClusterNode[] = [];

  async function add(choices: { role?: string; place?: Place } = {}): Promise<ClusterNode> {
    const index = nodes.length;
    const place = choices.place ??
      options.places?.[index] ?? { prefix: [], address: `127.0.0.1:${await freePort()}` };
    const role = choices.role ?? options.roles?.[index] ?? 'auto';
    const node = clusterNode({ index, place, directory, options });
    const words = [
      ...['-d', node.dataDirectory, '--id', node.id, '--mount', node.mount, '--bind', place.address],
      ...['--role', role, '--discovery', 'none', '--socket', node.socket, ...(options.words ?? [])],
    ];
    mkdirSync(node.directory, { recursive: true, mode: 0o755 });
    mkdirSync(node.mount, { recursive: true, mode: 0o755 });
    const first = nodes[0];
    if (first === undefined) {
      node.warren(['init', ...words]);
    } else {
      const token = first.warren(['token']).trim();
      node.warren(['join', token, ...words]);
    }
    nodes.push(node);
    await node.start();
    return node;
  }

  const running = () => nodes.filter((node) => node.running());

  const cluster: Cluster = {
    directory,
    nodes,
    node(index) {
      const found = nodes[index];
      if (found === undefined) throw new Error(`the cluster has ${nodes.length} nodes`);
      return found;
    },
    async leader(timeoutMs = START_TIMEOUT_MS) {
      let said: (string | null)[] = [];
      await until(
        timeoutMs,
        () => `no agreement on a leader: ${said.join(', ')}`,
        async () => {
          const views = await Promise.all(running().map((node) => node.call('servers', {})));
          said = views.map((view) => view.leader);
          return said.every((id) => id !== null && id === said[0]);
        },
      );
      const found = nodes.find((node) => node.id === said[0]);
      if (found === undefined) throw new Error(`nobody is called ${said[0]}`);
      return found;
    },
    async settled(timeoutMs = START_TIMEOUT_MS) {
      let last: Servers | undefined;
      const ids = () => new Set(running().map((node) => node.id));
      await until(
        timeoutMs,
        () => `not all in sync: ${JSON.stringify(last, null, 1)}\n${logs(nodes)}`,
        async () => {
          const leader = await this.leader(timeoutMs);
          last = await leader.call('servers', {});
          return last.servers
            .filter(({ id }) => ids().has(id))
            .every(
              ({ state, lag }) =>
                state === 'client' || state === 'leader' || (state === 'in-sync' && lag === 0),
            );
        },
      );
      if (last === undefined) throw new Error('nobody was asked');
      return last;
    },
    add,
    async [Symbol.asyncDispose]() {
      await Promise.all(
        nodes.map(async (node) => {
          if (node.running()) {
            node.resume();
            await node.stop().catch(() => node.kill());
          }
          node.detach();
        }),
      );
      if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true });
    },
  };
  try {
    for (let index = 0; index < options.nodes; index += 1) await add();
    await cluster.settled();
  } catch (error) {
    const text = logs(nodes);
    await cluster[Symbol.asyncDispose]();
    throw new Error(`the cluster did not start: ${String(error)}\n${text}`, { cause: error });
  }
  return cluster;
}

function clusterNode(setup: {
  index: number;
  place: Place;
  directory: string;
  options: ClusterOptions;
}): ClusterNode {
  const { index, place, options } = setup;
  const id = NAMES[index] ?? `node-${index}`;
  const directory = join(setup.directory, id);
  const dataDirectory = join(directory, 'data');
  const configFile = join(dataDirectory, 'config.toml');
  const mount = join(directory, 'mnt');
  const socket = join(directory, 'control.sock');
  let child: ChildProcess | undefined;
  let log = '';
  const isRunning = () => child !== undefined && child.exitCode === null && child.signalCode === null;

  async function end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (child === undefined || !isRunning()) return;
    child.kill(signal);
    await once(child, 'exit', { signal: AbortSignal.timeout(STOP_TIMEOUT_MS) });
  }

  return {
    id,
    directory,
    dataDirectory,
    configFile,
    mount,
    socket,
    place,
    get pid() {
      return child?.pid ?? -1;
    },
    log: () => log,
    running: isRunning,
    async start() {
      const [program, words] = commandOf([...place.prefix, NODE, DAEMON_MAIN, '--config', configFile]);
      const level = options.logLevel ?? 'info';
      const started = spawn(program, [...words, '--log-level', level], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      child = started;
      let ready = false;
      let recent = '';
      started.stderr.on('data', (chunk: Buffer) => {
        const text = chunk.toString();
        log += text;
        recent += text;
        ready ||= recent.includes(' ready');
        options.onLog?.(id, text);
      });
      await until(
        START_TIMEOUT_MS,
        () => `${id} is not ready. Its log:\n${recent}`,
        () => {
          if (!isRunning()) throw new Error(`${id} ended before it was ready. Its log:\n${recent}`);
          return Promise.resolve(ready);
        },
      );
    },
    async stop() {
      await end('SIGTERM');
      if (child !== undefined && child.exitCode !== 0) {
        throw new Error(`${id} ended with ${child.exitCode ?? child.signalCode}. Its log:\n${log}`);
      }
    },
    kill: () => end('SIGKILL'),
    pause: () => void child?.kill('SIGSTOP'),
    resume: () => void child?.kill('SIGCONT'),
    detach() {
      while (isMounted(mount) && spawnSync('umount', ['-l', mount]).status === 0);
    },
    call: (method, params) =>
      withControl(socket, (client) => client.call(method, params, { timeoutMs: CALL_TIMEOUT_MS })),
    warren(words, code = 0) {
      const [program, args] = commandOf([...place.prefix, NODE, CONSOLE_MAIN, ...words]);
      const result = spawnSync(program, args, {
        encoding: 'utf8',
        timeout: COMMAND_TIMEOUT_MS,
        env: { ...process.env, WARREN_SOCKET: socket },
      });
      if (result.status !== code) {
        throw new Error(
          `warren ${words.join(' ')} ended with ${result.status}:\n${result.stdout}\n${result.stderr}`,
        );
      }
      return result.stdout;
    },
  };
}

function commandOf(words: readonly string[]): [program: string, args: string[]] {
  return [words[0] ?? NODE, words.slice(1)];
}

/** Polls; throws with `what` after the time. */
export async function until(
  timeoutMs: number,
  what: () => string,
  condition: () => Promise<boolean>,
): Promise<void> {
  const limit = performance.now() + timeoutMs;
  for (;;) {
    let failure = '';
    try {
      if (await condition()) return;
    } catch (error) {
      failure = ` (${String(error)})`;
      if (String(error).includes('ended before')) throw error;
    }
    if (performance.now() > limit) throw new Error(`${what()}${failure}`);
    await delay(POLL_MS);
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

function logs(nodes: readonly ClusterNode[]): string {
  return nodes.map((node) => `--- ${node.id}\n${tail(node.log())}`).join('\n');
}

function tail(text: string): string {
  return text.split('\n').slice(-60).join('\n');
}

/** Every path below a mount with what it is and holds, sorted: equal on every node. */
export function treeOf(root: string): string {
  const result = spawnSync(
    'sh',
    [
      '-c',
      'cd "$1" && find . -printf "%P %y %m %n %U %G %i %l\\n" | sort && find . -type f -print0 | sort -z | xargs -0 -r sha256sum',
      'sh',
      root,
    ],
    { encoding: 'utf8', timeout: COMMAND_TIMEOUT_MS, maxBuffer: 256 * 1024 * 1024 },
  );
  if (result.status !== 0) throw new Error(`the tree below ${root} cannot be read: ${result.stderr}`);
  return result.stdout;
}

/** Resident memory of a process, bytes. */
export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(match?.[1] ?? 0) * 1024;
}
