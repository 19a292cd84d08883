/**
 * Assertions for programmer errors. They stay on in production: a broken invariant stops the node with a
 * clear message rather than letting it write on.
 */

export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/** Throws when an invariant does not hold. `message` says what should have been true. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(`invariant broken: ${message}`);
}

/** The value, or an assertion error: for what cannot be missing unless the program is wrong. */
export function defined<T>(value: T | undefined | null, message: string): T {
  if (value === undefined || value === null) throw new AssertionError(`invariant broken: ${message}`);
  return value;
}

/** Ends a `switch` over a union: the compiler refuses it while a case is missing. */
export function unreachable(value: never): never {
  throw new AssertionError(`invariant broken: unexpected value ${JSON.stringify(value)}`);
}
