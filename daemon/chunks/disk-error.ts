/** What a program sees when the disk refuses: one table from the disk's error codes to ours. */

import { FsError, systemErrorCode } from '../protocol/errors.ts';

/** An FsError for a code of the disk; whatever is not about space or a read-only disk is EIO. */
export function diskFailure(code: string, what: string): FsError {
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new FsError('ENOSPC', what);
    case 'EROFS':
      return new FsError('EROFS', what);
    default:
      return new FsError('EIO', `${what}: ${code}`);
  }
}

/** Turns a caught error into an FsError when it came from the disk; anything else is a defect and stays. */
export function asDiskFailure(error: unknown, what: string): unknown {
  if (error instanceof FsError) return error;
  const code = systemErrorCode(error);
  return code !== undefined && /^E[A-Z0-9]+$/.test(code) ? diskFailure(code, what) : error;
}
