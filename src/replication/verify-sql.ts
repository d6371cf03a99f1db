import { outranks } from "../../conflict/sql.ts";
import { identifier, list, literal, qualified } from "../postgres/identifiers.ts";
import type { Column, ReplicatedTable } from "../postgres/table.ts";

/**
 * The statements of verify. Hashes are computed by the servers with functions whose results are the same in all
 * supported versions, over the text forms that our sessions' pinned settings give.
 */

/** Buckets of the first comparison; a power of two. */
export const bucketCount = 1024;

/** How the keys' columns are hashed: by the type's own function where all regions have the type, else by text. */
export type KeyHashing = "native" | "text";

export interface ScanShape {
  readonly table: ReplicatedTable;
  readonly hashing: KeyHashing;
  /** Columns whose content is hashed as well, in an order that is the same in all regions; null: states only. */
  readonly content: readonly string[] | null;
}

const relation = (table: ReplicatedTable): string => qualified(table.schema, table.table);
const tombstones = (table: ReplicatedTable): string => qualified("coregent", table.tombstone);
const base = (table: ReplicatedTable, alias: string): string =>
  table.ownerColumn === null ? "0::bigint" : `${alias}.cg_base`;

const hashColumn = (column: Column | undefined, value: string, seed: string, hashing: KeyHashing): string => {
  if (hashing === "native" && column?.typeSchema === "pg_catalog") {
    if (column.typeName === "uuid") return `uuid_hash_extended(${value}, ${seed})`;
    if (/^int[248]$/.test(column.typeName)) return `hashint8extended(${value}::bigint, ${seed})`;
  }
  return `hashtextextended(${value}::text COLLATE "C", ${seed})`;
};

/** Hash of a row's key: each column's hash is the seed of the next, so that no two keys are joined to one text. */
const keyHash = ({ table, hashing }: ScanShape, alias: string): string => {
  const columns = new Map(table.columns.map((column) => [column.name, column]));
  return table.key.reduce(
    (seed, name) => hashColumn(columns.get(name), `${alias}.${identifier(name)}`, seed, hashing),
    "0",
  );
};

const contentHash = (shape: ScanShape, alias: string): string => {
  if (shape.content === null || shape.content.length === 0) return "0::bigint";
  return `hashtextextended(ROW(${list(shape.content, `${alias}.`)})::text COLLATE "C", 0)`;
};

/** Hash of what a row holds, given its key's hash `h`. */
const stateHash = (shape: ScanShape, alias: string): string => {
  const state = `hashint8extended(${alias}.cg_version, hashint8extended(${base(shape.table, alias)}, h.h))`;
  return shape.content === null ? state : `hashint8extended(${contentHash(shape, alias)}, ${state})`;
};

const hashed = (shape: ScanShape): string =>
  `${relation(shape.table)} AS t CROSS JOIN LATERAL (SELECT ${keyHash(shape, "t")} AS h OFFSET 0) AS h`;

/** One scan: rows by bucket, with count and sum of hashes (a sum, not XOR: what is there twice must not cancel out). */
export const bucketsSql = (shape: ScanShape): string => `
SELECT (h.h & ${bucketCount - 1})::int AS bucket, count(*)::text AS rows, sum(${stateHash(shape, "t")})::text AS hash
  FROM ${hashed(shape)} GROUP BY 1`;

/** The rows of some buckets ($1), each as hash of key and hash of state. */
export const bucketRowsSql = (shape: ScanShape): string => `
SELECT h.h::text AS key, ${stateHash(shape, "t")}::text AS state
  FROM ${hashed(shape)} WHERE (h.h & ${bucketCount - 1})::int = ANY ($1::int[])`;

export const keyJson = (table: Pick<ReplicatedTable, "key">, alias: string): string =>
  `jsonb_build_array(${table.key.map((name) => `${alias}.${identifier(name)}::text`).join(", ")})::text`;

/** The keys, as JSON, of the rows whose keys' hashes are given ($1). */
export const keysOfHashesSql = (shape: ScanShape): string => `
SELECT ${keyJson(shape.table, "t")} AS key FROM ${hashed(shape)} WHERE h.h = ANY ($1::bigint[])`;

const sameKey = (table: ReplicatedTable, a: string, b: string): string =>
  table.key.map((name) => `${a}.${identifier(name)} = ${b}.${identifier(name)}`).join(" AND ");

/** How many tombstones there are; and the keys of rows which one of them outranks, up to $1 + 1. */
export const tombstoneCountSql = (table: ReplicatedTable): string =>
  `SELECT count(*)::text AS count FROM ${tombstones(table)}`;
export const unsweptSql = (table: ReplicatedTable): string => `
SELECT ${keyJson(table, "d")} AS key
  FROM ${tombstones(table)} AS d JOIN ${relation(table)} AS t ON ${sameKey(table, "d", "t")}
 WHERE ${outranks("d", "t", table.ownerColumn !== null)} LIMIT $1`;

/** The keys of one parameter (a JSON array of JSON arrays of texts) in the table's own types. */
const keysGiven = (table: ReplicatedTable): string => {
  const types = new Map(table.columns.map((column) => [column.name, column.type]));
  const columns = table.key.map(
    (name, index) => `(k.key ->> ${index})::${types.get(name) ?? "text"} AS ${identifier(name)}`,
  );
  return `(SELECT k.key::text AS "cg key", ${columns.join(", ")} FROM jsonb_array_elements($1::jsonb) AS k(key) OFFSET 0)`;
};

/** All that is held of the keys given: row, tombstone, quarantined state. */
export const statesSql = (shape: ScanShape): string => {
  const { table } = shape;
  return `
SELECT k."cg key" AS key,
       t.cg_version::text AS row_version, ${base(table, "t")}::text AS row_base, ${contentHash(shape, "t")}::text AS content,
       d.cg_version::text AS tombstone_version, ${base(table, "d")}::text AS tombstone_base,
       q.version::text AS quarantine_version, q.base::text AS quarantine_base
  FROM ${keysGiven(table)} AS k
  LEFT JOIN ${relation(table)} AS t ON ${sameKey(table, "t", "k")}
  LEFT JOIN ${tombstones(table)} AS d ON ${sameKey(table, "d", "k")}
  LEFT JOIN coregent.quarantine AS q ON q.table_name = ${literal(table.name)} AND q.key = k."cg key"`;
};

/** Rows that refer to a row which is not there, by simple match: a NULL in any column refers to nothing. */
export const orphansSql = (
  table: ReplicatedTable,
  key: {
    readonly columns: readonly string[];
    readonly refSchema: string;
    readonly refTable: string;
    readonly refColumns: readonly string[];
  },
): string => {
  const present = key.columns.map((name) => `c.${identifier(name)} IS NOT NULL`).join(" AND ");
  const match = key.columns
    .map((name, index) => `p.${identifier(key.refColumns[index] ?? "")} = c.${identifier(name)}`)
    .join(" AND ");
  return `
WITH orphan AS MATERIALIZED (
  SELECT ${list(table.key, "c.")} FROM ${relation(table)} AS c
   WHERE ${present} AND NOT EXISTS (SELECT FROM ${qualified(key.refSchema, key.refTable)} AS p WHERE ${match}))
SELECT (SELECT count(*) FROM orphan)::text AS count,
       ARRAY(SELECT ${keyJson(table, "orphan")} FROM orphan LIMIT $1) AS keys`;
};
