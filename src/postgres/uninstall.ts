import type { ClientBase } from "pg";
import { clusterSlug, type Topology } from "../../regions/topology.ts";
import { OperatorError } from "../errors.ts";
import { withRegions, type RegionChanges } from "./init.ts";
import { originNames, publicationName } from "./install/names.ts";
import { dropSlots } from "./install/slots.ts";
import { releaseTable } from "./install/table.ts";
import { asOnlyInstaller, underLocks, type LockPatience } from "./install/transaction.ts";
import { uninstallBlockers } from "./uninstall-blockers.ts";

export interface UninstallOptions extends LockPatience {
  readonly signal?: AbortSignal;
  readonly onProgress?: (text: string) => void;
}

export interface UninstallReport {
  readonly regions: readonly RegionChanges[];
}

const installedSchema = async (client: ClientBase): Promise<boolean> => {
  const { rows } = await client.query<{ there: boolean }>(
    "SELECT to_regnamespace('coregent') IS NOT NULL AS there",
  );
  return rows[0]?.there === true;
};

const releaseTables = async (client: ClientBase, options: UninstallOptions): Promise<string[]> => {
  const { rows: registered } = await client.query<{ there: boolean }>(
    "SELECT to_regclass('coregent.replicated_table') IS NOT NULL AS there",
  );
  if (registered[0]?.there !== true) return [];
  const { rows } = await client.query<{ name: string; schema: string; table: string }>(
    `SELECT name, schema_name AS schema, table_name AS table FROM coregent.replicated_table
      WHERE schema_name <> 'coregent' ORDER BY name`,
  );
  for (const table of rows) {
    options.signal?.throwIfAborted();
    await underLocks(
      client,
      async () => {
        await asOnlyInstaller(client);
        await releaseTable(client, table);
      },
      options,
    );
  }
  return rows.map((table) => `${table.name} released`);
};

/** Origins belong to the server, not to the database: only those that name this cluster's other regions go. */
const dropOrigins = async (client: ClientBase, names: readonly string[]): Promise<string[]> => {
  const { rows } = await client.query<{ name: string }>(
    "SELECT roname AS name FROM pg_replication_origin WHERE roname = ANY ($1::text[]) ORDER BY 1",
    [names],
  );
  for (const { name } of rows) await client.query("SELECT pg_replication_origin_drop($1)", [name]);
  return rows.map(({ name }) => `replication origin ${name} dropped`);
};

/**
 * Takes all that init made out of one region's database: slots, origins, triggers, columns, the publication and schema
 * `coregent`. Tables and their rows stay. Idempotent. The region's agent must have ended.
 */
export const uninstallRegion = async (
  client: ClientBase,
  { topology, regionId, ...options }: UninstallOptions & { topology: Topology; regionId: number },
): Promise<string[]> => {
  const cluster = clusterSlug(topology.cluster);
  const slots = await dropSlots(client, { cluster, source: regionId });
  const peers = topology.regions.filter((region) => region.id !== regionId);
  const changes = slots.map((name) => `slot ${name} dropped`);
  changes.push(
    ...(await dropOrigins(
      client,
      originNames(
        cluster,
        peers.map((peer) => peer.id),
      ),
    )),
  );
  if (!(await installedSchema(client))) return changes;
  changes.push(...(await releaseTables(client, options)));
  await underLocks(
    client,
    async () => {
      await asOnlyInstaller(client);
      await client.query(`DROP PUBLICATION IF EXISTS ${publicationName}`);
      await client.query("DROP SCHEMA IF EXISTS coregent CASCADE");
    },
    options,
  );
  return [...changes, "schema coregent dropped"];
};

/**
 * Uninstalls every region of the topology, one after the other, after connecting to them all and seeing that nothing is
 * in the way in any of them.
 * @throws OperatorError CG-UNINSTALL-REFUSED
 */
export const uninstallCluster = async (
  topology: Topology,
  options: UninstallOptions = {},
): Promise<UninstallReport> =>
  await withRegions(topology, "coregent uninstall", async (regions) => {
    const found = await Promise.all(
      regions.map(async ({ region, client }) =>
        (await uninstallBlockers(client)).map((blocker) => `${region.name}: ${blocker}`),
      ),
    );
    const blockers = found.flat();
    if (blockers.length > 0) {
      throw new OperatorError("CG-UNINSTALL-REFUSED", `nothing was removed, as ${blockers.join("; ")}`, {
        remedy:
          "Stop the agents. Drop what stands on Coregent's schema and columns, or set a default that does without.",
      });
    }
    for (const { region, client, changes } of regions) {
      options.onProgress?.(`removing Coregent from ${region.name}`);
      changes.push(...(await uninstallRegion(client, { ...options, topology, regionId: region.id })));
    }
    return { regions: regions.map(({ region, changes }) => ({ region: region.name, changes })) };
  });
