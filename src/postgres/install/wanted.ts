import type { Topology } from "../../../regions/topology.ts";
import type { Candidate } from "../catalog.ts";
import { isReplicable } from "../check-table.ts";
import type { WantedTable } from "./table.ts";

const ourTable = (table: string, key: readonly string[]): WantedTable => ({
  name: `coregent.${table}`,
  schema: "coregent",
  table,
  partitioned: false,
  key,
  ownerColumn: null,
  failover: "takeover",
  conflictPolicy: "latest",
  logsConflicts: false,
});

/** Replicated tables of our own, in the order of their names. */
const ourTables: readonly WantedTable[] = [
  ourTable("conflict", ["table_name", "key", "loser_version", "detected_in"]),
  ourTable("idempotency", ["scope", "key"]),
  ourTable("pulse", ["region"]),
];

/** The tables to be replicated: those with a primary key in the topology's schemas. What must be refused, `check` says. */
export const wantedTables = (candidates: readonly Candidate[], topology: Topology): WantedTable[] => {
  const wanted = candidates.flatMap((candidate): WantedTable[] => {
    if (candidate.primaryKey === null || !isReplicable(candidate)) return [];
    if (candidate.persistence !== "permanent" || candidate.schema === "coregent") return [];
    const settings = topology.tables.find(
      (each) => each.schema === candidate.schema && each.table === candidate.table,
    );
    return [
      {
        name: candidate.name,
        schema: candidate.schema,
        table: candidate.table,
        partitioned: candidate.kind === "partitioned",
        key: candidate.primaryKey.columns.map((column) => column.name),
        ownerColumn: settings?.owner ?? null,
        failover: settings?.failover ?? "takeover",
        conflictPolicy: settings?.conflict ?? "latest",
        logsConflicts: true,
      },
    ];
  });
  return [...ourTables, ...wanted];
};
