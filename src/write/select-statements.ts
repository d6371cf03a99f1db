import { createHash } from "node:crypto";
import { Problem } from "../problems.ts";
import { identifier } from "../postgres/identifiers.ts";
import { type CatalogColumn, type CatalogTable, findColumn } from "./catalog.ts";
import type { Comparison, Filter, Order, SelectOperation } from "./operation.ts";
import { Parameters, relation, selectList, type Statement } from "./statements.ts";
import { arrayOf, checkedText } from "./value-text.ts";

/** Lists of rows: filters, order, and pages that go on after a row (keyset) or a number of rows (offset). */

const operators: Readonly<Record<Exclude<Comparison, "in" | "is">, string>> = {
  eq: "=",
  neq: "<>",
  gt: ">",
  gte: ">=",
  lt: "<",
  lte: "<=",
  like: "LIKE",
  ilike: "ILIKE",
};

const truths: Readonly<Record<string, string>> = {
  null: "NULL",
  not_null: "NOT NULL",
  true: "TRUE",
  false: "FALSE",
  unknown: "UNKNOWN",
};

const wrong = (parameter: string, detail: string): Problem =>
  new Problem("parameter-invalid", `${JSON.stringify(parameter)} ${detail}`);

const comparison = (column: CatalogColumn, filter: Filter, parameters: Parameters): string => {
  const name = `t.${identifier(column.name)}`;
  const [value = ""] = filter.values;
  switch (filter.comparison) {
    case "is": {
      const truth = truths[value.toLowerCase()];
      if (truth === undefined) throw wrong(column.name, "is.: takes null, not_null, true, false or unknown");
      return `${name} IS ${truth}`;
    }
    case "in": {
      if (column.shape !== "scalar") throw wrong(column.name, "in.: is for columns with one value");
      const values = filter.values.map((text) => checkedText(text, "a filter"));
      return `${name} = ANY (${parameters.bind(arrayOf(values), `${column.baseCast}[]`)})`;
    }
    case "like":
    case "ilike": {
      const pattern = checkedText(value, "a filter").replaceAll("*", "%");
      return `${name}::text ${operators[filter.comparison]} ${parameters.bind(pattern, "text")}`;
    }
    case "eq":
    case "neq":
    case "gt":
    case "gte":
    case "lt":
    case "lte": {
      const bound = parameters.bind(checkedText(value, "a filter"), column.baseCast);
      return `${name} ${operators[filter.comparison]} ${bound}`;
    }
    default:
      return filter.comparison satisfies never;
  }
};

const conditions = (table: CatalogTable, filters: readonly Filter[], parameters: Parameters): string[] =>
  filters.map((filter) => {
    const condition = comparison(findColumn(table, filter.column), filter, parameters);
    return filter.negated ? `NOT (${condition})` : condition;
  });

const where = (conditions: readonly string[]): string =>
  conditions.length === 0 ? "" : ` WHERE ${conditions.join(" AND ")}`;

/** One column of a total order: what was asked for, then what is missing of the key. */
interface Rank {
  readonly column: CatalogColumn;
  readonly descending: boolean;
  readonly nullsFirst: boolean;
}

const ranks = (table: CatalogTable, order: readonly Order[]): readonly Rank[] => {
  const found = new Map<CatalogColumn, Rank>();
  for (const { column: name, descending, nullsFirst } of order) {
    const column = findColumn(table, name);
    if (!found.has(column)) {
      found.set(column, { column, descending, nullsFirst: nullsFirst ?? descending });
    }
  }
  for (const column of table.key) {
    if (!found.has(column)) found.set(column, { column, descending: false, nullsFirst: false });
  }
  return [...found.values()];
};

const orderBy = (order: readonly Rank[]): string =>
  order
    .map(({ column, descending, nullsFirst }) => {
      // Only where it is not PostgreSQL's own, so that an index serves.
      const nulls = nullsFirst === descending ? "" : nullsFirst ? " NULLS FIRST" : " NULLS LAST";
      return `t.${identifier(column.name)}${descending ? " DESC" : ""}${nulls}`;
    })
    .join(", ");

const maxCursorLength = 4_000;

const signature = (table: CatalogTable, order: readonly Rank[]): string => {
  const terms = order.map(({ column, descending, nullsFirst }) => [column.name, descending, nullsFirst]);
  return createHash("sha256")
    .update(JSON.stringify([table.name, terms]))
    .digest("base64url")
    .slice(0, 8);
};

