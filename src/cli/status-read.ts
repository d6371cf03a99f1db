import type { Client } from "pg";
import type { Region, Topology } from "../../regions/topology.ts";
import { clusterSlug } from "../../regions/topology.ts";
import { askAgent } from "../agent-request.ts";
import type { AgentReport } from "../http/report.ts";
import { agentLockKey } from "../postgres/agent-lock.ts";
import { connect } from "../postgres/client.ts";

/** What could be read of one region. Everything is plain JSON: `status --json` prints it as it is. */
export interface RegionReading {
  readonly region: string;
  readonly id: number;
  readonly database: DatabaseReading | { readonly error: string };
  /** From the agent's `GET /v1/status`. */
  readonly agent: AgentReport | { readonly error: string };
}

export interface DatabaseReading {
  readonly serverVersion: string;
  readonly roundTripMs: number;
  /** The region's stamping clock minus ours; right to half a round trip. */
  readonly clockSkewMs: number;
  /** Null: schema coregent is not there. */
  readonly installed: InstalledReading | null;
}

export interface InstalledReading {
  readonly cluster: string;
  readonly regionId: number;
  readonly regionName: string;
  readonly tables: number;
  /** Since when the region is out for maintenance, as text; null: it is not. */
  readonly drainedAt: string | null;
  /** Some session holds the region's agent lock. */
  readonly agentActive: boolean;
  readonly slots: readonly SlotReading[];
  readonly progress: readonly ProgressReading[];
  readonly syncs: readonly SyncReading[];
  readonly quarantine: readonly QuarantineReading[];
  readonly conflicts: Readonly<Record<string, number>>;
}

/** A slot at this region, read by a consumer's agent. */
export interface SlotReading {
  readonly name: string;
  readonly active: boolean;
  /** reserved, extended, unreserved, lost */
  readonly walStatus: string | null;
  readonly invalidationReason: string | null;
  /** WAL that the server keeps for it. */
  readonly retainedBytes: number;
  /** WAL that the consumer has not confirmed. */
  readonly lagBytes: number;
}

/** How far this region has merged the stream of an origin. */
export interface ProgressReading {
  readonly origin: number;
  readonly lsn: string;
  /** Seconds since it was last written, by this region's clock. */
  readonly ageSeconds: number;
}

export interface SyncReading {
  readonly origin: number;
  readonly table: string;
  readonly kind: string;
  /** Why it is copied. */
  readonly reason: string;
  /** Why it cannot be yet: the table is missing on one side, or differs. */
  readonly misfit: string | null;
  readonly rowsDone: number;
  readonly rowsTotal: number | null;
}

export interface QuarantineReading {
  readonly table: string;
  readonly rows: number;
  readonly oldestSeconds: number;
  readonly reason: string | null;
}

export interface ReadOptions {
  readonly connectTimeoutMs: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** For agents that ask for one. */
  readonly token?: string | undefined;
}

export const slotName = (cluster: string, sourceId: number, consumerId: number): string =>
  `coregent_${clusterSlug(cluster)}_${sourceId}_${consumerId}`;

/** Reads all regions at once; one that cannot be reached is reported, and costs one connect timeout in all. */
export const readRegions = (topology: Topology, options: ReadOptions): Promise<RegionReading[]> =>
  Promise.all(
    topology.regions.map(async (region) => {
      const [database, agent] = await Promise.all([
        readDatabase(topology.cluster, region, options).catch(failure),
        readAgent(region, options).catch(failure),
      ]);
      return { region: region.name, id: region.id, database, agent };
    }),
  );

const failure = (error: unknown): { readonly error: string } => {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (cause instanceof AggregateError) {
    return failure(cause.errors[0]);
  }
  return { error: cause instanceof Error ? cause.message || cause.name : String(cause) };
};

const readAgent = async (region: Region, { connectTimeoutMs, token }: ReadOptions): Promise<AgentReport> => {
  const response = await askAgent(region.api, { path: "/v1/status", token, timeoutMs: connectTimeoutMs });
  if (!response.ok) {
    throw new Error(`the agent answered ${response.status}`);
  }
  const report = (await response.json()) as AgentReport;
  if (report.region !== region.name || !Array.isArray(report.links)) {
    throw new Error(`something else than the agent of ${region.name} answers at ${region.api}`);
  }
  return report;
};

