/** The launchers: find the pinned Node.js through symbolic links, and say what is missing. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

for (const [name, room] of [
  ['warren', 'console'],
  ['warrend', 'daemon'],
] as const) {
  test(`${name} starts the built program with the pinned Node.js, or says which command is missing`, () => {
    const root = mkdtempSync(join(tmpdir(), 'warren launcher-'));
    try {
      const launcher = join(root, room, name);
      const link = join(root, 'bin');
      const run = (path: string) =>
        spawnSync(path, ['a b', '--c'], { encoding: 'utf8', cwd: '/', timeout: 20_000 });
      mkdirSync(dirname(launcher));
      copyFileSync(fileURLToPath(new URL(`../../${room}/${name}`, import.meta.url)), launcher);
      symlinkSync(join(room, name), link);

      const bare = run(link);
      assert.equal(bare.status, 1);
      assert.match(bare.stderr, /what to do: cd .* && npm install/);

      mkdirSync(join(root, 'node_modules/node/bin'), { recursive: true });
      symlinkSync(process.execPath, join(root, 'node_modules/node/bin/node'));
      const unbuilt = run(link);
      assert.equal(unbuilt.status, 1);
      assert.match(unbuilt.stderr, /what to do: cd .* && npm run build/);

      mkdirSync(join(root, 'dist', room), { recursive: true });
      writeFileSync(
        join(root, 'dist', room, 'main.js'),
        'console.log(JSON.stringify(process.argv.slice(2)), process.execPath); process.exitCode = 3;',
      );
      for (const path of [launcher, link]) {
        const started = run(path);
        assert.equal(started.status, 3, started.stderr);
        assert.ok(started.stdout.startsWith('["a b","--c"]'), started.stdout);
        assert.ok(started.stdout.includes(process.execPath));
      }
    } finally {
      rmSync(root, { recursive: true });
    }
  });
}
