import { Problem } from "../problems.ts";
import { identifier, qualified } from "../postgres/identifiers.ts";
import { remembered } from "../remembered.ts";
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
import { checkedText, parameterOf } from "./value-text.ts";

/**
 * Operations as SQL: pure text, and the values beside it. Every name in the text was found in the catalog, every value is
 * bound and cast to its column's type. Several rows are in row-statements.ts, filters and pages in select-statements.ts.
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

export interface SelectList {
  readonly text: string;
  readonly shape: Shape;
}

const wholeListsOf = remembered((_table: CatalogTable) => new Map<string, SelectList>());

/** What a statement on `t` selects or returns: the columns shown, then what is missing of key, version and the rest. */
export const selectList = (
  table: CatalogTable,
  returning: Returning,
  options: SelectListOptions = {},
): SelectList => {
  const usual = (returning === null || returning.length === 0) && options.order === undefined;
  if (!usual) return newSelectList(table, returning, options);
  // The same for most requests, and as long as the table is.
  const lists = wholeListsOf(table);
  const id = `${returning === null} ${options.created} ${options.stampedAnew}`;
  const list = lists.get(id) ?? newSelectList(table, returning, options);
  lists.set(id, list);
  return list;
};

const newSelectList = (table: CatalogTable, returning: Returning, options: SelectListOptions): SelectList => {
  const shown = columnsShown(table, returning);
  const items = shown.map((column) => selected(column, "t."));
  const raw = (column: CatalogColumn): number => {
    const item = `t.${identifier(column.name)}`;
    const at = items.indexOf(item);
    return at >= 0 ? at : items.push(item) - 1;
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
export type Assignments = ReadonlyMap<CatalogColumn, JsonValue>;

/** @throws Problem `column-unknown`, `column-not-writable` */
export const assignments = (table: CatalogTable, row: RowValues): Assignments => {
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

/** The parameter for a column; NULL where the row does not name it. */
export const valueOf = (row: Assignments | undefined, column: CatalogColumn): string | null =>
  parameterOf(column, row?.get(column) ?? null);

/** Whether the key of a row that was written has a tombstone. */
export const hadTombstone = (table: CatalogTable): string => {
  const same = table.key.map(({ name }) => `d.${identifier(name)} = t.${identifier(name)}`).join(" AND ");
  return `EXISTS (SELECT FROM ${qualified("coregent", table.tombstone)} d WHERE ${same})`;
};

interface Changes {
  /** Columns that are not named go back to their defaults, but for key and owner. */
  readonly replace: boolean;
  readonly named: ReadonlySet<CatalogColumn>;
  readonly value: (column: CatalogColumn) => string;
}

/** `"a" = ..., "b" = DEFAULT`; empty where nothing is to be set. */
export const setList = (table: CatalogTable, { replace, named, value }: Changes): string => {
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
