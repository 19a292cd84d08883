/** A benchmark that checks goals, target after target, in one session: the common frame of dedup, million and stall. */

import { type CommonOptions, diskOf } from './options.ts';
import { type Check, finishChecks } from './report.ts';
import { type Session, withSession } from './session.ts';
import { openTargets, type Target } from './targets.ts';

/** Answers the exit code: 1 when a goal of Warren does not hold. */
export async function runChecks<Options extends CommonOptions>(
  name: string,
  options: Options,
  measure: (target: Target, session: Session, options: Options) => Promise<Check[]>,
): Promise<number> {
  return withSession(diskOf(options), async (session) => {
    const checks: Check[] = [];
    for (const target of await openTargets(options.targets, session)) {
      checks.push(...(await measure(target, session, options)));
      await target.stop();
    }
    return finishChecks(name, checks, options.json);
  });
}
