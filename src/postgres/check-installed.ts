import { ownershipOf } from "../../regions/ownership.ts";
import { clusterSlug, type Region, type Topology } from "../../regions/topology.ts";
import type { Candidate, UserTrigger } from "./catalog.ts";
import type { InstalledFacts, InstalledTable, ServerFacts } from "./check-facts.ts";
import { critical, warning, type LocalFinding } from "./check-finding.ts";
import { isReplicable } from "./check-table.ts";
import { identifier, qualified } from "./identifiers.ts";
import { slotName } from "./install/names.ts";
import { tableTriggers, type TableTrigger } from "./install/triggers.ts";

/** All that is known of one region's installation. */
export interface Installation {
  readonly server: ServerFacts;
  readonly installed: InstalledFacts;
  /** Also those which are installed outside of the topology's schemas. */
  readonly candidates: readonly Candidate[];
}

const again = "coregent init";

/**
 * Drift: where what `init` made is not there any more, or not as the configuration says now. `init` mends all of
 * it, so none of these findings is a reason for it to refuse.
 */
export const driftFindings = (
  installation: Installation,
  region: Region,
  topology: Topology,
): LocalFinding[] => {
  const { server, installed, candidates } = installation;
  const byName = new Map(candidates.map((candidate) => [candidate.name, candidate]));
  return [
    ...installed.tables.flatMap((table) => tableDrift(table, byName.get(table.name))),
    ...installed.tables.flatMap((table) => settingsDrift(table, byName.get(table.name), topology)),
    ...publicationDrift(server, installed, byName),
    ...slotDrift(server, region, topology),
    ...selectionDrift(installed, candidates, topology),
  ];
};

const tableDrift = (table: InstalledTable, candidate: Candidate | undefined): LocalFinding[] => {
  if (candidate === undefined) {
    return [
      warning(
        "table_gone",
        table.name,
        "was replicated and is not there any more; peers' changes of it wait",
        `${again} releases it here; or restore it`,
      ),
    ];
  }
  const found: LocalFinding[] = [];
  if (!table.tombstoneExists) {
    found.push(
      critical("tombstones_gone", table.name, `coregent.${table.tombstone} is not there any more`, again),
    );
  }
  const names = new Set(candidate.columns.map((column) => column.name));
  const expected = ["cg_version", "cg_prev", "cg_seen", ...(table.ownerColumn === null ? [] : ["cg_base"])];
  for (const name of expected.filter((other) => !names.has(other))) {
    found.push(
      critical(
        "column_gone",
        `${table.name}.${name}`,
        "a column of the row's state is not there any more",
        again,
      ),
    );
  }
  const key = candidate.primaryKey?.columns.map((column) => column.name) ?? [];
  if (key.join("\0") !== table.key.join("\0")) {
    found.push(
      critical(
        "key_changed",
        table.name,
        `the primary key was (${table.key.join(", ")}) when it was installed and is (${key.join(", ")}) now`,
        `Restore the key; or release the table in every region, change it there, and run: ${again}`,
      ),
    );
  }
  return [...found, ...triggerDrift(candidate)];
};

const triggerDrift = (candidate: Candidate): LocalFinding[] => {
  const wanted = tableTriggers({
    schema: candidate.schema,
    table: candidate.table,
    partitioned: candidate.kind === "partitioned",
  });
  const onPartitions = wanted.filter((trigger) => trigger.everyPartition);
  return [
    ...missingTriggers(candidate, candidate.triggers, wanted),
    ...candidate.partitions.flatMap((partition) => [
      ...missingTriggers(partition, partition.triggers, onPartitions),
      ...disabledTriggers(partition),
    ]),
    ...disabledTriggers(candidate),
  ];
};

type Relation = {
  readonly schema: string;
  readonly table: string;
  readonly triggers: readonly UserTrigger[];
};

const missingTriggers = (
  relation: Relation,
  there: readonly UserTrigger[],
  wanted: readonly TableTrigger[],
): LocalFinding[] =>
  wanted
    .filter((trigger) => !there.some((other) => other.ours && other.name === trigger.name))
    .map((trigger) =>
      critical(
        "trigger_gone",
        `${relation.schema}.${relation.table} (${trigger.name})`,
        "a trigger that stamps writes is not there: writes that need it are lost to the other regions",
        again,
      ),
    );

