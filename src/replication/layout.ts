import { qualified } from "../postgres/identifiers.ts";
import type { Column, ReplicatedTable } from "../postgres/table.ts";
import { remembered } from "../remembered.ts";
import type { StateFormat, StateKind } from "./states.ts";

/** How states of one relation lie in memory: every column of the local relation, in attribute order. */
export interface Layout {
  readonly table: ReplicatedTable;
  readonly kind: StateKind;
  readonly format: StateFormat;
  /** The relation's row type, quoted. */
  readonly rowType: string;
  readonly columns: readonly Column[];
  /** Positions in `columns`. */
  readonly key: readonly number[];
  readonly version: number;
  readonly prev: number;
  readonly seen: number;
  /** -1 where the table has no owners. */
  readonly base: number;
}

const layoutsOf = remembered((_table: ReplicatedTable) => new Map<string, Layout>());

/** One and the same for a table as it was read. */
export const layoutOf = (table: ReplicatedTable, kind: StateKind, format: StateFormat): Layout => {
  const layouts = layoutsOf(table);
  const name = `${kind} ${format}`;
  const layout = layouts.get(name) ?? makeLayout(table, kind, format);
  layouts.set(name, layout);
  return layout;
};

const makeLayout = (table: ReplicatedTable, kind: StateKind, format: StateFormat): Layout => {
  const columns = kind === "row" ? table.columns : table.tombstoneColumns;
  const position = (name: string): number => {
    const at = columns.findIndex((column) => column.name === name);
    if (at < 0) {
      throw new Error(`${table.name}: its ${kind} relation has no column ${name}`);
    }
    return at;
  };
  return {
    table,
    kind,
    format,
    rowType: kind === "row" ? qualified(table.schema, table.table) : qualified("coregent", table.tombstone),
    columns,
    key: table.key.map(position),
    version: position("cg_version"),
    prev: position("cg_prev"),
    seen: position("cg_seen"),
    base: table.ownerColumn === null ? -1 : position("cg_base"),
  };
};

/** Which columns a state carries. States of one shape can be merged by one statement. */
export interface Shape {
  /** Equal for equal shapes of one layout. */
  readonly id: string;
  /** Positions of columns which the source does not have. */
  readonly absent: readonly number[];
  /** Positions of columns whose value the WAL did not hold, ascending. */
  readonly unchanged: readonly number[];
  /** One array for each shape of a layout: texts of statements are kept by it. */
  readonly carried: readonly Column[];
}

export const shapeOf = (layout: Layout, absent: readonly number[], unchanged: readonly number[]): Shape => ({
  id: `${absent.join()}/${unchanged.join()}`,
  absent,
  unchanged,
  carried: layout.columns.filter(
    (column, at) => !column.generated && !absent.includes(at) && !unchanged.includes(at),
  ),
});

/** Of states that carry every column. */
export const wholeShape = remembered((layout: Layout): Shape => shapeOf(layout, [], []));
