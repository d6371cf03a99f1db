import { Problem } from "../problems.ts";
import { identifier, list, qualified } from "../postgres/identifiers.ts";
import { type CatalogColumn, type CatalogTable, findColumn } from "./catalog.ts";
import type {
  DeleteOperation,
  JsonValue,
  Key,
  Returning,
  RowValues,
  UpdateOperation,
  UpsertOperation,
  VersionMatch,
} from "./operation.ts";
import { rowRenderer, selected, selectedOid } from "./render.ts";
import { arrayOf, checkedText, parameterOf } from "./value-text.ts";

/**
 * Operations as SQL: pure text, and the values beside it. Every name in the text was found in the catalog, every value is
 * bound and cast to its column's type. Filters and pages are in select-statements.ts.
 */
export interface Statement {
  readonly text: string;
  readonly values: readonly (string | null)[];
  /** Worth a prepared statement: its text does not come from a caller's filters. */
  readonly reusable: boolean;
  readonly shape: Shape;
}

/** Where a result row's texts are. */
export interface Shape {
  /** null: no rows are wanted. */
  readonly render: ((texts: readonly (string | null)[]) => string) | null;
  /** The types of the columns shown, which come first. Others: the catalog is out of date. */
  readonly types: readonly number[];
  readonly key: readonly number[];
  readonly version: number;
  /** -1 where the table has no owners. */
  readonly base: number;
  /** Of an upsert: `t` where it made the row; else -1. */
  readonly created: number;
  /** Of an insert: `t` where the key had a tombstone, so that a trigger has stamped the row once more; else -1. */
  readonly stampedAnew: number;
  /** Of a list: the values that it is ordered by. */
  readonly order: readonly number[];
}

/** Collects values; gives `$1::type` for each. */
export class Parameters {
  readonly values: (string | null)[] = [];

  bind(value: string | null, cast: string): string {
    return `$${this.values.push(value)}::${cast}`;
  }
}

export const relation = (table: CatalogTable): string => qualified(table.schema, table.table);

const columnsShown = (table: CatalogTable, returning: Returning): readonly CatalogColumn[] =>
  returning === null
    ? [...table.columns.values()]
    : [...new Set(returning)].map((name) => findColumn(table, name));

export interface SelectListOptions {
  readonly created?: string;
  readonly stampedAnew?: string;
  readonly order?: readonly CatalogColumn[];
}

/** What a statement on `t` selects or returns: the columns shown, then what is missing of key, version and the rest. */
export const selectList = (
  table: CatalogTable,
  returning: Returning,
  options: SelectListOptions = {},
): { readonly text: string; readonly shape: Shape } => {
  const shown = columnsShown(table, returning);
  const items = shown.map((column) => selected(column, "t."));
  const raw = (column: CatalogColumn): number => {
    const at = column.shape === "scalar" ? shown.indexOf(column) : -1;
    return at >= 0 ? at : items.push(`t.${identifier(column.name)}`) - 1;
  };
  const extra = (expression: string | undefined): number =>
    expression === undefined ? -1 : items.push(expression) - 1;
  const shape: Shape = {
    render: returning?.length === 0 ? null : rowRenderer(shown),
    types: shown.map(selectedOid),
    key: table.key.map(raw),
    order: (options.order ?? []).map(raw),
    version: extra("t.cg_version"),
    base: extra(table.ownerColumn === null ? undefined : "t.cg_base"),
    created: extra(options.created),
    stampedAnew: extra(options.stampedAnew),
  };
  return { text: items.join(", "), shape };
};

/** @throws Problem `parameter-invalid` where the key has another number of parts */
export const keyCondition = (table: CatalogTable, key: Key, parameters: Parameters): string => {
  if (key.length !== table.key.length) {
    const names = table.key.map(({ name }) => JSON.stringify(name)).join(", ");
    throw new Problem(
      "parameter-invalid",
      `the key of ${table.name} has ${table.key.length} part(s) (${names}), not ${key.length}`,
    );
  }
  return table.key
    .map((column, at) => {
      const value = checkedText(key[at] ?? "", "the key");
      return `t.${identifier(column.name)} = ${parameters.bind(value, column.baseCast)}`;
    })
    .join(" AND ");
};

