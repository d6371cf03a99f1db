import type { ConflictPolicy, Failover } from "./table-settings.ts";
import type { Topology } from "./topology.ts";

/** What holds for one table's rows: who owns them, and what happens while the owner is away. */
export interface Ownership {
  /** The column whose value is the owning region's name; null: rows have no owner, and the latest write wins. */
  readonly ownerColumn: string | null;
  readonly failover: Failover;
  readonly conflict: ConflictPolicy;
}

/** A table without settings: no owner. */
export const unowned: Ownership = { ownerColumn: null, failover: "takeover", conflict: "latest" };

/** The ownership rules of a table, by its names as the catalog has them. */
export const ownershipOf = (
  topology: Pick<Topology, "tables">,
  table: { readonly schema: string; readonly table: string },
): Ownership => {
  const settings = topology.tables.find(
    (candidate) => candidate.schema === table.schema && candidate.table === table.table,
  );
  return settings === undefined
    ? unowned
    : { ownerColumn: settings.owner, failover: settings.failover, conflict: settings.conflict };
};

/**
 * Whether a write of `writer` has the row's authority, that is, sets `cg_base` to its version (DESIGN 3): the owner
 * writes, judged by the old row on an update and by the new one on an insert, or the owner changes.
 * `oldOwner` undefined: an insert of a new key. `newOwner` undefined: a delete. null: nobody owns the row.
 */
export const hasAuthority = (
  writer: string,
  oldOwner: string | null | undefined,
  newOwner: string | null | undefined,
): boolean => {
  if (oldOwner === undefined) {
    return newOwner === writer;
  }
  const changesOwner = newOwner !== undefined && newOwner !== oldOwner;
  return oldOwner === writer || changesOwner;
};
