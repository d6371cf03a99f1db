import type { MergeSession } from "./merge-session.ts";
import type { Progress } from "./continuity.ts";
import { formatLsn, parseLsn } from "./lsn.ts";

/** How far a peer's stream is merged: written in the transaction that merges, so the two cannot differ. */
export interface ProgressMark {
  readonly origin: number;
  /** Which database of the origin's the position is of. */
  readonly incarnation: string;
  readonly lsn: bigint;
  /** Microseconds since 1970, by the origin's clock. */
  readonly commitTime: bigint;
}

export const readProgress = async (session: MergeSession, origin: number): Promise<Progress | null> => {
  const { rows } = await session.query<{ incarnation: string; lsn: string }>(
    "SELECT incarnation::text AS incarnation, lsn::text AS lsn FROM coregent.progress WHERE origin = $1",
    [origin],
  );
  const [row] = rows;
  return row === undefined ? null : { incarnation: row.incarnation, lsn: parseLsn(row.lsn) };
};

export const writeProgress = async (session: MergeSession, mark: ProgressMark): Promise<void> => {
  await session.query(
    `INSERT INTO coregent.progress AS p (origin, incarnation, lsn, commit_time, updated_at)
     VALUES ($1, $2::uuid, $3::pg_lsn, 'epoch'::timestamptz + $4::bigint * interval '1 microsecond', now())
     ON CONFLICT (origin) DO UPDATE SET incarnation = excluded.incarnation, lsn = excluded.lsn,
       commit_time = excluded.commit_time, updated_at = excluded.updated_at`,
    [mark.origin, mark.incarnation, formatLsn(mark.lsn), mark.commitTime],
  );
};

/** The states of all tables are to be copied from a peer whose stream has a gap, and streaming starts at `from`. */
export const markForCopy = async (
  session: MergeSession,
  mark: ProgressMark,
  { reason, states }: { readonly reason: string; readonly states: "own" | "full" },
): Promise<void> => {
  await session.transaction(async () => {
    await session.query(
      `INSERT INTO coregent.table_sync (origin, table_name, kind, reason)
       SELECT $1, name, $3, $2 FROM coregent.replicated_table
       ON CONFLICT (origin, table_name) DO UPDATE
         SET rows_done = 0, rows_total = NULL, started_at = NULL, misfit = NULL, reason = excluded.reason,
             updated_at = now(),
             kind = CASE WHEN table_sync.kind = 'full' THEN 'full' ELSE excluded.kind END`,
      [mark.origin, reason, states],
    );
    await writeProgress(session, mark);
  });
};

/** Relations of ours are not tables of their own: a tombstone relation comes and goes with its table. */
export const misfitTables = (misfits: ReadonlyMap<string, string>): [string, string][] =>
  [...misfits].filter(([table]) => !table.startsWith("coregent.tombstone_"));

/**
 * Changes of tables that do not fit were left out of what is about to be committed: their states are copied when they
 * fit. A copy that is due stays due: it is judged again when it begins.
 */
export const markMisfits = async (
  session: MergeSession,
  origin: number,
  misfits: ReadonlyMap<string, string>,
): Promise<void> => {
  const tables = misfitTables(misfits);
  if (tables.length === 0) {
    return;
  }
  await session.query(
    `INSERT INTO coregent.table_sync (origin, table_name, kind, reason, misfit)
     SELECT $1, m.name, 'own', 'its changes were left out', m.misfit
       FROM unnest($2::text[], $3::text[]) AS m(name, misfit)
     ON CONFLICT (origin, table_name) DO UPDATE
       SET misfit = CASE WHEN table_sync.misfit IS NULL THEN NULL ELSE excluded.misfit END, rows_done = 0`,
    [origin, tables.map(([table]) => table), tables.map(([, misfit]) => misfit)],
  );
};
