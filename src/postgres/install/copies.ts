import type { ClientBase } from "pg";

export interface CopyRequest {
  /** Names as in coregent.replicated_table. */
  readonly tables: readonly string[];
  /** Ids of the peers whose own states are to be copied. */
  readonly origins: readonly number[];
  readonly reason: string;
  /** `own` (default): the states whose version names the peer; `full`: all that it has. */
  readonly kind?: "own" | "full";
}

/** Asks the links to copy states: what was there before streaming began. A copy under way begins anew. */
export const requestCopies = async (client: ClientBase, request: CopyRequest): Promise<void> => {
  await client.query(
    `INSERT INTO coregent.table_sync (origin, table_name, kind, reason)
     SELECT origin, table_name, $4, $3 FROM unnest($1::int[]) AS origin CROSS JOIN unnest($2::text[]) AS table_name
     ON CONFLICT (origin, table_name) DO UPDATE
       SET rows_done = 0, rows_total = NULL, started_at = NULL, misfit = NULL,
           updated_at = now(), reason = excluded.reason,
           kind = CASE WHEN table_sync.kind = 'full' THEN 'full' ELSE excluded.kind END`,
    [request.origins, request.tables, request.reason, request.kind ?? "own"],
  );
};
