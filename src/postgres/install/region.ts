import { createHash } from "node:crypto";
import type { ClientBase } from "pg";
import type { Region, Topology } from "../../../regions/topology.ts";
import { readCandidates } from "../catalog.ts";
import { requestCopies } from "./copies.ts";
import { functionsSql } from "./functions.ts";
import { definitionOf, inspectTable } from "./inspect.ts";
import { migrations } from "./migrations.ts";
import type { InstallReport, TableChange } from "./report.ts";
import { releaseTable, takeUpTable, type WantedTable } from "./table.ts";
import { asOnlyInstaller, underLocks, type LockPatience } from "./transaction.ts";
import { wantedTables } from "./wanted.ts";

export interface InstallOptions extends LockPatience {
  readonly topology: Topology;
  readonly region: Region;
}

/** The database belongs to another cluster or region than the topology says. */
export class WrongRegionError extends Error {
  override readonly name = "WrongRegionError";
}

const migrate = async (client: ClientBase): Promise<number[]> => {
  const { rows } = await client.query<{ there: boolean }>(
    "SELECT to_regclass('coregent.migration') IS NOT NULL AS there",
  );
  const applied =
    rows[0]?.there === true
      ? (await client.query<{ version: number }>("SELECT version FROM coregent.migration")).rows
      : [];
  const done = new Set(applied.map((row) => row.version));
  const missing = migrations.filter((migration) => !done.has(migration.version));
  for (const migration of missing) {
    await client.query(migration.sql);
    await client.query("INSERT INTO coregent.migration (version) VALUES ($1)", [migration.version]);
  }
  return missing.map((migration) => migration.version);
};

/** @throws WrongRegionError where the database is another region's; nothing has been changed then */
const identify = async (client: ClientBase, { topology, region }: InstallOptions): Promise<void> => {
  const { rows } = await client.query<{ cluster: string; region_id: number; region_name: string }>(
    `INSERT INTO coregent.local (cluster, region_id, region_name) VALUES ($1, $2, $3)
     ON CONFLICT (only_row) DO UPDATE SET region_name = coregent.local.region_name
     RETURNING cluster, region_id, region_name`,
    [topology.cluster, region.id, region.name],
  );
  const found = rows[0];
  if (
    found?.cluster !== topology.cluster ||
    found.region_id !== region.id ||
    found.region_name !== region.name
  ) {
    throw new WrongRegionError(
      `This database is region ${found?.region_name} (id ${found?.region_id}) of cluster ${found?.cluster}, ` +
        `not ${region.name} (id ${region.id}) of ${topology.cluster}`,
    );
  }
};

const replaceFunctions = async (client: ClientBase, regionId: number): Promise<boolean> => {
  const functions = functionsSql(regionId);
  const digest = createHash("md5").update(JSON.stringify(functions)).digest("hex");
  const { rows } = await client.query<{ functions: string }>("SELECT functions FROM coregent.local");
  if (rows[0]?.functions === digest) return false;
  for (const sql of functions) await client.query(sql);
  await client.query("UPDATE coregent.local SET functions = $1", [digest]);
  return true;
};

interface Registered {
  readonly name: string;
  readonly schema: string;
  readonly table: string;
  readonly key: string[];
  readonly owner: string | null;
}

const readRegistered = async (client: ClientBase): Promise<Registered[]> => {
  const { rows } = await client.query<Registered>(
    `SELECT name, schema_name AS schema, table_name AS table, key_columns AS key, owner_column AS owner
       FROM coregent.replicated_table ORDER BY name`,
  );
  return rows;
};

/** Whether the states that are there cannot be kept: other keys, or an order of states that loses its bases. */
const needsNewStates = (before: Registered | undefined, table: WantedTable): boolean =>
  before !== undefined &&
  (before.key.join("\0") !== table.key.join("\0") || (before.owner !== null && table.ownerColumn === null));

const installTable = async (
  client: ClientBase,
  table: WantedTable,
  { before, options }: { readonly before: Registered | undefined; readonly options: InstallOptions },
): Promise<TableChange | null> => {
  const { region, topology } = options;
  const peers = topology.regions.map((each) => each.id).filter((id) => id !== region.id);
  return await underLocks(
    client,
    async () => {
      await asOnlyInstaller(client);
      const anew = needsNewStates(before, table);
      const { registered, lacks } = await inspectTable(client, table, region);
      if (registered && !anew && lacks.length === 0) return null;
      if (anew && before !== undefined) await releaseTable(client, before);
      await takeUpTable(client, table, { region, definition: definitionOf(table, region) });
      const newStates = anew || !registered || lacks.includes("column cg_version");
      const copies = { tables: [table.name], origins: peers };
      if (newStates) await requestCopies(client, { ...copies, reason: "taken up" });
      // What was deleted while nothing stamped is still elsewhere, and no tombstone will take it away there.
      else if (lacks.some((what) => what.startsWith("trigger ") || what === "tombstone relation")) {
        await requestCopies(client, { ...copies, reason: `repaired: ${lacks.join(", ")}`, kind: "full" });
      }
      if (anew) return { name: table.name, change: "taken up anew", details: [] };
      return { name: table.name, change: registered ? "repaired" : "taken up", details: lacks };
    },
    options,
  );
};

/**
 * Prepares one region's database, or brings it into its right form again: our schema, and every table that is to be
 * replicated, each in a transaction of its own. Tables that are no longer to be replicated are released.
 * Idempotent. It does not judge whether it should: `checkRegion` is to be asked before.
 */
export const installRegion = async (client: ClientBase, options: InstallOptions): Promise<InstallReport> => {
  const { topology, region } = options;
  const schema = await underLocks(
    client,
    async () => {
      await asOnlyInstaller(client);
      const applied = await migrate(client);
      await identify(client, options);
      return { migrations: applied, functionsReplaced: await replaceFunctions(client, region.id) };
    },
    options,
  );
  const candidates = await readCandidates(client, {
    schemas: topology.schemas,
    tables: topology.tables.map((table) => table.name),
  });
  const wanted = wantedTables(candidates, topology);
  const registered = await readRegistered(client);
  const tables: TableChange[] = [];
  for (const table of registered.filter((each) => !wanted.some((other) => other.name === each.name))) {
    await underLocks(
      client,
      async () => {
        await asOnlyInstaller(client);
        await releaseTable(client, table);
      },
      options,
    );
    tables.push({ name: table.name, change: "released", details: [] });
  }
  const unchanged: string[] = [];
  for (const table of wanted) {
    const before = registered.find((each) => each.name === table.name);
    const change = await installTable(client, table, { before, options });
    if (change === null) unchanged.push(table.name);
    else tables.push(change);
  }
  return { region: region.name, ...schema, tables, unchanged };
};
