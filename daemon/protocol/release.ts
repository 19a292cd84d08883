/** The release, as in package.json (a test compares them); a constant, because the build moves the files. */
export const RELEASE = '0.1.0';

/** Exit codes of `warren` and `warrend`. */
export const EXIT = { ok: 0, failed: 1, usage: 2, degraded: 3, unreachable: 4 } as const;