const matchCondition = (table: CatalogTable, match: VersionMatch | null, parameters: Parameters): string => {
  if (match === null || match === "any") return "";
  const alternatives = match
    .filter(({ base }) => (base === null) === (table.ownerColumn === null))
    .map(({ version, base }) => {
      const ofVersion = `t.cg_version = ${parameters.bind(version.toString(), "bigint")}`;
      return base === null
        ? ofVersion
        : `${ofVersion} AND t.cg_base = ${parameters.bind(base.toString(), "bigint")}`;
    });
  return ` AND (${alternatives.length === 0 ? "false" : alternatives.join(" OR ")})`;
};

/** A row's values by column, checked: the columns exist and can be written. */
type Assignments = ReadonlyMap<CatalogColumn, JsonValue>;

const assignments = (table: CatalogTable, row: RowValues): Assignments => {
  const found = new Map<CatalogColumn, JsonValue>();
  for (const [name, value] of row) {
    const column = findColumn(table, name);
    if (!column.writable) {
      throw new Problem("column-not-writable", `PostgreSQL itself computes column ${JSON.stringify(name)}`, {
        column: name,
      });
    }
    found.set(column, value);
  }
  return found;
};

/** Rows that name the same columns: one statement writes them all. */
interface RowGroup {
  readonly named: ReadonlySet<CatalogColumn>;
  /** Those named, and the owner's. */
  readonly columns: readonly CatalogColumn[];
  readonly rows: Assignments[];
  /** Positions in the operation. */
  readonly positions: number[];
}

/** A new row belongs to the region that takes it, unless it names another or the table has a default. */
const ownerToFill = (table: CatalogTable, named: Assignments): CatalogColumn | null => {
  const column = table.ownerColumn === null ? undefined : table.columns.get(table.ownerColumn);
  const given = column === undefined || named.has(column) || column.default !== null || !column.writable;
  return given ? null : column;
};

const groupRows = (table: CatalogTable, rows: readonly RowValues[], region: string): RowGroup[] => {
  const groups = new Map<string, RowGroup>();
  for (const [position, row] of rows.entries()) {
    const named = assignments(table, row);
    const owner = ownerToFill(table, named);
    const values = owner === null ? named : new Map(named).set(owner, region);
    const columns = [...table.columns.values()].filter((column) => values.has(column));
    // `DEFAULT VALUES` makes one row.
    const alone = columns.length === 0 ? position : "";
    const id = JSON.stringify([alone, owner === null, ...columns.map(({ name }) => name)]);
    let group = groups.get(id);
    if (group === undefined) {
      group = { named: new Set(named.keys()), columns, rows: [], positions: [] };
      groups.set(id, group);
    }
    group.rows.push(values);
    group.positions.push(position);
  }
  return [...groups.values()];
};

const valueOf = (row: Assignments | undefined, column: CatalogColumn): string | null =>
  parameterOf(column, row?.get(column) ?? null);

/** `("a", "b") VALUES (...)`, or from one array for each column, so that the text does not depend on how many rows. */
const source = (group: RowGroup, parameters: Parameters): string => {
  const { columns, rows } = group;
  if (columns.length === 0) return "DEFAULT VALUES";
  const names = `(${list(columns.map(({ name }) => name))})`;
  if (rows.length === 1) {
    const values = columns.map((column) => parameters.bind(valueOf(rows[0], column), column.cast));
    return `${names} VALUES (${values.join(", ")})`;
  }
  const arrays = columns.map((column) =>
    parameters.bind(arrayOf(rows.map((row) => valueOf(row, column))), "text[]"),
  );
  const casts = columns.map((column, at) => `x.c${at}::${column.cast}`);
  const aliases = columns.map((_, at) => `c${at}`);
  return `${names} SELECT ${casts.join(", ")} FROM unnest(${arrays.join(", ")}) AS x(${aliases.join(", ")})`;
};

