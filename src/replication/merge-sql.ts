import { outranks } from "../../conflict/sql.ts";
import { identifier, literal, qualified } from "../postgres/identifiers.ts";
import { stateColumns, type Column, type ReplicatedTable } from "../postgres/table.ts";
import { remembered } from "../remembered.ts";
import type { StateKind } from "./states.ts";

/**
 * The text of every statement that merges, as pure functions. In all of them `x` is an incoming state, `cur` the one
 * held in the same relation, `d` a tombstone, `k` a key. Each gives counts and the *candidates*: states that lost
 * against one that had not seen them. Only those come back, whole; conflict-log.ts decides which are logged.
 */

/** Columns of every statement here that gives candidates; all text, so that no client type is involved. */
export interface CandidateRow {
  /** Null in the one row that stands for "no candidates", which carries the counts. */
  readonly key: string | null;
  readonly kind: StateKind;
  readonly version: string;
  readonly base: string;
  readonly prev: string;
  readonly seen: string[] | null;
  /** JSON object column -> text form; null for a tombstone. */
  readonly content: string | null;
}

/** Beside them: the highest version that was replaced by a lower one (of a higher base); null: none was. */
export interface FloorRow {
  readonly floor: string | null;
}

export const isOwned = (table: ReplicatedTable): boolean => table.ownerColumn !== null;

export const relationOf = (table: ReplicatedTable, kind: StateKind): string =>
  kind === "row" ? qualified(table.schema, table.table) : qualified("coregent", table.tombstone);

/** `a`.key = `b`.key */
export const sameKey = (table: ReplicatedTable, a: string, b: string): string =>
  table.key.map((name) => `${a}.${identifier(name)} = ${b}.${identifier(name)}`).join(" AND ");

/** The key as the conflict log and the quarantine name it: JSON array of text forms. */
export const keyText = (table: ReplicatedTable, alias: string): string =>
  `jsonb_build_array(${table.key.map((name) => `${alias}.${identifier(name)}::text`).join(", ")})::text`;

const stateColumnNames: readonly string[] = stateColumns;

/** What users see of a row, but for what each server computes by itself. */
export const contentColumns = (columns: readonly Column[]): readonly Column[] =>
  columns.filter((column) => !column.generated && !stateColumnNames.includes(column.name));

/** JSON object column -> text form. Two arrays: a function takes 100 arguments at most, a table has more columns. */
export const contentJson = (columns: readonly Column[], alias: string): string => {
  const own = contentColumns(columns);
  const names = own.map((column) => literal(column.name)).join(", ");
  const values = own.map((column) => `${alias}.${identifier(column.name)}::text`).join(", ");
  return `jsonb_object(ARRAY[${names}]::text[], ARRAY[${values}]::text[])::text`;
};

/** A whole candidate: the state at `alias`, with content if it is a row. An array, which a CASE can give. */
export const candidateOf = (
  table: ReplicatedTable,
  kind: StateKind,
  alias: string,
  columns: readonly Column[],
): string =>
  `ARRAY[${keyText(table, alias)}, ${literal(kind)}, ${alias}.cg_version::text, ` +
  `${isOwned(table) ? `${alias}.cg_base::text` : "'0'"}, ${alias}.cg_prev::text, ${alias}.cg_seen::text, ` +
  `${kind === "row" ? contentJson(columns, alias) : "NULL"}]::text[]`;

/** The array above as the columns of {@link CandidateRow}. */
export const spread = (lost: string): string =>
  `${lost}[1] AS key, ${lost}[2] AS kind, ${lost}[3] AS version, ${lost}[4] AS base, ${lost}[5] AS prev, ` +
  `${lost}[6]::bigint[]::text[] AS seen, ${lost}[7] AS content`;

/**
 * The lower state `loser` lost without having been seen by `winner`. The first comparison spares nearly every row the
 * rest: an ordinary write follows upon exactly what is held.
 */
export const unseen = (loser: string, winner: string): string =>
  `${winner}.cg_prev <> ${loser}.cg_version AND ` +
  `NOT coregent.succeeded(${loser}.cg_version, ${winner}.cg_version, ${winner}.cg_seen)`;

