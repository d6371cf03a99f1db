import type { Client } from "pg";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { formatLsn } from "./lsn.ts";
import type { AgentContext } from "./wiring.ts";

/** How often is looked, while little is written and while much is. */
const looksMs = { little: 600, much: 150 };

/** Insufficient privilege. */
const notGranted = "42501";

/**
 * Whoever decodes WAL begins at a restart point, where the server has logged which transactions run. By itself it does so
 * every 15 s, which may be hundreds of MB, and what lies behind the last one is read again for each piece of a backlog
 * (backlog.ts). So where a peer has fallen behind, the region's agent has one logged for every `restartPointBytes` of WAL.
 *
 * Until the signal is aborted, or for good where the role may not do that. Rejects when the session is lost.
 */
export const logRestartPoints = async (
  client: Client,
  { clock, limits, logger }: AgentContext,
  signal: AbortSignal,
): Promise<void> => {
  const bytes = BigInt(limits.restartPointBytes);
  let [logged, seen] = [0n, 0n];
  while (!signal.aborted) {
    try {
      const { position, isNew } = await logIfDue(client, logged, bytes);
      if (isNew) {
        logged = position;
        logger.debug({ position: formatLsn(position) }, "a restart point is logged");
      }
      const much = seen > 0n && (position - seen) * 4n >= bytes;
      seen = position;
      await clock.beat(much ? looksMs.much : looksMs.little, signal);
    } catch (error) {
      if (sqlStateOf(error) !== notGranted) throw error;
      logger.info(
        "no restart points are logged for peers that are behind: the role may not execute pg_log_standby_snapshot",
      );
      return;
    }
  }
};

/** Logs one if so many bytes were written since the last, and a peer has not confirmed as many. */
export const logIfDue = async (
  client: Client,
  last: bigint,
  bytes: bigint,
): Promise<{ readonly position: bigint; readonly isNew: boolean }> => {
  const { rows } = await client.query<{ position: string; is_new: boolean }>({
    name: "restart-points",
    text: `SELECT (position - '0/0')::text AS position,
       CASE WHEN position - '0/0' < $1::numeric + $2::numeric THEN false
            WHEN NOT EXISTS (SELECT FROM pg_replication_slots
                              WHERE database = current_database() AND slot_name ~ '^coregent_.*_[0-9]+$'
                                AND restart_lsn IS NOT NULL AND position - confirmed_flush_lsn >= $2::numeric) THEN false
            ELSE pg_log_standby_snapshot() IS NOT NULL END AS is_new
  FROM pg_current_wal_insert_lsn() AS position`,
    values: [String(last), String(bytes)],
  });
  const [row] = rows;
  if (row === undefined) throw new Error("the server did not tell its WAL position");
  return { position: BigInt(row.position), isNew: row.is_new };
};