const readDatabase = async (
  cluster: string,
  region: Region,
  options: ReadOptions,
): Promise<DatabaseReading> => {
  const client = await connect(region.postgres.reveal(), {
    applicationName: "coregent status",
    connectTimeoutMs: options.connectTimeoutMs,
    settings: { statement_timeout: `${options.connectTimeoutMs}ms` },
  });
  // A server that was stopped with SIGSTOP takes the connection and never answers: statement_timeout is its own.
  const overdue = setTimeout(() => client.connection.stream.destroy(), 2 * options.connectTimeoutMs);
  try {
    const basics = await readBasics(client, options.now);
    const installed = basics.installed ? await readInstalled(client, cluster) : null;
    return { ...basics, installed };
  } finally {
    clearTimeout(overdue);
    await client.end().catch(() => undefined);
  }
};

const readBasics = async (
  client: Client,
  now: () => number,
): Promise<{ serverVersion: string; roundTripMs: number; clockSkewMs: number; installed: boolean }> => {
  const { rows: known } = await client.query<{ installed: boolean }>(
    `SELECT to_regclass('coregent.local') IS NOT NULL AND to_regprocedure('coregent.clock_us()') IS NOT NULL AS installed`,
  );
  const installed = known[0]?.installed === true;
  const clock = installed ? "coregent.clock_us() / 1000.0" : "extract(epoch FROM clock_timestamp()) * 1000";
  const before = now();
  const { rows } = await client.query<{ clock: string; version: string }>(
    `SELECT (${clock})::float8::text AS clock, current_setting('server_version') AS version`,
  );
  const after = now();
  return {
    serverVersion: (rows[0]?.version ?? "").split(" ")[0] ?? "",
    roundTripMs: after - before,
    clockSkewMs: Math.round(Number(rows[0]?.clock) - (before + after) / 2),
    installed,
  };
};

const installedSql = `
SELECT jsonb_build_object(
  'cluster', l.cluster, 'regionId', l.region_id, 'regionName', l.region_name,
  'drainedAt', to_jsonb(l) ->> 'drained_at',
  'tables', (SELECT count(*) FROM coregent.replicated_table WHERE schema_name <> 'coregent'),
  'agentActive', EXISTS (
     SELECT FROM pg_locks, LATERAL (SELECT ${agentLockKey} AS key) k
      WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid::bigint = (k.key >> 32) & 4294967295 AND objid::bigint = k.key & 4294967295),
  'slots', (SELECT coalesce(jsonb_agg(jsonb_build_object(
       'name', slot_name, 'active', active, 'walStatus', wal_status,
       'invalidationReason', to_jsonb(s) ->> 'invalidation_reason',
       'retainedBytes', coalesce(greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0), 0),
       'lagBytes', coalesce(greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0), 0))
       ORDER BY slot_name), '[]')
     FROM pg_replication_slots s WHERE database = current_database() AND slot_name ~ $1),
  'progress', (SELECT coalesce(jsonb_agg(jsonb_build_object(
       'origin', origin, 'lsn', lsn,
       'ageSeconds', greatest(0, extract(epoch FROM clock_timestamp() - updated_at))) ORDER BY origin), '[]')
     FROM coregent.progress),
  'syncs', (SELECT coalesce(jsonb_agg(jsonb_build_object(
       'origin', origin, 'table', table_name, 'kind', kind, 'reason', reason, 'misfit', misfit, 'rowsDone', rows_done,
       'rowsTotal', rows_total) ORDER BY origin, table_name), '[]')
     FROM coregent.table_sync),
  'quarantine', (SELECT coalesce(jsonb_agg(to_jsonb(q) ORDER BY q."table"), '[]') FROM (
     SELECT table_name AS "table", count(*) AS rows,
            greatest(0, extract(epoch FROM clock_timestamp() - min(first_at))) AS "oldestSeconds",
            min(reason) AS reason
       FROM coregent.quarantine GROUP BY table_name) q),
  -- Several regions may report one loser.
  'conflicts', (SELECT coalesce(jsonb_object_agg(c.type, c.count), '{}') FROM (
     SELECT type, count(DISTINCT (table_name, key, loser_version)) FROM coregent.conflict GROUP BY type) c)
) AS reading
FROM coregent.local l`;

const readInstalled = async (client: Client, cluster: string): Promise<InstalledReading | null> => {
  const { rows } = await client.query<{ reading: InstalledReading }>(installedSql, [
    // Numbers only: cluster `a` must not see the slots of a cluster `a_1`.
    `^coregent_${clusterSlug(cluster)}_[0-9]+_[0-9]+$`,
  ]);
  return rows[0]?.reading ?? null;
};
