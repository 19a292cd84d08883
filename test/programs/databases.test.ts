/**
 * Databases in the mount: they lock, map, fsync and rename like nothing else, and check themselves.
 */

import assert from 'node:assert/strict';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { requirePackage, run } from '../support/requirements.ts';
import { openTarget } from '../support/target.ts';

const target = await openTarget();
const TIMEOUT_MS = 240_000;
const NOBODY = 65534;

for (const mode of ['delete', 'truncate', 'persist', 'wal']) {
  test(`SQLite with journal_mode=${mode} keeps its integrity`, { timeout: TIMEOUT_MS }, () => {
    const sqlite = requirePackage('sqlite3', 'sqlite3');
    const folder = mkdtempSync(join(target.directory, 'sqlite-'));
    const ask = (statement: string): string =>
      run(sqlite, ['-bail', join(folder, 'data.db')], { input: statement }).trim();
    try {
      assert.equal(ask(`PRAGMA journal_mode=${mode};`), mode);
      ask(
        'CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, body BLOB); CREATE INDEX by_name ON item (name);',
      );
      for (let round = 0; round < 20; round += 1) {
        ask(
          `BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
           INSERT INTO item (name, body) SELECT 'n' || i || '-${round}', randomblob(500) FROM n; COMMIT;
           UPDATE item SET name = name || 'x' WHERE id % 7 = ${round % 7}; DELETE FROM item WHERE id % 11 = ${round % 11};
           BEGIN; DELETE FROM item; ROLLBACK;`,
        );
      }
      assert.equal(ask('PRAGMA integrity_check;'), 'ok');
      const count = ask('SELECT count(*) FROM item;');
      ask('VACUUM;');
      assert.equal(ask('PRAGMA integrity_check; SELECT count(*) FROM item;'), `ok\n${count}`);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

test('PostgreSQL makes a cluster, survives pgbench and a crash, and checks itself', {
  timeout: TIMEOUT_MS,
}, () => {
  for (const binary of ['initdb', 'pg_ctl', 'pgbench', 'psql']) requirePackage(binary, 'postgresql');
  const folder = mkdtempSync(join(target.directory, 'postgres-'));
  const sockets = mkdtempSync(join(tmpdir(), 'warren-pg-'));
  for (const place of [folder, sockets]) {
    chownSync(place, NOBODY, NOBODY);
    chmodSync(place, 0o700);
  }
  const data = join(folder, 'data');
  // The server refuses to run as root.
  const as = (binary: string, ...words: string[]): string =>
    run(
      requirePackage('setpriv', 'util-linux'),
      [
        '--reuid',
        String(NOBODY),
        '--regid',
        String(NOBODY),
        '--clear-groups',
        requirePackage(binary, 'postgresql'),
        ...words,
      ],
      {
        cwd: '/',
        env: { PGHOST: sockets, PGUSER: 'warren', PGDATABASE: 'postgres', HOME: sockets },
        timeoutMs: TIMEOUT_MS,
      },
    );
  const start = (): string =>
    as(
      'pg_ctl',
      '-D',
      data,
      '-w',
      '-t',
      '60',
      '-l',
      join(folder, 'log'),
      '-o',
      `-c listen_addresses= -k ${sockets}`,
      'start',
    );
  try {
    mkdirSync(join(folder, 'unused'));
    as('initdb', '-D', data, '-U', 'warren', '--data-checksums', '-A', 'trust', '--no-locale');
    start();
    as('pgbench', '-i', '-q', '-s', '2');
    as('pgbench', '-c', '4', '-j', '2', '-t', '150');
    as('pg_ctl', '-D', data, '-m', 'immediate', '-w', 'stop');
    start();
    as('pgbench', '-c', '2', '-t', '50');
    assert.equal(
      as(
        'psql',
        '-Atc',
        'SELECT sum(abalance) = (SELECT sum(tbalance) FROM pgbench_tellers) FROM pgbench_accounts',
      ).trim(),
      't',
    );
    assert.equal(as('psql', '-Atc', 'SELECT count(*) FROM pgbench_accounts').trim(), '200000');
    as('pg_ctl', '-D', data, '-m', 'fast', '-w', 'stop');
    as('pg_checksums', '-D', data, '--check');
  } finally {
    if (existsSync(join(data, 'postmaster.pid'))) as('pg_ctl', '-D', data, '-m', 'immediate', '-w', 'stop');
    rmSync(folder, { recursive: true, force: true });
    rmSync(sockets, { recursive: true, force: true });
  }
});
