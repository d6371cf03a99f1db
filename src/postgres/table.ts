/** What the code knows of one replicated table, read from the catalog of one server (see catalog.ts). */
export interface ReplicatedTable {
  /** `schema.table`, unquoted: the table's identity in the cluster, the same in every region. */
  readonly name: string;
  readonly schema: string;
  readonly table: string;
  readonly partitioned: boolean;
  /** Every live column in attribute order, generated and `cg_` columns included: the layout of the row type. */
  readonly columns: readonly Column[];
  /** The primary key's columns, in key order. */
  readonly key: readonly string[];
  /** The column that names the owning region; null: the table has no owners and no `cg_base`. */
  readonly ownerColumn: string | null;
  readonly failover: "takeover" | "provisional";
  /** Name of its tombstone relation in schema `coregent`. */
  readonly tombstone: string;
  /** The tombstone relation's columns in attribute order: the key columns, then the `cg_` columns. */
  readonly tombstoneColumns: readonly Column[];
  /** False for the conflict log itself: a conflict between two of its entries is not a conflict. */
  readonly logsConflicts: boolean;
}

export interface Column {
  readonly name: string;
  readonly typeOid: number;
  /** `format_type(atttypid, atttypmod)`: usable in a cast. */
  readonly type: string;
  /** Schema and name of the type, which, unlike its OID, mean the same on every server. */
  readonly typeSchema: string;
  readonly typeName: string;
  readonly notNull: boolean;
  /** GENERATED ALWAYS AS (...): never written, each server computes it. */
  readonly generated: boolean;
}

/** The columns that Coregent adds to a replicated table; `cg_base` only where the table has an owner column. */
export const stateColumns = ["cg_base", "cg_version", "cg_prev", "cg_seen"] as const;
