import type { ClientBase } from "pg";
import type { Column, ReplicatedTable } from "../postgres/table.ts";
import { layoutOf, shapeOf, type Layout, type Shape } from "./layout.ts";
import type { StateFormat } from "./states.ts";

/** A relation as the source describes it before its first change, and again after it was altered. */
export interface SourceRelation {
  readonly schema: string;
  readonly name: string;
  /** pg_class.relreplident; with `f` old tuples are whole. */
  readonly replicaIdentity: string;
  readonly columns: readonly SourceColumn[];
}

export interface SourceColumn {
  readonly name: string;
  readonly typeOid: number;
  /** Part of the replica identity: present in old tuples. */
  readonly identity: boolean;
}

/** How tuples of a source relation become states of a local one. */
export interface Mapping {
  readonly fits: true;
  readonly layout: Layout;
  /** For each column of the layout its position in the source's tuples, -1 for none. */
  readonly positions: Int32Array;
  /** For each column of the source its position in the layout. */
  readonly targets: Int32Array;
  readonly version: number;
  /** The shape of a state whose tuple is whole. */
  readonly whole: Shape;
  /** Positions in old tuples that hold values. */
  readonly identity: readonly number[];
  shape(unchanged: readonly number[]): Shape;
}

export interface Misfit {
  readonly fits: false;
  /** Table name, or the relation's where the table is not known here. */
  readonly table: string;
  readonly reason: string;
}

/** `schema.name` of a type by its OID at the source. Only types that are not built in are described there. */
export type SourceTypes = ReadonlyMap<number, string>;
/** `schema.name` of the base type of each local domain, by the domain's OID: see `readDomains`. */
export type Domains = ReadonlyMap<number, string>;

/** Types below are built in: same OID, same type, on every server. */
const firstOtherOid = 10_000;

/**
 * Source relations find their local table by name. A relation fits if every column of the source exists here with the
 * same type, by the type's schema and name, as its OID may differ. Lengths and precisions may differ: what is too
 * long is found on merge.
 *
 * A column that exists here only keeps its value on merge, and takes its default in a row that is new here. A column
 * that exists at the source only would be lost, so such a relation does not fit, until the column is here too.
 */
export class RelationMapper {
  readonly #rows = new Map<string, ReplicatedTable>();
  readonly #tombstones = new Map<string, ReplicatedTable>();
  readonly #domains: Domains;
  readonly #format: StateFormat;
  /** One layout per relation, however often the source describes it: states of a batch are grouped by it. */
  readonly #layouts = new Map<string, Layout>();

  constructor(
    tables: readonly ReplicatedTable[],
    options: { readonly domains: Domains; readonly format: StateFormat },
  ) {
    for (const table of tables) {
      this.#rows.set(JSON.stringify([table.schema, table.table]), table);
      this.#tombstones.set(JSON.stringify(["coregent", table.tombstone]), table);
    }
    this.#domains = options.domains;
    this.#format = options.format;
  }

  map(relation: SourceRelation, types: SourceTypes): Mapping | Misfit {
    const name = JSON.stringify([relation.schema, relation.name]);
    const ofRows = this.#rows.get(name);
    const table = ofRows ?? this.#tombstones.get(name);
    if (table === undefined) {
      return misfit(`${relation.schema}.${relation.name}`, "there is no such replicated table here");
    }
    const known = this.#layouts.get(name);
    const layout = known ?? layoutOf(table, ofRows === undefined ? "tombstone" : "row", this.#format);
    this.#layouts.set(name, layout);
    const reason = this.#difference(layout, relation, types);
    return reason === null ? mapping(layout, relation) : misfit(table.name, reason);
  }

  #difference(layout: Layout, relation: SourceRelation, types: SourceTypes): string | null {
    const relationName = layout.kind === "row" ? "" : " of the tombstone relation";
    const here = new Map(layout.columns.map((column) => [column.name, column]));
    for (const theirs of relation.columns) {
      const ours = here.get(theirs.name);
      if (ours === undefined) {
        return `column "${theirs.name}"${relationName} is missing here`;
      }
      if (ours.generated) {
        return `column "${theirs.name}"${relationName} is generated here and not at the source`;
      }
      if (!this.#sameType(ours, theirs, types)) {
        const type = types.get(theirs.typeOid) ?? `type ${theirs.typeOid}`;
        return `column "${theirs.name}"${relationName} has type ${ours.type} here and ${type} at the source`;
      }
    }
    const there = new Set(relation.columns.map((column) => column.name));
    const needed = [layout.version, layout.prev, layout.seen, layout.base, ...layout.key];
    const lacking = needed.find((position) => position >= 0 && !there.has(layout.columns[position]!.name));
    return lacking === undefined
      ? null
      : `column "${layout.columns[lacking]!.name}"${relationName} is missing at the source`;
  }

  #sameType(ours: Column, theirs: SourceColumn, types: SourceTypes): boolean {
    if (theirs.typeOid < firstOtherOid) {
      return ours.typeOid === theirs.typeOid;
    }
    // The source describes a domain by the name of its base type.
    const name = types.get(theirs.typeOid);
    return name === (this.#domains.get(ours.typeOid) ?? `${ours.typeSchema}.${ours.typeName}`);
  }
}

const misfit = (table: string, reason: string): Misfit => ({ fits: false, table, reason });

const mapping = (layout: Layout, relation: SourceRelation): Mapping => {
  const there = new Map(relation.columns.map((column, position) => [column.name, position]));
  const here = new Map(layout.columns.map((column, position) => [column.name, position]));
  const positions = Int32Array.from(layout.columns, (column) => there.get(column.name) ?? -1);
  const absent = [...layout.columns.keys()].filter(
    (i) => positions[i] === -1 && !layout.columns[i]!.generated,
  );
  const shapes = new Map<string, Shape>();
  return {
    fits: true,
    layout,
    positions,
    targets: Int32Array.from(relation.columns, (column) => here.get(column.name)!),
    version: there.get("cg_version")!,
    whole: shapeOf(layout, absent, []),
    identity: [...relation.columns.keys()].filter(
      (i) => relation.replicaIdentity === "f" || relation.columns[i]!.identity,
    ),
    shape: (unchanged) => {
      const id = unchanged.join();
      let shape = shapes.get(id);
      if (shape === undefined) {
        shape = shapeOf(layout, absent, unchanged);
        shapes.set(id, shape);
      }
      return shape;
    },
  };
};

/** Base types of the domains of the session's database, domains over domains included. */
export const readDomains = async (client: ClientBase): Promise<Domains> => {
  const { rows } = await client.query<{ oid: string; base: string }>(
    `WITH RECURSIVE base AS (
       SELECT oid AS domain, typbasetype AS type FROM pg_type WHERE typtype = 'd'
       UNION ALL
       SELECT b.domain, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd')
     SELECT b.domain::text AS oid, n.nspname || '.' || t.typname AS base
       FROM base b
       JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
       JOIN pg_namespace n ON n.oid = t.typnamespace`,
  );
  return new Map(rows.map((row) => [Number(row.oid), row.base]));
};
