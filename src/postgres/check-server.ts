import { clusterSlug, type Region, type Topology } from "../../regions/topology.ts";
import { restartPointFunction, type InstalledFacts, type ServerFacts } from "./check-facts.ts";
import { critical, fine, warning, type LocalFinding } from "./check-finding.ts";
import { identifier } from "./identifiers.ts";
import { originNames, slotName } from "./install/names.ts";

/**
 * Which of the role's rights are looked at: those that `init` needs, or those that a running agent needs (no right to
 * create anything in the database).
 */
export type RolesNeeded = "install" | "agent";

export const oldestVersion = 16;
export const newestVersion = 18;

/** What stands in the way in the server's settings and in our role's rights. A function of the facts alone. */
export const serverFindings = (
  facts: ServerFacts,
  region: Region,
  topology: Topology,
  rolesNeeded: RolesNeeded,
): LocalFinding[] => [
  ...versionFindings(facts),
  ...settingFindings(facts, region, topology),
  ...roleFindings(facts, rolesNeeded),
  ...nameFindings(facts, region, topology),
];

const versionFindings = (facts: ServerFacts): LocalFinding[] => {
  const major = Math.floor(facts.versionNum / 10_000);
  const found: LocalFinding[] = [];
  if (major < oldestVersion || major > newestVersion) {
    found.push(
      critical(
        "server_version",
        `PostgreSQL ${major}`,
        `PostgreSQL ${major} is not supported`,
        `Use PostgreSQL ${oldestVersion} to ${newestVersion} (pg_upgrade keeps the data).`,
      ),
    );
  } else found.push(fine("server_version", `PostgreSQL ${major}`, "this version is supported"));
  if (facts.inRecovery || facts.settings["default_transaction_read_only"] === "on") {
    found.push(
      critical(
        "read_only",
        facts.database,
        facts.inRecovery ? "this server is a standby and takes no writes" : "transactions are read-only here",
        facts.inRecovery
          ? "Name the region's primary server in the configuration, or promote this one: SELECT pg_promote();"
          : `ALTER DATABASE ${identifier(facts.database)} RESET default_transaction_read_only; -- or in postgresql.conf`,
      ),
    );
  }
  return found;
};

const numberOf = (facts: ServerFacts, name: string): number => Number(facts.settings[name] ?? Number.NaN);

const settingFindings = (facts: ServerFacts, region: Region, topology: Topology): LocalFinding[] => {
  const peers = topology.regions.filter((other) => other.id !== region.id);
  const slug = clusterSlug(topology.cluster);
  const restart = "then restart the server";
  const found: LocalFinding[] = [];
  if (facts.settings["wal_level"] === "logical") {
    found.push(fine("wal_level", "wal_level", "logical"));
  } else {
    found.push(
      critical(
        "wal_level",
        "wal_level",
        `wal_level is ${facts.settings["wal_level"]}; peers read the WAL logically`,
        `ALTER SYSTEM SET wal_level = 'logical'; -- ${restart}`,
      ),
    );
  }
  const enough = (name: string, others: number, what: string): void => {
    const needed = others + peers.length;
    if (numberOf(facts, name) >= needed) found.push(fine(name, name, `${facts.settings[name]} are enough`));
    else {
      found.push(
        critical(
          name,
          name,
          `${name} is ${facts.settings[name]}: ${peers.length} ${what} for the peers and ${others} for others are needed`,
          `ALTER SYSTEM SET ${name} = ${Math.max(10, needed + 2)}; -- ${restart}`,
        ),
      );
    }
  };
  const ourSlots = new Set(peers.map((peer) => slotName(slug, region.id, peer.id)));
  const foreignSlots = facts.slots.filter((slot) => !ourSlots.has(slot.name)).length;
  enough("max_replication_slots", foreignSlots, "slots");
  // Senders of our own slots are among those that run; a sender each for the others is what can be known here.
  enough("max_wal_senders", Math.max(0, facts.walSenders - peers.length), "senders");
  const ourOrigins = originNames(
    slug,
    peers.map((peer) => peer.id),
  );
  const foreignOrigins = facts.origins.filter((name) => !ourOrigins.includes(name)).length;
  // Until PostgreSQL 17 max_replication_slots bounds the origins as well.
  if (facts.settings["max_active_replication_origins"] !== undefined) {
    enough("max_active_replication_origins", foreignOrigins, "origins");
  }
  const idle = numberOf(facts, "idle_replication_slot_timeout");
  if (idle > 0) {
    found.push(
      warning(
        "idle_replication_slot_timeout",
        "idle_replication_slot_timeout",
        `a peer that is away for ${idle} seconds loses its slot and has to copy everything again`,
        "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
      ),
    );
  }
  if (facts.encoding !== "UTF8") {
    found.push(
      critical(
        "encoding",
        facts.database,
        `the database's encoding is ${facts.encoding}; texts of all regions must fit in all`,
        "Make the database anew with ENCODING 'UTF8' and restore a dump into it.",
      ),
    );
  }
  return found;
};

