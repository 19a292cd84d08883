/** The thread of worker-pool.test.ts. */

import { closeSync, openSync } from 'node:fs';
import { serveJobs } from '../../daemon/runtime/worker-pool.ts';

export interface EchoJobs {
  double: { job: { value: number }; result: number };
  open: { job: { path: string }; result: undefined };
  exit: { job: undefined; result: undefined };
}

serveJobs<EchoJobs>({
  double: ({ value }) => value * 2,
  open: ({ path }) => {
    closeSync(openSync(path, 'r'));
    return undefined;
  },
  exit: () => process.exit(3),
});
