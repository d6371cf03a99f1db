import type { Client } from "pg";
import { weightbookTables } from "./schema.ts";

/** Rows of each table and a sum over their versions: equal in two regions if, and practically only if, they hold the same. */
const fingerprintSql = weightbookTables
  .map(
    ({ name }) =>
      `SELECT '${name}' AS name, count(*)::int AS rows, coalesce(sum(cg_version::numeric), 0)::text AS versions FROM public.${name}`,
  )
  .join(" UNION ALL ");

export interface Fingerprint {
  readonly rows: number;
  readonly text: string;
}

export const fingerprint = async (client: Client): Promise<Fingerprint> => {
  const { rows } = await client.query<{ name: string; rows: number; versions: string }>(fingerprintSql);
  return { rows: rows.reduce((sum, row) => sum + row.rows, 0), text: JSON.stringify(rows) };
};

export interface WaitOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Between two looks. */
  readonly everyMs: number;
}

/** Looks until `check` gives true. @returns whether it came in time. Rejects when the signal is aborted. */
export const waitFor = async (check: () => Promise<boolean>, options: WaitOptions): Promise<boolean> => {
  const deadline = performance.now() + options.timeoutMs;
  for (;;) {
    options.signal.throwIfAborted();
    if (await check()) {
      return true;
    }
    if (performance.now() > deadline) {
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, options.everyMs));
  }
};

/** Until all the regions hold the same rows in the same versions. @returns the rows each holds; null: not in time */
export const waitUntilEqual = async (
  clients: readonly Client[],
  options: WaitOptions,
): Promise<number | null> => {
  let rows = 0;
  const equal = await waitFor(async () => {
    const prints = await Promise.all(clients.map(fingerprint));
    rows = prints[0]?.rows ?? 0;
    return prints.every((print) => print.text === prints[0]?.text);
  }, options);
  return equal ? rows : null;
};
