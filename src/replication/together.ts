import { sqlStateOf } from "../postgres/sqlstate.ts";

/** What follows a failed statement in its transaction: it is aborted, or what would have been prepared is not. */
const consequences: ReadonlySet<string | null> = new Set(["25P02", "26000"]);

/**
 * Waits for all of what was asked of one session at once, also where some of it fails: nothing is left that would go on
 * in the next transaction.
 * @throws the error that the others follow from
 */
export const together = async <T extends readonly unknown[]>(
  asked: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<T> => {
  const settled = await Promise.allSettled<unknown>(asked as readonly Promise<unknown>[]);
  const errors = settled.flatMap((one) => (one.status === "rejected" ? [one.reason as unknown] : []));
  if (errors.length > 0) throw errors.find((error) => !consequences.has(sqlStateOf(error))) ?? errors[0];
  return settled.map((one) => (one as PromiseFulfilledResult<unknown>).value) as unknown as T;
};
