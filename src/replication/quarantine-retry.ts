import { sqlStateOf } from "../postgres/sqlstate.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { TableBatch } from "./batch.ts";
import { mergeBatch } from "./merge.ts";
import type { MergeReport } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { contentColumns } from "./merge-sql.ts";
import { StateBuilder } from "./state-builder.ts";
import type { StateKind } from "./states.ts";

export interface RetryLimits {
  readonly now: Date;
  readonly maxEntries: number;
  readonly firstMs: number;
  readonly maxMs: number;
}

export interface RetryReport {
  readonly tried: number;
  /** Entries that are in now, or were outranked. */
  readonly settled: number;
  readonly reports: readonly MergeReport[];
}

interface Entry {
  readonly table_name: string;
  readonly key: string;
  readonly kind: StateKind;
  readonly base: string;
  readonly version: string;
  readonly prev: string;
  readonly seen: string | null;
  readonly payload: Readonly<Record<string, string | null>> | null;
  readonly attempts: number;
}

const dueSql = `
SELECT table_name, key, kind, base::text, version::text, prev::text, seen::text, payload, attempts
  FROM coregent.quarantine WHERE next_try_at <= $1 ORDER BY next_try_at, table_name, key LIMIT $2`;

const failedSql = `
UPDATE coregent.quarantine SET attempts = attempts + 1, next_try_at = $4, sqlstate = $5, reason = $6
 WHERE table_name = $1 AND key = $2 AND version = $3`;

/**
 * Tries what is due again, by the same merge as everything else, each entry in a transaction of its own. An entry
 * whose payload could not be read waits for a later state of its key, or for `repair`.
 *
 * The session should have an origin of its own, of any name: else peers take these rows for our own writes (and merge
 * them once more, which changes nothing).
 * @throws what concerns the session rather than a row
 */
export const retryQuarantined = async (
  session: MergeSession,
  tables: readonly ReplicatedTable[],
  limits: RetryLimits,
): Promise<RetryReport> => {
  const due = await session.query<Entry>(dueSql, [limits.now.toISOString(), limits.maxEntries]);
  const reports: MergeReport[] = [];
  let settled = 0;
  for (const entry of due.rows) {
    const failure = await tryEntry(session, entry, tables, reports);
    if (failure === null) settled += 1;
    else
      await session.query(failedSql, [
        entry.table_name,
        entry.key,
        entry.version,
        nextTry(entry, limits).toISOString(),
        ...failure,
      ]);
  }
  return { tried: due.rows.length, settled, reports };
};

const nextTry = ({ attempts }: Entry, { now, firstMs, maxMs }: RetryLimits): Date =>
  new Date(now.getTime() + Math.min(maxMs, firstMs * 2 ** Math.min(attempts, 30)));

/** Null: it is in. Else the SQLSTATE and the reason. */
const tryEntry = async (
  session: MergeSession,
  entry: Entry,
  tables: readonly ReplicatedTable[],
  reports: MergeReport[],
): Promise<readonly [string | null, string] | null> => {
  const table = tables.find(({ name }) => name === entry.table_name);
  if (table === undefined) return [null, "the table is not replicated here"];
  if (entry.payload === null && entry.kind === "row") return [null, "its values cannot be read here"];
  try {
    const part = batchOf(table, entry);
    reports.push(await session.transaction(() => mergeBatch(session, { tables: [part] })));
    return null;
  } catch (error) {
    // Whatever it is of a row, even what would stop a link: thrown, it would keep all others from their turn.
    if (sqlStateOf(error) === null) throw error;
    return [sqlStateOf(error), error instanceof Error ? error.message : String(error)];
  }
};

const batchOf = (table: ReplicatedTable, entry: Entry): TableBatch => {
  const { kind } = entry;
  const key = JSON.parse(entry.key) as (string | null)[];
  const content: Readonly<Record<string, string | null>> =
    kind === "row"
      ? (entry.payload ?? {})
      : Object.fromEntries(table.key.map((name, index) => [name, key[index] ?? null]));
  const here = contentColumns(kind === "row" ? table.columns : table.tombstoneColumns);
  const fields: Record<string, string | null> = Object.fromEntries(
    here.flatMap(({ name }) => (name in content ? [[name, content[name] ?? null]] : [])),
  );
  fields["cg_version"] = entry.version;
  fields["cg_prev"] = entry.prev;
  fields["cg_seen"] = entry.seen;
  if (table.ownerColumn !== null) fields["cg_base"] = entry.base;
  const builder = new StateBuilder(table, { kind, format: "text", columns: Object.keys(fields) });
  builder.addText(Object.values(fields));
  return builder.take();
};