/** Of two rows: unseen, and not the same first content on both sides (rows that were there at install). */
const clash = (table: ReplicatedTable, set: Shape, loser: string, winner: string): string => {
  if (!table.logsConflicts) return "false";
  if (set.kind === "tombstone") return unseen(loser, winner);
  const own = contentColumns(set.columns).map((column) => identifier(column.name));
  const image = (alias: string): string => `ROW(${own.map((name) => `${alias}.${name}`).join(", ")})::record`;
  return (
    `${unseen(loser, winner)} AND NOT (${loser}.cg_prev = 0 AND ${winner}.cg_prev = 0 ` +
    `AND ${image(loser)} OPERATOR(pg_catalog.*=) ${image(winner)})`
  );
};

/** The floor of local stamps (`Write.above` in conflict/state.ts) where a state is replaced by one of a lower version. */
export const floorOf = (table: ReplicatedTable, loser: string, winner: string): string =>
  isOwned(table)
    ? `CASE WHEN ${loser}.cg_version > ${winner}.cg_version THEN ${loser}.cg_version END`
    : "NULL::bigint";

/** What the text of a statement depends on: sets of one shape share their statements. */
export interface Shape {
  readonly table: ReplicatedTable;
  readonly kind: StateKind;
  /** One array for all sets of a shape. */
  readonly columns: readonly Column[];
  source(parameter: number): string;
}

/** A statement's text is made once for each shape: for a batch of one row it would be the larger part of the work. */
export const once = (make: (set: Shape) => string): ((set: Shape) => string) =>
  remembered(make, ({ columns }) => columns);

const writable = (set: Shape): readonly string[] =>
  set.columns.filter((column) => !column.generated).map((column) => identifier(column.name));

const assigned = (set: Shape): readonly string[] =>
  set.columns
    .filter((column) => !column.generated && !set.table.key.includes(column.name))
    .map((column) => identifier(column.name));

/** `counts` and candidates in one answer: one row at least. */
export const withCandidates = (counts: string, candidates: string): string =>
  `SELECT counts.*, l.* FROM (${counts}) AS counts LEFT JOIN (${candidates}) AS l ON true`;

const localColumns = (set: Shape): readonly Column[] =>
  set.kind === "row" ? set.table.columns : set.table.tombstoneColumns;

/**
 * PostgreSQL 18: one statement merges whole states ($1) and sees what it replaced. `applied` counts inserts and
 * updates; the others met a state that is not lower.
 */
export const upsertSql = once((set) => {
  const { table } = set;
  const columns = writable(set);
  const conflict = clash(table, set, "o", "n");
  const candidate = candidateOf(table, set.kind, "o", localColumns(set));
  return `WITH merged AS (
  INSERT INTO ${relationOf(table, set.kind)} AS cur (${columns.join(", ")}) OVERRIDING SYSTEM VALUE
  SELECT ${columns.map((name) => `x.${name}`).join(", ")} FROM ${set.source(1)} AS x
  ON CONFLICT (${table.key.map(identifier).join(", ")}) DO UPDATE
    SET ${assigned(set)
      .map((name) => `${name} = excluded.${name}`)
      .join(", ")}
    WHERE ${outranks("excluded", "cur", isOwned(table))}
  RETURNING WITH (OLD AS o, NEW AS n)
    CASE WHEN o.cg_version IS NOT NULL AND ${conflict}
         THEN ${candidate} END AS lost,
    ${floorOf(table, "o", "n")} AS floor
)
${withCandidates(
  "SELECT count(*)::int AS applied, max(floor)::text AS floor FROM merged",
  `SELECT ${spread("lost")} FROM merged WHERE lost IS NOT NULL`,
)}`;
});

/**
 * Merges states ($1) that have seen the lower state which is held: no conflict, and cheaper than an upsert, since a row is
 * not locked before it is replaced. The others are left as they are. Nothing of what was replaced may be asked for: where
 * this waited for another writer, RETURNING OLD gives what was there before that one.
 */
export const replaceSql = once((set) => {
  const { table } = set;
  const seen = `(x.cg_prev = cur.cg_version OR coregent.succeeded(cur.cg_version, x.cg_version, x.cg_seen))`;
  // Where a higher version gives way to a higher base, the floor is to be raised.
  const order = isOwned(table) ? `${outranks("x", "cur", true)} AND ` : "";
  return `UPDATE ${relationOf(table, set.kind)} AS cur SET ${assigned(set)
    .map((name) => `${name} = x.${name}`)
    .join(", ")}
  FROM ${set.source(1)} AS x
 WHERE ${sameKey(table, "cur", "x")} AND ${order}x.cg_version > cur.cg_version AND ${seen}`;
});