const hadTombstone = (table: CatalogTable): string => {
  const same = table.key.map(({ name }) => `d.${identifier(name)} = t.${identifier(name)}`).join(" AND ");
  return `EXISTS (SELECT FROM ${qualified("coregent", table.tombstone)} d WHERE ${same})`;
};

/** One statement for each set of columns that the rows name, and which rows each one writes. */
export interface RowsStatement extends Statement {
  readonly positions: readonly number[];
}

export interface RowsOptions {
  readonly returning: Returning;
  /** The region that takes the rows. */
  readonly region: string;
}

/** Inserts; a key that is there is a unique violation. */
export const insertStatements = (
  table: CatalogTable,
  rows: readonly RowValues[],
  { returning, region }: RowsOptions,
): RowsStatement[] =>
  groupRows(table, rows, region).map((group) => insert(table, group, { returning, onConflict: "" }));

const insert = (
  table: CatalogTable,
  group: RowGroup,
  options: { readonly returning: Returning; readonly onConflict: string },
): RowsStatement => {
  const parameters = new Parameters();
  const { text, shape } = selectList(table, options.returning, {
    created: "t.cg_prev = 0",
    stampedAnew: hadTombstone(table),
  });
  return {
    text: `INSERT INTO ${relation(table)} AS t ${source(group, parameters)}${options.onConflict} RETURNING ${text}`,
    values: parameters.values,
    reusable: true,
    shape,
    positions: group.positions,
  };
};

const keyNames = (table: CatalogTable): string => list(table.key.map(({ name }) => name));

/** Inserts, or replaces what is there. Not for `ifMatch`, whose row has to be there: see `replaceStatement`. */
export const upsertStatements = (
  table: CatalogTable,
  operation: UpsertOperation,
  { returning, region }: RowsOptions,
): RowsStatement[] =>
  groupRows(table, operation.rows, region).map((group) => {
    requireKey(table, group);
    const changes = setList(table, {
      replace: operation.replace,
      named: group.named,
      value: (column) => `excluded.${identifier(column.name)}`,
    });
    const onConflict =
      operation.ifNoneMatch === "any" ? "DO NOTHING" : `DO UPDATE SET ${changes || touch(table)}`;
    return insert(table, group, {
      returning,
      onConflict: ` ON CONFLICT (${keyNames(table)}) ${onConflict}`,
    });
  });

const requireKey = (table: CatalogTable, group: RowGroup): void => {
  for (const column of table.key) {
    if (!group.columns.includes(column)) {
      throw new Problem("body-invalid", `a row to be upserted needs its key: ${JSON.stringify(column.name)}`);
    }
  }
};

const touch = (table: CatalogTable): string =>
  table.key.map(({ name }) => `${identifier(name)} = excluded.${identifier(name)}`).join(", ");

interface Changes {
  /** Columns that are not named go back to their defaults, but for key and owner. */
  readonly replace: boolean;
  readonly named: ReadonlySet<CatalogColumn>;
  readonly value: (column: CatalogColumn) => string;
}

const setList = (table: CatalogTable, { replace, named, value }: Changes): string => {
  const changes: string[] = [];
  for (const column of table.columns.values()) {
    if (table.key.includes(column) || !column.writable) continue;
    if (named.has(column)) changes.push(`${identifier(column.name)} = ${value(column)}`);
    else if (replace && column.name !== table.ownerColumn)
      changes.push(`${identifier(column.name)} = DEFAULT`);
  }
  return changes.join(", ");
};

