/**
 * What the work comes to, unless the signal is aborted first. For a signal that outlives many works: nothing of them stays
 * there, as it would at a promise that Promise.race was given each time.
 * @throws what the work throws, or the signal's reason
 */
export const unless = async <T>(signal: AbortSignal, work: Promise<T>): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await Promise.race([promise, work]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
};
