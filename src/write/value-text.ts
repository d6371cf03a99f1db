import { Problem } from "../problems.ts";
import type { CatalogColumn } from "./catalog.ts";
import { isRawNumber } from "./exact-json.ts";
import type { JsonValue } from "./operation.ts";

/**
 * JSON values as the text that PostgreSQL's input functions take: nothing is rounded on the way, and the column's type
 * decides what is right.
 */

const isList = (value: JsonValue): value is readonly JsonValue[] => Array.isArray(value);

/**
 * A column's parameter; null is SQL's NULL, also for json.
 * @throws Problem `value-invalid`
 */
export const parameterOf = (column: CatalogColumn, value: JsonValue): string | null => {
  if (value === null) return null;
  if (column.shape === "json") return jsonText(column, value);
  if (column.shape === "array" && isList(value)) return arrayText(column, value);
  return scalarText(column, value);
};

const wrong = (column: CatalogColumn, detail: string): Problem =>
  new Problem("value-invalid", `column ${JSON.stringify(column.name)}: ${detail}`, { column: column.name });

/** @throws Problem `value-invalid` for what PostgreSQL's text cannot hold */
export const checkedText = (text: string, what: string): string => {
  if (!text.isWellFormed()) {
    throw new Problem("value-invalid", `${what} holds half of a surrogate pair`);
  }
  if (text.includes("\0")) throw new Problem("value-invalid", `${what} holds the character NUL`);
  return text;
};

const scalarText = (column: CatalogColumn, value: JsonValue): string => {
  if (typeof value === "string") return checkedText(value, `column ${JSON.stringify(column.name)}`);
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (isRawNumber(value)) return value.rawJSON;
  throw wrong(column, `takes a text or a number, not ${isList(value) ? "a list" : "an object"}`);
};

// Within JSON, PostgreSQL itself refuses \u0000 (jsonb) and half a pair.
const jsonText = (column: CatalogColumn, value: JsonValue): string => {
  try {
    return JSON.stringify(value);
  } catch (error) {
    throw wrong(column, error instanceof Error ? error.message : "is no JSON");
  }
};

/** `{"a","b",NULL}`, nested as the list is. */
const arrayText = (column: CatalogColumn, list: readonly JsonValue[]): string =>
  `{${list.map((item) => elementText(column, item)).join(",")}}`;

const elementText = (column: CatalogColumn, item: JsonValue): string => {
  if (item === null) return "NULL";
  const ofJson = column.elementType === "json" || column.elementType === "jsonb";
  if (!ofJson && isList(item)) return arrayText(column, item);
  return arrayElement(ofJson ? jsonText(column, item) : scalarText(column, item));
};

/** One element of an array's text, quoted. */
export const arrayElement = (text: string): string =>
  `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;

/** Values as an array's text, for `= ANY ($1::type[])` and unnest. */
export const arrayOf = (values: readonly (string | null)[]): string =>
  `{${values.map((value) => (value === null ? "NULL" : arrayElement(value))).join(",")}}`;