/** PUT with `If-Match`: all columns of a row that has to be there. */
export const replaceStatement = (table: CatalogTable, operation: UpsertOperation): Statement => {
  const values = assignments(table, operation.rows[0] ?? new Map<string, JsonValue>());
  const parameters = new Parameters();
  const key = table.key.map((column) => valueOf(values, column) ?? "");
  const changes = setList(table, {
    replace: operation.replace,
    named: new Set(values.keys()),
    value: (column) => parameters.bind(valueOf(values, column), column.cast),
  });
  const unchanged = table.key.map(({ name }) => `${identifier(name)} = t.${identifier(name)}`).join(", ");
  return updateWith(table, operation, { parameters, key, changes: changes || unchanged, movesKey: false });
};

/** @throws Problem `body-invalid` where nothing is to be changed */
export const updateStatement = (table: CatalogTable, operation: UpdateOperation): Statement => {
  const values = assignments(table, operation.values);
  if (values.size === 0) throw new Problem("body-invalid", "no column is named: nothing is to be changed");
  const parameters = new Parameters();
  const changes = [...values]
    .map(
      ([column, value]) =>
        `${identifier(column.name)} = ${parameters.bind(parameterOf(column, value), column.cast)}`,
    )
    .join(", ");
  const movesKey = table.key.some((column) => values.has(column));
  return updateWith(table, operation, { parameters, key: operation.key, changes, movesKey });
};

const updateWith = (
  table: CatalogTable,
  operation: { readonly ifMatch: VersionMatch | null; readonly returning: Returning },
  parts: {
    readonly parameters: Parameters;
    readonly key: Key;
    readonly changes: string;
    /** A new key may have a tombstone. */
    readonly movesKey: boolean;
  },
): Statement => {
  const { parameters } = parts;
  const condition = keyCondition(table, parts.key, parameters);
  const match = matchCondition(table, operation.ifMatch, parameters);
  const { text, shape } = selectList(
    table,
    operation.returning,
    parts.movesKey ? { stampedAnew: hadTombstone(table) } : {},
  );
  return {
    text: `UPDATE ${relation(table)} AS t SET ${parts.changes} WHERE ${condition}${match} RETURNING ${text}`,
    values: parameters.values,
    reusable: true,
    shape,
  };
};

export const deleteStatement = (table: CatalogTable, operation: DeleteOperation): Statement => {
  const parameters = new Parameters();
  const condition = keyCondition(table, operation.key, parameters);
  const match = matchCondition(table, operation.ifMatch, parameters);
  const { text, shape } = selectList(table, operation.returning);
  return {
    text: `DELETE FROM ${relation(table)} AS t WHERE ${condition}${match} RETURNING ${text}`,
    values: parameters.values,
    reusable: true,
    shape,
  };
};

/** A row as it stands: key, version and the columns wanted. */
export const rowStatement = (table: CatalogTable, key: Key, columns: Returning): Statement =>
  selectByKey(table, key, { from: relation(table), columns });

/** A deleted row's tombstone: key and version. */
export const tombstoneStatement = (table: CatalogTable, key: Key): Statement =>
  selectByKey(table, key, { from: qualified("coregent", table.tombstone), columns: [] });

const selectByKey = (
  table: CatalogTable,
  key: Key,
  { from, columns }: { readonly from: string; readonly columns: Returning },
): Statement => {
  const parameters = new Parameters();
  const condition = keyCondition(table, key, parameters);
  const { text, shape } = selectList(table, columns);
  return {
    text: `SELECT ${text} FROM ${from} AS t WHERE ${condition}`,
    values: parameters.values,
    reusable: true,
    shape,
  };
};

/** The region that owns a row, as one text; no row where the key is not there. For tables with owners. */
export const ownerStatement = (
  table: CatalogTable,
  key: Key,
): { readonly text: string; readonly values: readonly (string | null)[] } => {
  const parameters = new Parameters();
  const condition = keyCondition(table, key, parameters);
  return {
    text: `SELECT t.${identifier(table.ownerColumn ?? "")}::text AS owner FROM ${relation(table)} AS t WHERE ${condition}`,
    values: parameters.values,
  };
};
