import assert from 'node:assert/strict';
import test from 'node:test';
import { openWorkerPool } from '../../daemon/runtime/worker-pool.ts';
import type { EchoJobs } from './echo-worker.ts';

const url = new URL('./echo-worker.ts', import.meta.url);

test('jobs are answered by kind, a failing one keeps its code and harms no other', async (t) => {
  const pool = openWorkerPool<EchoJobs>({ url, threads: 2, name: 'echo' });
  t.after(() => pool.close());
  const doubles = Array.from({ length: 20 }, (_, value) => pool.run('double', { value }));
  const failing = assert.rejects(pool.run('open', { path: '/nonexistent/file' }), { code: 'ENOENT' });
  assert.deepEqual(
    await Promise.all(doubles),
    Array.from({ length: 20 }, (_, value) => value * 2),
  );
  await failing;
  assert.equal(await pool.run('double', { value: 4 }), 8);
});

test('a thread that ends rejects its jobs and those after it', async () => {
  const pool = openWorkerPool<EchoJobs>({ url, threads: 1, name: 'echo' });
  const dying = assert.rejects(pool.run('exit', undefined), /worker thread echo ended/);
  const behind = assert.rejects(pool.run('double', { value: 1 }), /worker thread echo ended/);
  await Promise.all([dying, behind]);
  await assert.rejects(pool.run('double', { value: 1 }), /worker thread echo ended/);
  await pool.close();
});

test('close waits for the jobs in flight', async () => {
  const pool = openWorkerPool<EchoJobs>({ url, threads: 1, name: 'echo' });
  const jobs = [1, 2, 3].map((value) => pool.run('double', { value }));
  await pool.close();
  assert.deepEqual(await Promise.all(jobs), [2, 4, 6]);
});
