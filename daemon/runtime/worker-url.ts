/**
 * Where a worker thread's module lies: beside its parent, with the parent's own ending, so that the same code
 * runs from source (`.ts`, Node strips the types) and from the build (`.js`).
 */
export function workerUrl(parentUrl: string, relativeStem: string): URL {
  const ending = parentUrl.endsWith('.ts') ? '.ts' : '.js';
  return new URL(`${relativeStem}${ending}`, parentUrl);
}
