/**
 * What a run of the tests prints: a line a file with its time and count, every failure whole, and at the end the
 * runner's own closing lines ("# pass N", ...) on standard output. The names of files with a failure also go to the file
 * named by WARREN_FAILED_FILES, a line each.
 */

import { appendFileSync } from 'node:fs';
import { relative } from 'node:path';
import { inspect } from 'node:util';
import type { TestEvent } from 'node:test/reporters';

export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of events) {
    if (event.type === 'test:fail') {
      const file = event.data.file ?? '';
      const { error } = event.data.details;
      yield `not ok ${relative('.', file)}: ${event.data.name}\n${indent(inspect(error.cause ?? error, { depth: 5 }))}\n`;
    }
    if (event.type === 'test:stderr') yield event.data.message;
    if (event.type === 'test:summary' && event.data.file !== undefined) {
      const { tests, passed, skipped } = event.data.counts;
      const seconds = (event.data.duration_ms / 1000).toFixed(1).padStart(6);
      const result = event.data.success ? 'ok    ' : 'NOT OK';
      const failedFiles = process.env['WARREN_FAILED_FILES'];
      if (!event.data.success && failedFiles !== undefined) {
        appendFileSync(failedFiles, `${relative('.', event.data.file)}\n`);
      }
      yield `${result} ${seconds} s  ${relative('.', event.data.file)}: ${passed} passed, ${tests - passed - skipped} failed, ${skipped} skipped\n`;
    }
    if (
      event.type === 'test:diagnostic' &&
      event.data.nesting === 0 &&
      /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) /.test(event.data.message)
    ) {
      yield `# ${event.data.message}\n`;
    }
  }
}

function indent(text: string): string {
  return text.replaceAll(/^/gm, '    ');
}
