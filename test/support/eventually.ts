/**
 * Awaits a condition: calls `check` until it neither throws nor returns false.
 * @throws after `timeoutMs` (default 30 s) the last error of `check`, so an `expect` in it tells what was missing
 */
export const eventually = async <T>(
  check: () => T | Promise<T>,
  options: { readonly timeoutMs?: number; readonly everyMs?: number; readonly what?: string } = {},
): Promise<T> => {
  const timeoutMs = options.timeoutMs ?? 30_000;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    let failure: unknown;
    try {
      const result = await check();
      if (result !== false) return result;
      failure = new Error(`${options.what ?? "The condition"} did not come true in ${timeoutMs} ms`);
    } catch (error) {
      failure = error;
    }
    if (performance.now() > deadline) throw failure;
    await new Promise((resolve) => setTimeout(resolve, options.everyMs ?? 20));
  }
};
