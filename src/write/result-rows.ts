import type { ClientBase, FieldDef } from "pg";
import type { Catalog, CatalogTable } from "./catalog.ts";
import type { Key, OperationResult, RowVersion } from "./operation.ts";
import { preparedFields, queryPrepared } from "./prepared-query.ts";
import { preparedName } from "./prepared-names.ts";
import { StaleCatalog } from "./sql-problems.ts";
import type { Shape } from "./statements.ts";

/** A result row as PostgreSQL wrote it: no parser of the driver's rounds anything. */
export type Texts = readonly (string | null)[];

/** @throws StaleCatalog where a result's columns have other types than the catalog says */
export const mustBeAsKnown = (shape: Shape, fields: readonly FieldDef[]): void => {
  if (!isAsKnown(shape, fields)) throw new StaleCatalog();
};

const isAsKnown = ({ types }: Shape, fields: readonly FieldDef[]): boolean =>
  types.every((oid, at) => fields[at]?.dataTypeID === oid);

/** What one result row says. */
export interface Found {
  readonly row: string | null;
  readonly key: Key;
  readonly version: RowVersion;
  readonly created: boolean;
  readonly stampedAnew: boolean;
}

export const found = (shape: Shape, texts: Texts, restamped = false): Found => ({
  row: shape.render?.(texts) ?? null,
  key: shape.key.map((at) => texts[at] ?? ""),
  version: {
    version: BigInt(texts[shape.version] ?? 0),
    base: shape.base < 0 ? null : BigInt(texts[shape.base] ?? 0),
  },
  created: texts[shape.created] === "t",
  stampedAnew: restamped || texts[shape.stampedAnew] === "t",
});

export const resultOf = (table: CatalogTable, all: readonly Found[]): OperationResult => ({
  table: table.name,
  rows: all.map(({ row }) => row).filter((row) => row !== null),
  keys: all.map(({ key }) => key),
  versions: all.map(({ version }) => version),
  created: all.map(({ created }) => created),
  count: null,
  next: null,
});

/** A statement that stays prepared, of which only the values differ. */
export interface NamedStatement {
  readonly name: string;
  readonly text: string;
  readonly shape: Shape;
}

/** null: names are used up. */
export const named = (
  { text, shape }: { readonly text: string; readonly shape: Shape },
  catalog: Catalog,
): NamedStatement | null => {
  const name = preparedName(text, catalog);
  return name === undefined ? null : { name, text, shape };
};

/** In this session, and what it answers is what the catalog says. */
export const isPrepared = (client: ClientBase, { name, text, shape }: NamedStatement): boolean => {
  const fields = preparedFields(client, { name, text });
  return fields !== null && isAsKnown(shape, fields);
};

/** @throws StaleCatalog, or as `client.query` */
export const runNamed = async (
  client: ClientBase,
  { name, text, shape }: NamedStatement,
  values: readonly (string | null)[],
): Promise<readonly Texts[]> => {
  const { rows, fields } = await queryPrepared(client, { name, text, values });
  mustBeAsKnown(shape, fields);
  return rows;
};
