import { identifier, list } from "../postgres/identifiers.ts";
import { remembered } from "../remembered.ts";
import type { CatalogColumn, CatalogTable } from "./catalog.ts";
import type { Key, Returning } from "./operation.ts";
import { relation, selectList, type Shape } from "./statements.ts";
import { arrayOf } from "./value-text.ts";

/** Rows by key, of any number of keys: an array for each of the key's columns. */
export interface RowsByKeys {
  readonly text: string;
  readonly shape: Shape;
  /** Where a result row says to which key it belongs, from 1: keys may be written in several ways. */
  readonly ordinal: number;
  readonly values: (keys: readonly Key[]) => readonly string[];
}

const maxPlans = 100;
const plansOf = remembered((_table: CatalogTable) => new Map<string, RowsByKeys>());

/**
 * The same object for the same table and columns.
 * @returns null where that is not kept, since there are too many sets of columns already
 * @throws Problem `column-unknown`
 */
export const rowsByKeys = (table: CatalogTable, columns: Returning): RowsByKeys | null => {
  const known = plansOf(table);
  const id = columns === null ? "" : JSON.stringify(columns);
  const plan = known.get(id);
  if (plan !== undefined) return plan;
  if (known.size >= maxPlans) return null;
  const made = newPlan(table, columns);
  known.set(id, made);
  return made;
};

const newPlan = (table: CatalogTable, columns: Returning): RowsByKeys => {
  const { text, shape } = selectList(table, columns);
  const arrays = table.key.map((_, at) => `$${at + 1}::text[]`).join(", ");
  const names = table.key.map((_, at) => `c${at}`);
  const same = table.key.map(
    ({ name, baseCast }, at) => `t.${identifier(name)} = k.${names[at]}::${baseCast}`,
  );
  // One look into the index for each key, whatever is estimated: LIMIT keeps it from becoming a join of another kind.
  return {
    text:
      `SELECT x.* FROM unnest(${arrays}) WITH ORDINALITY AS k(${list([...names, "ord"])}) CROSS JOIN LATERAL ` +
      `(SELECT ${text}, k.ord FROM ${relation(table)} AS t WHERE ${same.join(" AND ")} LIMIT 1) AS x`,
    shape,
    ordinal: widthOf(shape),
    values: (keys) => table.key.map((_, at) => arrayOf(keys.map((key) => key[at] ?? ""))),
  };
};

const widthOf = ({ key, version, base, types }: Shape): number =>
  Math.max(types.length - 1, version, base, ...key) + 1;

const isText = (text: string): boolean => text.isWellFormed() && !text.includes("\0");
const looksLike =
  (form: RegExp) =>
  (text: string): boolean =>
    form.test(text);

/** How keys of these types usually stand in an address; one that does not is looked for by itself, since it may be none. */
const usual: Readonly<Record<string, (text: string) => boolean>> = {
  uuid: looksLike(/^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i),
  int2: looksLike(/^\d{1,4}$/),
  int4: looksLike(/^\d{1,9}$/),
  int8: looksLike(/^\d{1,18}$/),
  text: isText,
  varchar: isText,
  bpchar: isText,
};

const isUsual = ({ type }: CatalogColumn, value: string): boolean => usual[type]?.(value) === true;

/** Whether the key is one that PostgreSQL takes, as far as its text tells. */
export const isPlainKey = (table: CatalogTable, key: Key): boolean =>
  key.length === table.key.length && table.key.every((column, at) => isUsual(column, key[at] ?? ""));
