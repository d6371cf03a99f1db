import type { ClientBase } from "pg";
import type { Clock } from "../clock.ts";
import { type Catalog, findTable } from "./catalog.ts";
import type { Key, Operation, OperationResult, RowVersion } from "./operation.ts";
import { heldVersion } from "./run-operations.ts";

/** What a transaction was about to leave at its keys when the connection broke during COMMIT. */
export interface InDoubt {
  readonly operations: readonly Operation[];
  readonly results: readonly OperationResult[];
  /** Process id of the lost session at the server. */
  readonly backend: number | null;
  /** How long to wait for that session's transaction to end. */
  readonly waitMs: number;
}

const lookMs = 20;
/** Of rows that others have written upon since, one more is looked at, so many at most. */
const maxLooks = 16;

/**
 * After an unknown outcome: asks the same master, on another session, whether the transaction was committed. What is held of a
 * key only ever goes up, so once the lost session has ended, a key of it tells: it holds what was written, or less. Where
 * somebody has written upon each of them since, it stays unknown.
 * @throws what the driver throws; then the outcome stays unknown
 */
export const settleByStates = async (
  client: ClientBase,
  catalog: Catalog,
  { clock, ...doubt }: InDoubt & { readonly clock: Clock },
): Promise<"done" | "undone" | "unknown"> => {
  if (!(await hasEnded(client, doubt, clock))) return "unknown";
  for (const { table, key, version } of writtenIn(doubt).slice(0, maxLooks)) {
    const held = await heldVersion(client, catalog, { table: findTable(catalog, table), key });
    const order = held === null ? -1 : compare(held, version);
    if (order <= 0) return order === 0 ? "done" : "undone";
  }
  return "unknown";
};

/** Also one that is idle in its transaction may have a COMMIT under way to it. */
const hasEnded = async (
  client: ClientBase,
  { backend, waitMs }: Pick<InDoubt, "backend" | "waitMs">,
  clock: Clock,
): Promise<boolean> => {
  const deadlineMs = clock.monotonic() + waitMs;
  for (;;) {
    const { rows } = await client.query<{ open: boolean }>(
      `SELECT EXISTS (SELECT FROM pg_stat_activity
                       WHERE pid = $1 AND xact_start IS NOT NULL AND application_name LIKE 'coregent writer %') AS open`,
      [backend],
    );
    if (rows[0]?.open === false) return true;
    if (clock.monotonic() >= deadlineMs) return false;
    await clock.sleep(lookMs);
  }
};

interface Written {
  readonly table: string;
  readonly key: Key;
  readonly version: RowVersion;
}

/** Of each key the last version. */
const writtenIn = ({ operations, results }: Pick<InDoubt, "operations" | "results">): readonly Written[] => {
  const written = new Map<string, Written>();
  for (const [at, { table, keys, versions }] of results.entries()) {
    if (operations[at]?.kind === "select") continue;
    for (const [i, key] of keys.entries()) {
      const version = versions[i];
      if (version !== undefined) written.set(JSON.stringify([table, key]), { table, key, version });
    }
  }
  return [...written.values()];
};

const compare = (a: RowVersion, b: RowVersion): number =>
  sign((a.base ?? 0n) - (b.base ?? 0n)) || sign(a.version - b.version);

const sign = (difference: bigint): number => (difference > 0n ? 1 : difference < 0n ? -1 : 0);