const roleFindings = (facts: ServerFacts, rolesNeeded: RolesNeeded): LocalFinding[] => {
  const { role } = facts;
  const name = identifier(role.name);
  if (role.superuser) return [fine("role", role.name, "a superuser may do everything needed")];
  const found: LocalFinding[] = [];
  const need = (has: boolean, code: string, message: string, remedy: string): void => {
    if (!has) found.push(critical(code, role.name, message, remedy));
  };
  need(role.replication, "role_replication", "the role may not replicate", `ALTER ROLE ${name} REPLICATION;`);
  need(
    role.setReplicationRole,
    "role_session_replication_role",
    "the role may not merge past the triggers and foreign keys of the tables",
    `GRANT SET ON PARAMETER session_replication_role TO ${name};`,
  );
  if (rolesNeeded === "install") {
    need(
      role.createInDatabase,
      "role_create",
      "the role may not create a schema and a publication",
      `GRANT CREATE ON DATABASE ${identifier(facts.database)} TO ${name};`,
    );
  }
  if (facts.schema !== null && !facts.schema.owned) {
    need(
      false,
      "role_schema",
      `schema coregent belongs to the role ${facts.schema.owner}`,
      `GRANT ${identifier(facts.schema.owner)} TO ${name};`,
    );
  }
  const toGrant = (functions: readonly string[]): string =>
    functions.map((signature) => `GRANT EXECUTE ON FUNCTION pg_catalog.${signature} TO ${name};`).join("\n");
  const origins = role.missingFunctions.filter((signature) => signature !== restartPointFunction);
  if (origins.length > 0) {
    found.push(
      warning(
        "role_origins",
        role.name,
        "the role may not use replication origins: changes travel between regions more often than they need to",
        toGrant(origins),
      ),
    );
  }
  if (role.missingFunctions.includes(restartPointFunction)) {
    found.push(
      warning(
        "role_restart_points",
        role.name,
        "the role may not have restart points logged: peers that were away read much of this region's WAL more than once",
        toGrant([restartPointFunction]),
      ),
    );
  }
  return found.length > 0 ? found : [fine("role", role.name, "has every right that is needed")];
};

/** Names that others have taken, and slots of ours that belong elsewhere. */
const nameFindings = (facts: ServerFacts, region: Region, topology: Topology): LocalFinding[] => {
  const found: LocalFinding[] = [];
  if (facts.schema !== null && !facts.installed) {
    found.push(
      critical(
        "schema_clash",
        "schema coregent",
        "there is a schema coregent which Coregent did not make",
        "ALTER SCHEMA coregent RENAME TO another_name; -- or drop it",
      ),
    );
  }
  if (facts.publication !== null && !facts.installed) {
    found.push(
      critical(
        "publication_clash",
        "publication coregent",
        "there is a publication coregent which Coregent did not make",
        "ALTER PUBLICATION coregent RENAME TO another_name; -- or drop it",
      ),
    );
  }
  const slug = clusterSlug(topology.cluster);
  for (const peer of topology.regions) {
    const name = slotName(slug, region.id, peer.id);
    const slot = peer.id === region.id ? undefined : facts.slots.find((other) => other.name === name);
    if (slot !== undefined && (slot.database !== facts.database || slot.plugin !== "pgoutput")) {
      found.push(
        critical(
          "slot_clash",
          name,
          `the slot that ${peer.name} reads belongs to the database ${slot.database ?? "(none)"} of this server`,
          `SELECT pg_drop_replication_slot('${name}'); -- if nothing uses it; else give the cluster another name`,
        ),
      );
    }
  }
  return found;
};

/** Whether this database is the region that the configuration says. */
export const identityFindings = (
  installed: InstalledFacts,
  region: Region,
  topology: Topology,
): LocalFinding[] => {
  const { local } = installed;
  if (local === null) return [];
  const is = `region ${local.regionName} (${local.regionId}) of cluster ${local.cluster}`;
  const means = `region ${region.name} (${region.id}) of cluster ${topology.cluster}`;
  if (is === means) return [fine("region_identity", region.name, is)];
  return [
    critical(
      "region_identity",
      region.name,
      `this database was prepared as ${is}, not as ${means}`,
      "Correct the name, the id or the URL in the configuration; or release the database with the configuration " +
        "that prepared it: coregent uninstall",
    ),
  ];
};
