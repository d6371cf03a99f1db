/**
 * What `look` finds; `late` gives it where that takes longer than `timeoutMs`. Looks that are asked for at once share one,
 * so that no number of them takes more than one connection.
 */
export const sharedLook = <T>(
  look: () => Promise<T>,
  { timeoutMs, late }: { readonly timeoutMs: number; readonly late: () => T },
): (() => Promise<T>) => {
  let running: Promise<T> | null = null;
  return async () => {
    running ??= look().finally(() => {
      running = null;
    });
    const { promise: over, resolve } = Promise.withResolvers<T>();
    const timer = setTimeout(() => resolve(late()), timeoutMs);
    try {
      return await Promise.race([running, over]);
    } finally {
      clearTimeout(timer);
    }
  };
};
