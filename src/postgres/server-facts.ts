import type { Pool } from "pg";

/** What a region's master tells of itself. */
export interface ServerFacts {
  readonly inRecovery: boolean;
  /** New transactions cannot write, unless they say so. */
  readonly readOnly: boolean;
  /** Such as 180004. */
  readonly version: number;
  /** As PostgreSQL writes it, with the time zone. */
  readonly startedAt: string;
  readonly systemIdentifier: string;
  /** Of the WAL written (in recovery: replayed), in bytes; null where it is not known. */
  readonly position: number | null;
  /** null in recovery. */
  readonly timeline: number | null;
}

const factsSql = `
SELECT pg_is_in_recovery() AS "inRecovery",
       current_setting('transaction_read_only') = 'on' AS "readOnly",
       current_setting('server_version_num')::int AS version,
       pg_postmaster_start_time()::text AS "startedAt",
       (SELECT system_identifier::text FROM pg_control_system()) AS "systemIdentifier",
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
         - '0/0'::pg_lsn)::float8 AS position,
       CASE WHEN NOT pg_is_in_recovery()
            THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline`;

/** Rejects if the server cannot be reached. */
export const readServerFacts = async (pool: Pick<Pool, "query">): Promise<ServerFacts> => {
  const { rows } = await pool.query<ServerFacts>(factsSql);
  const [facts] = rows;
  if (facts === undefined) throw new Error("the server tells nothing of itself");
  return facts;
};
