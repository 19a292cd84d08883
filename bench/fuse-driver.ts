/**
 * What the kernel FUSE driver alone can do: a mount of a file system in memory, measured from a process beside
 * it. `node bench/fuse-driver.ts` prints one line a figure. The numbers move by up to 2x between runs; compare
 * only ratios of one run.
 *
 * With `--serve PATH` it is the daemon's side, which the measuring side starts (with `--cpu-prof` when given
 * `--profile DIR`); with `--measure PATH` it is the measuring side alone.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { mountKernel } from '../daemon/fuse/kernel/mount.ts';
import type { MountId } from '../daemon/protocol/ids.ts';
import { openLog } from '../daemon/runtime/log.ts';
import { createMemoryFileSystem } from '../test/fuse/memory-filesystem.ts';

const FILE_BYTES = 512 * 1024 * 1024;
const { values } = parseArgs({
  options: { serve: { type: 'string' }, measure: { type: 'string' }, profile: { type: 'string' } },
});

if (values.serve !== undefined) await serve(values.serve);
else if (values.measure !== undefined) measure(values.measure);
else await both(values.profile);

async function both(profile: string | undefined): Promise<void> {
  const path = fs.mkdtempSync(join(tmpdir(), 'warren-bench-'));
  const profiling = profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`];
  const daemon = spawn(process.execPath, [...profiling, import.meta.filename, '--serve', path], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(daemon.stdout, 'data');
  const client = spawn(process.execPath, [import.meta.filename, '--measure', path], { stdio: 'inherit' });
  await once(client, 'exit');
  daemon.stdin.end();
  await once(daemon, 'exit');
  fs.rmdirSync(path);
}

async function serve(path: string): Promise<void> {
  const mount = await mountKernel({
    path,
    mountId: 1 as MountId,
    allowOther: true,
    log: openLog({ format: 'text', level: 'warn' }),
    filesystem: createMemoryFileSystem(),
  });
  process.stdout.write('ready\n');
  await once(process.stdin.resume(), 'end');
  await mount.unmount({ force: true });
}

function measure(path: string): void {
  rate('lookups of unknown names', 40_000, (index) => {
    fs.statSync(join(path, `unknown${index}`), { throwIfNoEntry: false });
  });
  rate('create and close', 10_000, (index) => fs.closeSync(fs.openSync(join(path, `file${index}`), 'w')));
  rate('open and close', 10_000, (index) => fs.closeSync(fs.openSync(join(path, `file${index}`), 'r')));
  rate('unlink', 10_000, (index) => fs.unlinkSync(join(path, `file${index}`)));
  const name = join(path, 'large');
  const block = Buffer.alloc(1024 * 1024, 7);
  // The first pass pays for memory that was never touched, in the kernel and here; the second shows the driver.
  for (const what of ['sequential write, fresh', 'sequential rewrite'])
    throughput(what, () => {
      const file = fs.openSync(name, fs.constants.O_CREAT | fs.constants.O_WRONLY);
      for (let done = 0; done < FILE_BYTES; done += block.length) fs.writeSync(file, block);
      fs.closeSync(file);
    });
  dropCaches();
  throughput('sequential read, uncached', () => readAll(name, block));
  throughput('sequential read, page cache', () => readAll(name, block));
  const file = fs.openSync(name, fs.constants.O_RDONLY | fs.constants.O_DIRECT);
  const page = Buffer.alloc(4096);
  rate('4 KiB reads, uncached', 40_000, (index) => {
    fs.readSync(file, page, 0, 4096, ((index * 7919) % (FILE_BYTES / 4096)) * 4096);
  });
  fs.closeSync(file);
  fs.unlinkSync(name);
}

function readAll(name: string, block: Buffer): void {
  const file = fs.openSync(name, 'r');
  while (fs.readSync(file, block) > 0);
  fs.closeSync(file);
}

function dropCaches(): void {
  fs.writeFileSync('/proc/sys/vm/drop_caches', '1');
}

function rate(what: string, count: number, operation: (index: number) => void): void {
  const begin = performance.now();
  for (let index = 0; index < count; index++) operation(index);
  print(what, `${Math.round((count / (performance.now() - begin)) * 1000)} /s`);
}

function throughput(what: string, operation: () => void): void {
  const begin = performance.now();
  operation();
  print(what, `${(FILE_BYTES / (performance.now() - begin) / 1e6).toFixed(2)} GB/s`);
}

function print(what: string, figure: string): void {
  process.stdout.write(`${what.padEnd(30)} ${figure.padStart(12)}\n`);
}
