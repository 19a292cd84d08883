/**
 * The two kinds of operating error.
 *
 * `FsError` is what a program sees through the mount: a POSIX errno and nothing else.
 * `WarrenError` is what a person sees: a stable code, a sentence that says what happened and where, and a
 * hint that says what to do next. Programmer errors are neither: they are assertions (runtime/assert.ts).
 */

/** Linux errno numbers (asm-generic), the ones Warren answers. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ESTALE: 116,
  ETIMEDOUT: 110,
} as const;

export type ErrnoName = keyof typeof ERRNO;

/**
 * An error with a POSIX errno. Made on hot paths (a failed lookup, EEXIST), so it takes no stack trace: the
 * errno says it all and a trace costs ten times the rest of the request.
 */
export class FsError extends Error {
  override readonly name = 'FsError';
  readonly errno: number;
  readonly code: ErrnoName;

  constructor(code: ErrnoName, detail?: string) {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(detail === undefined ? code : `${code}: ${detail}`);
    Error.stackTraceLimit = limit;
    this.code = code;
    this.errno = ERRNO[code];
  }
}

/** An error for a person. `code` is stable and in SCREAMING_SNAKE; `message` is a sentence; `hint` the next step. */
export class WarrenError extends Error {
  override readonly name = 'WarrenError';
  readonly code: string;
  readonly hint: string;

  constructor(options: { code: string; message: string; hint: string; cause?: unknown }) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = options.code;
    this.hint = options.hint;
  }
}

/** The `code` of a Node.js system error (`ENOENT`, …), or undefined for anything else. */
export function systemErrorCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}

/** What a person should read of any error: `message`, then the hint on a line of its own. */
export function describeError(error: unknown): string {
  if (error instanceof WarrenError) return `${error.message}\n  what to do: ${error.hint}`;
  if (error instanceof Error) return error.message;
  return String(error);
}
