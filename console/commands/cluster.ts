/** `warren servers`, `token`, `promote`, `role`, `node` and `replication`: ask the running daemon about its cluster. */

import type { Command } from 'commander';
import { ROLES, type Role } from '../../daemon/protocol/cluster.ts';
import type { ControlMethod, ControlParams, ControlResult } from '../../daemon/protocol/control-api.ts';
import { WarrenError } from '../../daemon/protocol/errors.ts';
import { EXIT } from '../../daemon/protocol/release.ts';
import { parseDurationMs } from '../../daemon/protocol/units.ts';
import { replicationLines, serverLines } from '../cluster-text.ts';
import type { Act, CommandContext } from '../command-context.ts';
import { withControl } from '../control-client.ts';
import { locateSocket } from '../locate.ts';

/** An orderly hand-over waits until the other node has everything. */
const HANDOVER_TIMEOUT_MS = 60_000;

export function addClusterCommands(program: Command, act: Act): void {
  const servers = act(async (context: CommandContext) => {
    const result = await ask(context, 'servers', {});
    context.output.text(...serverLines(result));
    context.output.data(result);
    return result.leader === null ? EXIT.degraded : EXIT.ok;
  });
  program
    .command('servers')
    .description('show every node: role, state, address, lag, space, last seen')
    .addHelpText('after', '\nEnds with 3 while no node leads.\n\nExample: warren servers')
    .action(servers);
  program
    .command('list')
    .description('show a list')
    .command('servers')
    .description('the same as `warren servers`')
    .action(servers);
  program
    .command('token')
    .description('print a token with which one new node can join this cluster')
    .option('--ttl <duration>', 'how long it is valid, as "30m" (default: 24h)')
    .addHelpText('after', '\nExample: warren token --ttl 30m')
    .action(
      act(async (context, { ttl }: { ttl?: string }) => {
        const result = await ask(context, 'token', ttl === undefined ? {} : { ttlMs: durationOf(ttl) });
        context.output.text(result.token);
        context.output.message(
          `Valid once, until ${result.expires}. On the new machine: warren join TOKEN -d DIR`,
        );
        context.output.data(result);
        return EXIT.ok;
      }),
    );
  program
    .command('promote')
    .description('hand the leadership to a node, in order; it keeps it while it can lead')
    .argument('<node>', 'id of the node')
    .addHelpText('after', '\nExample: warren promote beta')
    .action(act((context, node: string) => change(context, 'promote', { node })));
  program
    .command('role')
    .description('change what a node is: auto, leader, follower or client')
    .argument('<node>', 'id of the node')
    .argument('<role>', ROLES.join(', '))
    .addHelpText('after', '\nExample: warren role gamma follower')
    .action(
      act((context, node: string, role: string) => change(context, 'role', { node, role: roleOf(role) })),
    );
  const nodes = program.command('node').description('take a node out of the cluster');
  nodes
    .command('remove')
    .description('move its chunks away, then remove it; refused while that would lose the last copy')
    .argument('<node>', 'id of the node')
    .addHelpText('after', '\nExample: warren node remove gamma')
    .action(act((context, node: string) => change(context, 'node-remove', { node })));
  nodes
    .command('forget')
    .description('remove a node that is gone for good')
    .argument('<node>', 'id of the node')
    .addHelpText('after', '\nExample: warren node forget gamma')
    .action(act((context, node: string) => change(context, 'node-forget', { node })));
  addReplicationCommand(program, act);
}

function addReplicationCommand(program: Command, act: Act): void {
  const replication = program
    .command('replication')
    .description('show how many copies there are, what is missing and how long repair takes')
    .addHelpText('after', '\nEnds with 3 while copies are missing.\n\nExample: warren replication')
    .action(
      act(async (context) => {
        const result = await ask(context, 'replication', {});
        context.output.text(...replicationLines(result));
        context.output.data(result);
        return result.lackingChunks > 0 ? EXIT.degraded : EXIT.ok;
      }),
    );
  replication
    .command('set')
    .description('change the number of copies or the mode of the whole cluster; the copies follow')
    .option('--factor <number>', 'copies of each chunk')
    .option('--mode <mode>', 'replicated or shared')
    .addHelpText('after', '\nExample: warren replication set --factor 2')
    .action(
      act(async (context, { factor, mode }: { factor?: string; mode?: string }) => {
        const result = await ask(context, 'replication-set', {
          ...(factor === undefined ? {} : { factor: wholeNumber(factor) }),
          ...(mode === undefined ? {} : { mode: modeOf(mode) }),
        });
        context.output.text(`Mode ${result.mode}, ${result.factor} copies of each chunk.`);
        context.output.data(result);
        return EXIT.ok;
      }),
    );
  for (const paused of [true, false]) {
    replication
      .command(paused ? 'pause' : 'resume')
      .description(paused ? "stop this node's repair for now" : "let this node's repair go on")
      .addHelpText('after', `\nExample: warren replication ${paused ? 'pause' : 'resume'}`)
      .action(
        act(async (context) => {
          const result = await ask(context, 'repair-pause', { paused });
          context.output.text(result.paused ? 'Repair is paused.' : 'Repair goes on.');
          context.output.data(result);
          return EXIT.ok;
        }),
      );
  }
}

function ask<M extends ControlMethod>(
  { options }: CommandContext,
  method: M,
  params: ControlParams<M>,
): Promise<ControlResult<M>> {
  return withControl(locateSocket(options), (client) =>
    client.call(method, params, { timeoutMs: HANDOVER_TIMEOUT_MS }),
  );
}

async function change<M extends 'promote' | 'role' | 'node-remove' | 'node-forget'>(
  context: CommandContext,
  method: M,
  params: ControlParams<M>,
): Promise<0> {
  const result = await ask(context, method, params);
  context.output.text(`${result.node}: ${result.result}`);
  context.output.data(result);
  return EXIT.ok;
}

function durationOf(text: string): number {
  const ms = parseDurationMs(text);
  if (ms !== undefined) return ms;
  throw usage(`"${text}" is no duration.`, 'write it as "30m" or "24h"');
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value)) return value;
  throw usage(`"${text}" is no whole number.`, 'write it as 3');
}

function modeOf(text: string): 'shared' | 'replicated' {
  if (text === 'shared' || text === 'replicated') return text;
  throw usage(`There is no mode "${text}".`, 'the modes are replicated and shared');
}

function roleOf(text: string): Role {
  const role = ROLES.find((name) => name === text);
  if (role !== undefined) return role;
  throw usage(`There is no role "${text}".`, `the roles are ${ROLES.join(', ')}`);
}

function usage(message: string, hint: string): WarrenError {
  return new WarrenError({ code: 'USAGE', message, hint });
}
