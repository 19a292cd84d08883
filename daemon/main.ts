/**
 * warrend: reads its arguments, starts a node, and ends it when asked. Exit codes: 0 ended as asked, 1 failed,
 * 2 wrong arguments.
 *
 * SIGTERM and SIGINT drain and unmount; a second one ends at once (what was acknowledged is on the disk).
 * A broken invariant is logged and ends the process: it must not write on.
 */

import { parseArgs } from 'node:util';
import { fsckDirectory } from './fsck/fsck.ts';
import { joinNode } from './join-node.ts';
import { type RunningNode, startNode } from './node.ts';
import { DAEMON_HELP, type DaemonOptions, type LogOverrides, parseDaemonOptions } from './options.ts';
import { type Config, loadConfig } from './protocol/config.ts';
import { describeError, WarrenError } from './protocol/errors.ts';
import { fsckLines } from './protocol/fsck-report.ts';
import { prepareHere } from './protocol/initialise.ts';
import { EXIT, RELEASE } from './protocol/release.ts';
import { systemClock } from './runtime/clock.ts';
import { type Log, openLog } from './runtime/log.ts';

/** A drain that takes longer than this is reported; it goes on. */
const STOP_REPORT_MS = 10_000;

async function main(): Promise<number> {
  const options = parseDaemonOptions(process.argv.slice(2));
  switch (options.kind) {
    case 'help':
      process.stdout.write(DAEMON_HELP);
      return EXIT.ok;
    case 'version':
      process.stdout.write(`warrend ${RELEASE}\n`);
      return EXIT.ok;
    case 'usage-error':
      process.stderr.write(`warrend: ${options.message}\n  what to do: ${options.hint}\n`);
      return EXIT.usage;
    case 'fsck':
      return fsck(options);
    case 'join':
      return join(options);
    case 'run':
      return run(loadConfig(options.configFile), { configFile: options.configFile, log: options.log });
    case 'here': {
      const { config, configFile } = prepareHere(options.directory);
      return run(config, { configFile, log: options.log, here: true });
    }
  }
}

async function run(
  config: Config,
  options: { configFile: string; log: LogOverrides; here?: boolean },
): Promise<number> {
  const log = openLog({
    format: options.log.format ?? config.log.format,
    level: options.log.level ?? (options.here === true ? 'warn' : config.log.level),
  });
  const { promise: asked, resolve: ask } = Promise.withResolvers<string>();
  const told = new AbortController();
  stopOnDefect(log);
  let stopping = false;
  // Before the start: a daemon that is told to stop while it starts finishes that and ends in order.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (stopping) process.exit(EXIT.failed);
      stopping = true;
      told.abort(new Error(`told to end by ${signal} before it had started`));
      ask(signal);
    });
  }
  const node = await startNode({
    config,
    configFile: options.configFile,
    log,
    stopped: told.signal,
    onShutdown: () => ask('the control channel asked'),
  });
  if (options.here === true) announce(node, config);
  else log.info('ready', { mount: node.mountPath, socket: node.socketPath });
  const reason = await asked;
  stopping = true;
  log.info('stopping', { reason });
  const slow = setTimeout(
    () => log.warn('still draining; a second signal ends at once and loses nothing acknowledged'),
    STOP_REPORT_MS,
  );
  await node.stop();
  clearTimeout(slow);
  log.info('stopped');
  return EXIT.ok;
}

function announce(node: RunningNode, config: Config): void {
  process.stdout.write(
    `Warren is mounted on ${node.mountPath}\n` +
      `Its data are in ${config.node.dataDirectory}; \`npx warren status\` says how it is.\n` +
      'Press Ctrl+C to stop it: it drains and unmounts.\n',
  );
}

async function fsck(options: Extract<DaemonOptions, { kind: 'fsck' }>): Promise<number> {
  const directory =
    options.source.kind === 'directory'
      ? options.source.path
      : loadConfig(options.source.file).node.dataDirectory;
  const log = openLog({ format: 'text', level: 'warn' });
  const result = await fsckDirectory(directory, {
    data: options.data,
    repair: options.repair,
    log,
    clock: systemClock(),
  });
  const text = options.json ? JSON.stringify(result) : fsckLines(result).join('\n');
  process.stdout.write(`${text}\n`);
  const whole = result.findings.every((finding) => finding.state === 'repaired');
  return whole ? EXIT.ok : EXIT.failed;
}

async function join({ configFile, json }: Extract<DaemonOptions, { kind: 'join' }>): Promise<number> {
  const result = await joinNode(loadConfig(configFile), process.env['WARREN_TOKEN'] ?? '');
  process.stdout.write(
    json
      ? `${JSON.stringify(result)}\n`
      : `Joined ${result.clusterName} as ${result.node}, one of ${result.members} nodes.\n`,
  );
  return EXIT.ok;
}

function stopOnDefect(log: Log): void {
  const end = (error: unknown) => {
    log.error(`warrend ends because of a defect: ${describeError(error)}`, {
      stack: error instanceof Error ? error.stack : undefined,
      hint: 'what was acknowledged is on the disk; restart it, and report this line',
    });
    process.exit(EXIT.failed);
  };
  process.on('uncaughtException', end);
  process.on('unhandledRejection', end);
}

function wantsJson(): boolean {
  const { values } = parseArgs({
    args: process.argv.slice(2),
    options: { json: { type: 'boolean' } },
    strict: false,
    allowPositionals: true,
  });
  return values['json'] === true;
}

try {
  process.exitCode = await main();
  // Worker threads and timers that are still there must not keep a finished daemon alive.
  process.exit();
} catch (error) {
  if (!(error instanceof WarrenError)) {
    process.stderr.write(
      `warrend: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
  } else if (wantsJson()) {
    const { code, message, hint } = error;
    process.stdout.write(`${JSON.stringify({ error: { code, message, hint } })}\n`);
  } else {
    process.stderr.write(`warrend: ${describeError(error)}\n`);
  }
  process.exit(EXIT.failed);
}
