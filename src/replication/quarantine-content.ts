import { sqlStateOf } from "../postgres/sqlstate.ts";
import { identifier } from "../postgres/identifiers.ts";
import type { Column } from "../postgres/table.ts";
import type { MergeSession } from "./merge-session.ts";
import { contentColumns, contentJson, keyText } from "./merge-sql.ts";
import type { StateSet } from "./states.ts";

export interface Description {
  /** JSON array of the key columns' text forms. */
  readonly key: string;
  /** JSON object column -> text form; null: a value cannot even be read here. */
  readonly content: string | null;
}

/**
 * What a single state that does not fit looks like, by the server itself, from the same bytes: as a row if it
 * can be read as one; else column by column, by the base types of domains; else nothing but the key's bytes.
 */
export const describeState = async (session: MergeSession, set: StateSet): Promise<Description> =>
  (await tryTo(session, () => describeWhole(session, set))) ?? (await describeByColumn(session, set));

/** Null where the values are at fault. */
const tryTo = async <T>(session: MergeSession, work: () => Promise<T>): Promise<T | null> => {
  try {
    return await session.savepoint(work);
  } catch (error) {
    if (sqlStateOf(error) === null) throw error;
    return null;
  }
};

const describeWhole = async (session: MergeSession, set: StateSet): Promise<Description> => {
  const { rows } = await session.query<{ key: string; content: string }>(
    `SELECT ${keyText(set.table, "x")} AS key, ${contentJson(set.columns, "x")} AS content FROM ${set.source(1)} AS x`,
    [set.value()],
  );
  const [row] = rows;
  if (row === undefined) throw new Error("a state set without a state");
  return row;
};

const describeByColumn = async (session: MergeSession, set: StateSet): Promise<Description> => {
  const texts = new Map<string, string | null | undefined>();
  const types = await readBaseTypes(session, set.columns);
  for (const column of contentColumns(set.columns)) {
    texts.set(column.name, await textOf(session, set, { column, type: types.get(column.typeOid) }));
  }
  const readable = [...texts.values()].every((text) => text !== undefined);
  const key = set.table.key.map((name) => texts.get(name) ?? set.field(0, name)?.toString("hex") ?? null);
  return { key: keyJson(key), content: readable ? JSON.stringify(Object.fromEntries(texts)) : null };
};

/** As the server writes a jsonb array of strings. */
const keyJson = (parts: readonly (string | null)[]): string =>
  `[${parts.map((part) => JSON.stringify(part)).join(", ")}]`;

interface TypedColumn {
  readonly column: Column;
  readonly type: string | undefined;
}

/** Undefined: not readable. */
const textOf = async (
  session: MergeSession,
  set: StateSet,
  { column, type }: TypedColumn,
): Promise<string | null | undefined> => {
  const field = set.field(0, column.name);
  if (field === null) return null;
  if (set.format === "text") return field.toString();
  if (type === undefined) return undefined;
  const read = await tryTo(session, async () => {
    const { rows } = await session.query<{ text: string }>(`SELECT ($1::${type})::text AS text`, [field]);
    return rows[0]?.text ?? null;
  });
  return read ?? undefined;
};

/** The type under a domain, by the column's type: its name, quoted. */
const readBaseTypes = async (
  session: MergeSession,
  columns: readonly Column[],
): Promise<ReadonlyMap<number, string>> => {
  const { rows } = await session.query<{ oid: number; schema: string; name: string }>(
    `WITH RECURSIVE base AS (
       SELECT oid AS column_type, typname, typnamespace, typtype, typbasetype FROM pg_type WHERE oid = ANY ($1::oid[])
       UNION ALL
       SELECT b.column_type, t.typname, t.typnamespace, t.typtype, t.typbasetype
         FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
     )
     SELECT column_type::bigint::float8 AS oid, n.nspname AS schema, typname AS name
       FROM base JOIN pg_namespace n ON n.oid = typnamespace WHERE typtype <> 'd'`,
    [columns.map((column) => column.typeOid)],
  );
  return new Map(rows.map((row) => [row.oid, `${identifier(row.schema)}.${identifier(row.name)}`]));
};