/** @throws Problem `parameter-invalid` where a value is too long to be handed out */
const cursorAfter = (
  table: CatalogTable,
  order: readonly Rank[],
  values: readonly (string | null)[],
): string => {
  const text = JSON.stringify([signature(table, order), values]);
  const cursor = Buffer.from(text, "utf8").toString("base64url");
  if (cursor.length > maxCursorLength) {
    throw wrong(
      "order",
      "names a column whose values are too long for a cursor; order by another, or use offset",
    );
  }
  return cursor;
};

const cursorValues = (
  table: CatalogTable,
  order: readonly Rank[],
  cursor: string,
): readonly (string | null)[] => {
  const values = cursor.length > maxCursorLength ? null : parsedCursor(cursor, signature(table, order));
  if (values === null || values.length !== order.length) {
    throw wrong("after", "is no cursor of an answer with the same table and order");
  }
  return values.map((value) => (value === null ? null : checkedText(value, "the cursor")));
};

const parsedCursor = (cursor: string, wanted: string): (string | null)[] | null => {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(cursor, "base64url").toString("utf8"));
  } catch {
    return null;
  }
  if (!Array.isArray(parsed)) return null;
  const [found, values] = parsed as unknown[];
  const texts = (list: unknown): list is (string | null)[] =>
    Array.isArray(list) && list.every((item) => item === null || typeof item === "string");
  return found === wanted && texts(values) ? values : null;
};

/** Rows that stand behind `values` in the order. */
const behind = (
  order: readonly Rank[],
  values: readonly (string | null)[],
  parameters: Parameters,
): string => {
  const one = order[0]?.descending ?? false;
  const names = order.map(({ column }) => `t.${identifier(column.name)}`);
  if (order.every(({ column, descending }) => column.notNull && descending === one)) {
    const bound = order.map(({ column }, at) => parameters.bind(values[at] ?? null, column.baseCast));
    return `(${names.join(", ")}) ${one ? "<" : ">"} (${bound.join(", ")})`;
  }
  const same: string[] = [];
  const alternatives: string[] = [];
  for (const [at, rank] of order.entries()) {
    const [name = "", value = null] = [names[at], values[at]];
    // NULL is written out: a value that is bound and not used has no type.
    const bound = value === null ? "NULL" : parameters.bind(value, rank.column.baseCast);
    const later = laterThan(rank, value, { name, bound });
    if (later !== null) alternatives.push(`(${[...same, later].join(" AND ")})`);
    same.push(value === null ? `${name} IS NULL` : `${name} = ${bound}`);
  }
  return `(${alternatives.length === 0 ? "false" : alternatives.join(" OR ")})`;
};

const laterThan = (
  { column, descending, nullsFirst }: Rank,
  value: string | null,
  { name, bound }: { readonly name: string; readonly bound: string },
): string | null => {
  if (value === null) return nullsFirst ? `${name} IS NOT NULL` : null;
  const later = `${name} ${descending ? "<" : ">"} ${bound}`;
  return nullsFirst || column.notNull ? later : `(${later} OR ${name} IS NULL)`;
};

export interface PageStatement extends Statement {
  /** Points behind the row with these values; they stand in a result row where `shape.order` says. */
  readonly cursorAfter: (values: readonly (string | null)[]) => string;
}

/** One page, and one row more, which tells whether the rows go on. */
export const pageStatement = (table: CatalogTable, operation: SelectOperation): PageStatement => {
  const parameters = new Parameters();
  const order = ranks(table, operation.order);
  const { text, shape } = selectList(table, operation.columns, {
    order: order.map(({ column }) => column),
  });
  const all = conditions(table, operation.filters, parameters);
  if (operation.after !== null) {
    all.push(behind(order, cursorValues(table, order, operation.after), parameters));
  }
  const limit = parameters.bind(String(operation.limit + 1), "bigint");
  const offset =
    operation.offset === 0 ? "" : ` OFFSET ${parameters.bind(String(operation.offset), "bigint")}`;
  return {
    text: `SELECT ${text} FROM ${relation(table)} AS t${where(all)} ORDER BY ${orderBy(order)} LIMIT ${limit}${offset}`,
    values: parameters.values,
    reusable: false,
    shape,
    cursorAfter: (values) => cursorAfter(table, order, values),
  };
};

/** How many rows pass the filters, as one text. */
export const countStatement = (
  table: CatalogTable,
  filters: readonly Filter[],
): { readonly text: string; readonly values: readonly (string | null)[] } => {
  const parameters = new Parameters();
  const condition = where(conditions(table, filters, parameters));
  return {
    text: `SELECT count(*)::text AS count FROM ${relation(table)} AS t${condition}`,
    values: parameters.values,
  };
};