/**
 * Before PostgreSQL 18: the held states are locked and read, those which were read to be lower are replaced, absent
 * ones inserted. Where `applied` and `kept` (held ones that are not lower) do not make up all, a key came or went in
 * between: again.
 */
export const lockAndReplaceSql = once((set) => {
  const { table } = set;
  const relation = relationOf(table, set.kind);
  const columns = writable(set);
  const conflict = clash(table, set, "cur", "x");
  const candidate = candidateOf(table, set.kind, "cur", localColumns(set));
  return `WITH held AS MATERIALIZED (
  SELECT ${columns.map((name) => `x.${name}`).join(", ")},
         ${outranks("x", "cur", isOwned(table))} AS cg_wins,
         CASE WHEN ${outranks("x", "cur", isOwned(table))} AND ${conflict}
              THEN ${candidate} END AS cg_lost,
         CASE WHEN x.cg_version < cur.cg_version THEN cur.cg_version END AS cg_floor
    FROM ${set.source(1)} AS x JOIN ${relation} AS cur ON ${sameKey(table, "cur", "x")}
     FOR UPDATE OF cur
), replaced AS (
  UPDATE ${relation} AS cur SET ${assigned(set)
    .map((name) => `${name} = h.${name}`)
    .join(", ")}
    FROM held AS h WHERE h.cg_wins AND ${sameKey(table, "cur", "h")}
  RETURNING 1
), inserted AS (
  INSERT INTO ${relation} (${columns.join(", ")}) OVERRIDING SYSTEM VALUE
  SELECT ${columns.map((name) => `x.${name}`).join(", ")} FROM ${set.source(1)} AS x
  ON CONFLICT (${table.key.map(identifier).join(", ")}) DO NOTHING
  RETURNING 1
)
${withCandidates(
  `SELECT (SELECT count(*) FROM replaced)::int AS replaced, (SELECT count(*) FROM inserted)::int AS inserted,
          (SELECT count(*) FROM held WHERE NOT cg_wins)::int AS kept,
          (SELECT max(cg_floor)::text FROM held WHERE cg_wins) AS floor`,
  `SELECT ${spread("cg_lost")} FROM held WHERE cg_lost IS NOT NULL`,
)}`;
});

/**
 * Incoming states ($1) that are lower than what is held in their relation, and not seen by it. Not our region's own:
 * what comes back from a peer was judged here when it was overruled.
 */
export const refusedSql = (set: Shape): string => {
  const { table } = set;
  return `SELECT ${spread("lost")} FROM (SELECT ${candidateOf(table, set.kind, "x", set.columns)} AS lost
  FROM ${set.source(1)} AS x JOIN ${relationOf(table, set.kind)} AS cur ON ${sameKey(table, "cur", "x")}
 WHERE (x.cg_version & 1023) <> coregent.region_id() AND ${outranks("cur", "x", isOwned(table))}
   AND ${clash(table, set, "x", "cur")}) AS refused`;
};

/** The states of a partial set ($1), with the version at which the local values are exact ($2) and their numbers. */
const partialSource = (set: Shape): string => {
  const columns = localColumns(set).map((column) => identifier(column.name));
  return `ROWS FROM (${set.source(1)}, unnest($2::bigint[])) WITH ORDINALITY
      AS x(${columns.join(", ")}, cg_since, cg_index)`;
};

/**
 * Merges states ($1) that lack unchanged TOAST columns, where the local row is the very one that they were written
 * upon ($2): its values are exact. So the local row has been seen, and there is no conflict.
 */
export const updatePartialSql = (set: Shape): string => `
UPDATE ${relationOf(set.table, "row")} AS cur SET ${assigned(set)
  .map((name) => `${name} = x.${name}`)
  .join(", ")}
  FROM ${partialSource(set)}
 WHERE ${sameKey(set.table, "cur", "x")} AND cur.cg_version = x.cg_since
   AND ${outranks("x", "cur", isOwned(set.table))}`;

/** Numbers (from 1) of the states that are higher than all that is held of their key now: they must be fetched. */
export const missingPartialSql = (set: Shape): string => {
  const { table } = set;
  const notLower = (kind: StateKind): string =>
    `EXISTS (SELECT FROM ${relationOf(table, kind)} AS cur
              WHERE ${sameKey(table, "cur", "x")} AND NOT ${outranks("x", "cur", isOwned(table))})`;
  return `SELECT x.cg_index::int AS index FROM ${partialSource(set)}
 WHERE NOT ${notLower("row")} AND NOT ${notLower("tombstone")} ORDER BY 1`;
};