const disabledTriggers = (relation: Relation): LocalFinding[] =>
  relation.triggers
    .filter((trigger) => trigger.ours && trigger.enabled !== "O")
    .map((trigger) =>
      critical(
        "trigger_off",
        `${relation.schema}.${relation.table} (${trigger.name})`,
        trigger.enabled === "D"
          ? "a trigger that stamps writes is disabled: writes are lost to the other regions"
          : "a trigger that stamps writes also fires when rows are merged, or only then",
        `ALTER TABLE ${qualified(relation.schema, relation.table)} ENABLE TRIGGER ${identifier(trigger.name)};`,
      ),
    );

const settingsDrift = (
  table: InstalledTable,
  candidate: Candidate | undefined,
  topology: Topology,
): LocalFinding[] => {
  if (candidate === undefined || candidate.schema === "coregent") return [];
  const settings = ownershipOf(topology, candidate);
  const same =
    settings.ownerColumn === table.ownerColumn &&
    (settings.ownerColumn === null || settings.failover === table.failover);
  if (same) return [];
  return [
    warning(
      "settings_changed",
      table.name,
      `is installed with owner column ${table.ownerColumn ?? "(none)"} and failover ${table.failover}; the configuration says ` +
        `${settings.ownerColumn ?? "(none)"} and ${settings.failover}`,
      again,
    ),
  ];
};

const publicationDrift = (
  server: ServerFacts,
  installed: InstalledFacts,
  candidates: ReadonlyMap<string, Candidate>,
): LocalFinding[] => {
  const { publication } = server;
  if (publication === null) {
    return [critical("publication_gone", "coregent", "the publication that peers read is not there", again)];
  }
  const found: LocalFinding[] = [];
  if (!publication.insert || !publication.update || !publication.viaRoot) {
    found.push(
      critical(
        "publication_options",
        "coregent",
        "the publication leaves out inserts or updates, or names partitions instead of their table",
        "ALTER PUBLICATION coregent SET (publish = 'insert, update', publish_via_partition_root = true);",
      ),
    );
  }
  const members = new Set(publication.members);
  const expected = installed.tables.flatMap((table) => [
    ...(candidates.has(table.name) ? [table.name] : []),
    ...(table.tombstoneExists ? [`coregent.${table.tombstone}`] : []),
  ]);
  for (const name of expected.filter((other) => !members.has(other))) {
    found.push(critical("publication_member_gone", name, "is not in the publication that peers read", again));
  }
  return found;
};

/** The slots here are those that peers read. */
const slotDrift = (server: ServerFacts, region: Region, topology: Topology): LocalFinding[] =>
  topology.regions
    .filter((peer) => peer.id !== region.id)
    .flatMap((peer) => {
      const name = slotName(clusterSlug(topology.cluster), region.id, peer.id);
      const slot = server.slots.find((other) => other.name === name);
      if (slot === undefined) {
        return [
          critical(
            "slot_gone",
            name,
            `the slot that ${peer.name} reads is not there`,
            `The agent of ${peer.name} makes it anew and copies what it missed; without an agent: ${again}`,
          ),
        ];
      }
      if (slot.walStatus !== "lost" && slot.invalidation === null) return [];
      return [
        critical(
          "slot_lost",
          name,
          `the server has dropped WAL that ${peer.name} did not read yet (${slot.invalidation ?? "wal_removed"})`,
          `The agent of ${peer.name} makes the slot anew and copies what it missed; see that one is running.`,
        ),
      ];
    });

const selectionDrift = (
  installed: InstalledFacts,
  candidates: readonly Candidate[],
  topology: Topology,
): LocalFinding[] => {
  const there = new Set(installed.tables.map((table) => table.name));
  return candidates.flatMap((candidate) => {
    if (candidate.schema === "coregent") return [];
    const wanted = topology.schemas.includes(candidate.schema) && isReplicable(candidate);
    if (wanted === there.has(candidate.name)) return [];
    return [
      wanted
        ? warning("not_installed", candidate.name, "is not replicated yet", `${again} takes it up`)
        : warning(
            "not_wanted",
            candidate.name,
            "is replicated, but not configured any more",
            `${again} releases it`,
          ),
    ];
  });
};
