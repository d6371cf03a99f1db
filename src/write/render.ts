import { identifier } from "../postgres/identifiers.ts";
import type { CatalogColumn } from "./catalog.ts";

/**
 * PostgreSQL's text of a value as JSON, with every digit. bigint and numeric stand as strings, always: a client's
 * parser would round some of their numbers, and a column has one form. So do infinite and undefined floats, dates,
 * and all types that JSON has not.
 */
type Renderer = (text: string) => string;

const asIs: Renderer = (text) => text;
const asString: Renderer = (text) => JSON.stringify(text);
/** For types whose text needs no escape. */
const inQuotes: Renderer = (text) => `"${text}"`;
const asFloat: Renderer = (text) => (/^[-\d]/.test(text) && !text.startsWith("-I") ? text : `"${text}"`);
const asBoolean: Renderer = (text) => (text === "t" ? "true" : "false");
/** `2026-01-02 03:04:05.6+00` as ISO 8601; years before Christ and infinity as they are. */
const asTimestamp: Renderer = (text) => {
  if (text.charCodeAt(10) !== 32 || text.endsWith("C")) return `"${text}"`;
  const iso = `${text.slice(0, 10)}T${text.slice(11)}`;
  return iso.endsWith("+00") ? `"${iso}:00"` : `"${iso}"`;
};

const byType: Readonly<Record<string, Renderer>> = {
  int2: asIs,
  int4: asIs,
  oid: asIs,
  int8: inQuotes,
  numeric: inQuotes,
  float4: asFloat,
  float8: asFloat,
  bool: asBoolean,
  uuid: inQuotes,
  date: inQuotes,
  timestamp: asTimestamp,
  timestamptz: asTimestamp,
};

/** How a column's text is written, which `selected` has asked for. */
export const rendererOf = (column: CatalogColumn): Renderer =>
  column.shape === "scalar" ? (byType[column.type] ?? asString) : asIs;

const rounded: ReadonlySet<string> = new Set(["int8", "numeric"]);

/** What is selected of a column to be shown, quoted. `prefix` such as `t.`. */
export const selected = (column: CatalogColumn, prefix = ""): string => {
  const name = prefix + identifier(column.name);
  switch (column.shape) {
    case "array":
      return rounded.has(column.elementType) ? `to_json(${name}::text[])` : `to_json(${name})`;
    case "composite":
      return `to_json(${name})`;
    case "json":
    case "scalar":
      return name;
    default:
      return column.shape satisfies never;
  }
};

const jsonOid = 114;

/** The type that a result's column has which `selected` has asked for. Another: the column was altered since. */
export const selectedOid = (column: CatalogColumn): number =>
  column.shape === "array" || column.shape === "composite" ? jsonOid : column.typeOid;

/** A function from a row's texts, of which the first are these columns', to a JSON object's text. */
export const rowRenderer = (
  columns: readonly CatalogColumn[],
): ((texts: readonly (string | null)[]) => string) => {
  const parts = columns.map((column, at) => ({
    start: `${at === 0 ? "" : ","}${JSON.stringify(column.name)}:`,
    render: rendererOf(column),
  }));
  return (texts) => {
    let json = "{";
    for (const [at, { start, render }] of parts.entries()) {
      const text = texts[at];
      json += start + (text === null || text === undefined ? "null" : render(text));
    }
    return `${json}}`;
  };
};
