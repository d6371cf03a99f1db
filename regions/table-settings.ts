import { quote, type Field, type YamlReader } from "./yaml-reader.ts";

/** What an unreachable owner's rows are taken over with: its authority, or provisionally (its unseen writes win). */
export type Failover = "takeover" | "provisional";

/** How two conflicting states of a row are settled. `latest`: the higher (base, version) stays whole. */
export type ConflictPolicy = "latest";

/** Where writes go: to the row's owner, or to the nearest master, leaving the owner's right to the conflict rule. */
export type Route = "owner" | "nearest";

export interface TableSettings {
  /** `schema.table`, unquoted, as the catalog has it. */
  readonly name: string;
  readonly schema: string;
  readonly table: string;
  /** The column that names each row's owning region; null: rows have no owner. */
  readonly owner: string | null;
  readonly failover: Failover;
  readonly conflict: ConflictPolicy;
  readonly route: Route;
}

const part = String.raw`(?:"(?:[^"]|"")+"|[^".\s]+)`;
const qualifiedName = new RegExp(`^(${part})\\.(${part})$`);

const unquote = (name: string): string =>
  name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name;

/** Splits `schema.table`. Parts may be quoted as in SQL; unquoted ones keep their case, unlike in SQL. */
export const parseTableName = (text: string): { schema: string; table: string } | undefined => {
  const [, schema, table] = qualifiedName.exec(text) ?? [];
  return schema === undefined || table === undefined
    ? undefined
    : { schema: unquote(schema), table: unquote(table) };
};

/** The `tables:` list. Reports what is wrong; tables that are wrong are left out. */
export const readTables = (
  reader: YamlReader,
  field: Field | undefined,
  schemas: readonly string[],
): readonly TableSettings[] => {
  const tables: TableSettings[] = [];
  for (const item of reader.sequence(field) ?? []) {
    const fields = reader.mapping(item, {
      required: ["name"],
      optional: ["owner", "failover", "conflict", "route"],
    });
    const name = readName(reader, fields?.name, schemas);
    const owner = readOwner(reader, fields?.owner);
    const failover = reader.choice<Failover>(fields?.failover, ["takeover", "provisional"]);
    const route = reader.choice<Route>(fields?.route, ["owner", "nearest"]);
    readConflict(reader, fields?.conflict);
    for (const ofOwner of [fields?.failover, fields?.route]) {
      if (ofOwner !== undefined && fields?.owner === undefined) {
        reader.report(ofOwner, "has no meaning without an owner column: name one, or leave it out");
      }
    }
    if (fields?.name === undefined || name === undefined) {
      continue;
    }
    if (tables.some((other) => other.schema === name.schema && other.table === name.table)) {
      reader.report(fields.name, "is listed twice");
    }
    tables.push({
      ...name,
      name: `${name.schema}.${name.table}`,
      owner: owner ?? null,
      failover: failover ?? "takeover",
      conflict: "latest",
      route: route ?? "owner",
    });
  }
  return tables;
};

const readName = (
  reader: YamlReader,
  field: Field | undefined,
  schemas: readonly string[],
): { schema: string; table: string } | undefined => {
  const text = reader.text(field);
  if (field === undefined || text === undefined) {
    return undefined;
  }
  const name = parseTableName(text.value);
  if (name === undefined) {
    reader.report(field, 'must be schema.table, such as public.workouts (or "My schema"."My.table")');
    return undefined;
  }
  if (!schemas.includes(name.schema)) {
    // Of the text in the file: what a variable holds may be a secret.
    const schema = quote(parseTableName(text.shown)?.schema ?? text.shown);
    reader.report(field, `is in the schema ${schema}, which "schemas" does not list`);
    return undefined;
  }
  return name;
};

const readOwner = (reader: YamlReader, field: Field | undefined): string | undefined => {
  const text = reader.text(field);
  if (field !== undefined && text?.value.startsWith("cg_") === true) {
    reader.report(field, "cannot be one of Coregent's own columns (cg_...)");
    return undefined;
  }
  return text?.value;
};

const readConflict = (reader: YamlReader, field: Field | undefined): void => {
  const policy = reader.choice(field, ["latest", "merge"]);
  if (field !== undefined && policy === "merge") {
    reader.report(field, 'is "merge", which is not available yet: write latest, or leave it out');
  }
};
