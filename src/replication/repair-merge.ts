import type { Client, CustomTypesConfig } from "pg";
import type { Clock } from "../clock.ts";
import { reactionTo } from "../postgres/sqlstate.ts";
import { identifier } from "../postgres/identifiers.ts";
import type { Column, ReplicatedTable } from "../postgres/table.ts";
import type { TableBatch } from "./batch.ts";
import { mergeBatch } from "./merge.ts";
import { keysFromText } from "./merge-keys.ts";
import type { MergeReport } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { relationOf, sameKey } from "./merge-sql.ts";
import { StateBuilder } from "./state-builder.ts";
import type { StateKind } from "./states.ts";

/** Keys fetched and merged in one transaction. */
const pieceKeys = 1_000;
const maxAttempts = 10;

/** All values as the text that the server sends. */
const asText: CustomTypesConfig = { getTypeParser: () => (value: string | Buffer) => String(value) };

export interface RepairSource {
  readonly client: Client;
  readonly table: ReplicatedTable;
}

/** The first column of the source that has no counterpart here; its values would be lost. Null: the table fits. */
export const misfitOf = (source: ReplicatedTable, target: ReplicatedTable): string | null => {
  for (const column of source.columns.filter((one) => !one.generated)) {
    const own = target.columns.find((one) => one.name === column.name);
    if (own === undefined || own.generated) return `column ${column.name} is missing`;
    if (own.type !== column.type) return `column ${column.name} is ${own.type} and not ${column.type}`;
  }
  return null;
};

/**
 * Merges the states that the source holds of these keys (JSON arrays of texts), rows and tombstones, into the target:
 * the same merge as that of streamed changes, so what the target holds of higher states stays.
 */
export const mergeKeys = async (
  session: MergeSession,
  { target, source, keys }: { target: ReplicatedTable; source: RepairSource; keys: readonly string[] },
  { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal | undefined },
): Promise<{ rows: number; tombstones: number }> => {
  const merged = { rows: 0, tombstones: 0 };
  for (let at = 0; at < keys.length; at += pieceKeys) {
    signal?.throwIfAborted();
    const piece = keys.slice(at, at + pieceKeys);
    const report = await insistently(session, clock, async (careful) => {
      const parts: TableBatch[] = [];
      for (const kind of ["row", "tombstone"] as const)
        parts.push(await fetch(source, { target, kind, piece }));
      return await session.transaction(() => mergeBatch(session, { tables: parts }, { careful }));
    });
    merged.rows += report.rowsMerged + report.rowsSwept;
    merged.tombstones += report.tombstonesMerged;
  }
  return merged;
};

/** Yields to local writers and tries again; once more, row by row, where a row does not fit. */
const insistently = async (
  session: MergeSession,
  clock: Clock,
  work: (careful: boolean) => Promise<MergeReport>,
): Promise<MergeReport> => {
  let careful = false;
  for (let attempt = 1; ; attempt++) {
    try {
      return await work(careful);
    } catch (error) {
      await session.rollback();
      const reaction = reactionTo(error, "merge");
      if (reaction === "quarantine" && !careful) careful = true;
      else if (reaction !== "retry" || attempt >= maxAttempts) throw error;
      else await clock.sleep(10 * 2 ** attempt);
    }
  }
};

interface Wanted {
  readonly target: ReplicatedTable;
  readonly kind: StateKind;
  readonly piece: readonly string[];
}

const fetch = async (source: RepairSource, { target, kind, piece }: Wanted): Promise<TableBatch> => {
  const { table, client } = source;
  const stored = (column: Column): boolean => !column.generated;
  const columns = (kind === "row" ? table.columns : table.tombstoneColumns)
    .filter(stored)
    .map((column) => column.name);
  const { rows } = await client.query<(string | null)[]>({
    text: `SELECT ${columns.map((name) => `s.${identifier(name)}`).join(", ")}
             FROM ${keysFromText(table, 1)} JOIN ${relationOf(table, kind)} AS s ON ${sameKey(table, "s", "k")}`,
    values: [piece],
    rowMode: "array",
    types: asText,
  });
  const builder = new StateBuilder(target, { kind, format: "text", columns });
  for (const row of rows) builder.addText(row);
  return builder.take();
};

/**
 * Touches rows, so that the triggers stamp them anew: an ordinary update, which then goes its ordinary way. Says how
 * many there were.
 */
export const restamp = async (
  client: Client,
  table: ReplicatedTable,
  keys: readonly string[],
): Promise<number> => {
  const result = await client.query(
    `UPDATE ${relationOf(table, "row")} AS s SET cg_version = s.cg_version
       FROM ${keysFromText(table, 1)} WHERE ${sameKey(table, "s", "k")}`,
    [keys],
  );
  return result.rowCount ?? 0;
};
