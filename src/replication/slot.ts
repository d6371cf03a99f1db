import type { ClientBase } from "pg";
import type { Clock } from "../clock.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { parseLsn } from "./lsn.ts";

/** A replication slot at the source: the queue of one consumer. */
export interface Slot {
  readonly name: string;
  /** Everything before this position is confirmed by the consumer. */
  readonly confirmedLsn: bigint;
  /** Where the source's WAL stands. */
  readonly sourceLsn: bigint;
  /** Why the source has given up the slot's WAL; null: it is usable. Final: the slot can only be dropped. */
  readonly lost: string | null;
  /** `reserved`, `extended`, `unreserved` (about to be lost), `lost`. */
  readonly walStatus: string;
  /** WAL kept for it, in bytes. */
  readonly retainedBytes: bigint;
  /** The walsender which reads from it; null: nobody. */
  readonly activePid: number | null;
}

interface SlotRow {
  /** Null while it is being made. */
  readonly confirmed: string | null;
  readonly position: string;
  readonly wal_status: string;
  readonly reason: string | null;
  readonly conflicting: boolean;
  readonly retained: string | null;
  readonly active_pid: number | null;
}

// invalidation_reason exists from PostgreSQL 17 on; a row as JSON can be asked for columns that may be missing.
const slotSql = `
SELECT s.confirmed_flush_lsn::text AS confirmed,
       pg_current_wal_insert_lsn()::text AS position,
       coalesce(s.wal_status, 'lost') AS wal_status,
       to_jsonb(s) ->> 'invalidation_reason' AS reason,
       coalesce((to_jsonb(s) ->> 'conflicting')::boolean, false) AS conflicting,
       (pg_current_wal_lsn() - s.restart_lsn)::bigint::text AS retained,
       s.active_pid
  FROM pg_replication_slots s
 WHERE s.slot_name = $1 AND s.database = current_database() AND s.plugin = 'pgoutput'`;

/**
 * Null if there is no such slot in the session's database.
 * @throws SlotBeingMade
 */
export const inspectSlot = async (client: ClientBase, name: string): Promise<Slot | null> => {
  const { rows } = await client.query<SlotRow>(slotSql, [name]);
  const [row] = rows;
  if (row === undefined) {
    return null;
  }
  if (row.confirmed === null) {
    throw new SlotBeingMade(name);
  }
  return {
    name,
    confirmedLsn: parseLsn(row.confirmed),
    sourceLsn: parseLsn(row.position),
    lost: row.reason ?? (row.wal_status === "lost" || row.conflicting ? row.wal_status : null),
    walStatus: row.wal_status,
    retainedBytes: BigInt(row.retained ?? "0"),
    activePid: row.active_pid,
  };
};

/** The slot as it is, or a new one at the source's present position. `created` tells. */
export const ensureSlot = async (
  client: ClientBase,
  name: string,
): Promise<Slot & { readonly created: boolean }> => {
  const existing = await inspectSlot(client, name);
  if (existing !== null) {
    return { ...existing, created: false };
  }
  const created = await client
    .query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [name])
    .then(() => true)
    .catch((error: unknown) => {
      // `coregent init` was faster.
      if (sqlStateOf(error) === "42710") return false;
      throw error;
    });
  const made = await inspectSlot(client, name);
  if (made === null) {
    throw new Error(`slot ${name} was dropped as soon as it was made`);
  }
  return { ...made, created };
};

/** Drops the slot, from under its reader if need be. No harm if it is not there. */
export const dropSlot = async (client: ClientBase, name: string, clock: Clock): Promise<void> => {
  await evictHolder(client, name, clock);
  await client.query(
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
    [name],
  );
};

const evictionMs = 5_000;

/**
 * Ends the process that reads from the slot, or holds it. It is a stale one, of a connection that is gone and of which the source
 * has not heard: a region has one active agent, which has one reader per slot, and that is about to begin.
 * @throws SlotHeld when the process is still there after 5 s: to be tried again
 */
export const evictHolder = async (
  client: ClientBase,
  name: string,
  clock: Clock,
  backendType: "walsender" | "client backend" = "walsender",
): Promise<void> => {
  const deadline = clock.monotonic() + evictionMs;
  for (;;) {
    const { rows } = await client.query<{ pid: number }>(
      `SELECT s.active_pid AS pid, pg_terminate_backend(s.active_pid)
         FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid
        WHERE s.slot_name = $1 AND a.backend_type = $2`,
      [name, backendType],
    );
    const [found] = rows;
    if (found === undefined) {
      return;
    }
    if (clock.monotonic() >= deadline) {
      throw new SlotHeld(name, found.pid);
    }
    await clock.sleep(20);
  }
};

/** Another session makes it and waits for transactions that are open at the source. */
export class SlotBeingMade extends Error {
  readonly reaction = "retry";
  constructor(name: string) {
    super(`slot ${name} is being made; that waits for transactions that are open at its region`);
  }
}

export class SlotHeld extends Error {
  readonly reaction = "retry";
  constructor(name: string, pid: number) {
    super(`slot ${name} is still held by process ${pid}, which was told to end`);
  }
}

/**
 * What a walsender that has been silent is doing. `gone`: the source has ended it. `waiting`: for WAL, or for the network; it
 * would have answered. `busy`: reading WAL that holds nothing for us.
 */
export type WalsenderState = "gone" | "waiting" | "busy";

export const inspectWalsender = async (client: ClientBase, pid: number): Promise<WalsenderState> => {
  const { rows } = await client.query<{ wait: string | null }>(
    "SELECT wait_event_type AS wait FROM pg_stat_activity WHERE pid = $1 AND backend_type = 'walsender'",
    [pid],
  );
  const [row] = rows;
  if (row === undefined) {
    return "gone";
  }
  return row.wait === "Activity" || row.wait === "Client" ? "waiting" : "busy";
};

/**
 * Types of replicated tables' columns which have no binary format, whole or in part. If there are any, at the source or
 * here, the link asks for text.
 */
export const readTypesWithoutBinary = async (client: ClientBase): Promise<string[]> => {
  const { rows } = await client.query<{ name: string }>(
    `WITH RECURSIVE used AS (
       SELECT a.atttypid AS type
         FROM coregent.replicated_table r
         JOIN pg_namespace n ON n.nspname = r.schema_name
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.table_name
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION
       SELECT part.type
         FROM used u
         JOIN pg_type t ON t.oid = u.type
        CROSS JOIN LATERAL (
          SELECT t.typbasetype AS type WHERE t.typbasetype <> 0
           UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1
           UNION ALL SELECT a.atttypid FROM pg_attribute a
                      WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
           UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) part)
     SELECT format_type(t.oid, NULL) AS name
       FROM used u JOIN pg_type t ON t.oid = u.type
      WHERE t.typsend = 0 OR t.typreceive = 0
      ORDER BY 1`,
  );
  return rows.map((row) => row.name);
};
