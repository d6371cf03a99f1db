import { openEndpoint } from "../../../regions/endpoint-settings.ts";
import { noClientSettings } from "../../../regions/client-settings.ts";
import { postgresUrl } from "../../../regions/secret.ts";
import type { TableSettings } from "../../../regions/table-settings.ts";
import type { Region, Topology } from "../../../regions/topology.ts";
import { defaultWriterSettings } from "../../../regions/writer-settings.ts";
import { installRegion } from "../../../src/postgres/install/region.ts";
import type { InstallReport } from "../../../src/postgres/install/report.ts";
import type { TestDatabase } from "../../support/database.ts";

export const region = (name: string, id: number, url = "postgres://nowhere/none"): Region => ({
  name,
  id,
  latitude: 0,
  longitude: 0,
  postgres: postgresUrl(url),
  api: `http://127.0.0.1:${8000 + id}`,
  entrance: null,
});

export const owned = (name: string, owner: string | null): TableSettings => {
  const [schema = "", table = ""] = name.split(".");
  return { name, schema, table, owner, failover: "takeover", conflict: "latest", route: "owner" };
};

export const moldova = region("moldova", 3);
export const argentina = region("argentina", 7);

export const topologyOf = (changes: Partial<Topology> = {}): Topology => ({
  cluster: "weightbook",
  regions: [moldova, argentina],
  schemas: ["public"],
  tables: [],
  writer: defaultWriterSettings,
  clients: noClientSettings,
  endpoint: openEndpoint,
  outages: { allowed: false },
  ...changes,
});

/** Installs a test's database as the region `moldova` (id 3), beside `argentina` (id 7). */
export const install = async (db: TestDatabase, changes: Partial<Topology> = {}): Promise<InstallReport> => {
  const client = await db.connect();
  return await installRegion(client, { topology: topologyOf(changes), region: moldova });
};

export interface State {
  /** Absent where the table has no owners. */
  readonly base?: bigint;
  readonly version: bigint;
  readonly prev: bigint;
  readonly seen: readonly bigint[] | null;
}

/** bigint comes as text from pg. */
interface StateRow {
  cg_base?: string;
  cg_version: string;
  cg_prev: string;
  cg_seen: string[] | null;
}

const stateOf = (row: Record<string, unknown>): State => {
  const { cg_base, cg_version, cg_prev, cg_seen } = row as unknown as StateRow;
  return {
    ...(cg_base === undefined ? {} : { base: BigInt(cg_base) }),
    version: BigInt(cg_version),
    prev: BigInt(cg_prev),
    seen: cg_seen?.map(BigInt) ?? null,
  };
};

/** The states in a relation by its key columns joined with a comma. */
export const states = async (
  db: TestDatabase,
  relation: string,
  key: readonly string[] = ["id"],
): Promise<Map<string, State>> => {
  const rows = await db.query(`SELECT * FROM ${relation}`);
  return new Map(rows.map((row) => [key.map((name) => String(row[name])).join(","), stateOf(row)]));
};

/** The tombstones of a table by `schema.table`. */
export const tombstones = async (
  db: TestDatabase,
  table: string,
  key: readonly string[] = ["id"],
): Promise<Map<string, State>> => {
  const rows = await db.query<{ name: string }>(
    "SELECT 'coregent.' || quote_ident(tombstone) AS name FROM coregent.replicated_table WHERE name = $1",
    [table],
  );
  return await states(db, rows[0]?.name ?? table, key);
};
