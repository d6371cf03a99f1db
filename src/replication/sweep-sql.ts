import { outranks } from "../../conflict/sql.ts";
import { identifier, literal } from "../postgres/identifiers.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import { remembered } from "../remembered.ts";
import {
  candidateOf,
  floorOf,
  isOwned,
  once,
  relationOf,
  sameKey,
  spread,
  unseen,
  withCandidates,
} from "./merge-sql.ts";

/**
 * The text of the statements that keep rows and tombstones apart, as in merge-sql.ts. They are statements of their own,
 * because only a new snapshot sees what others have committed while the batch's statements waited.
 */

/** Removes rows that the tombstones of a set ($1) outrank. */
export const burySql = once((set) => {
  const { table } = set;
  const rowLost = table.logsConflicts ? unseen("cur", "x") : "false";
  return `WITH gone AS (
  DELETE FROM ${relationOf(table, "row")} AS cur USING ${set.source(1)} AS x
   WHERE ${sameKey(table, "cur", "x")} AND ${outranks("x", "cur", isOwned(table))}
  RETURNING CASE WHEN ${rowLost} THEN ${candidateOf(table, "row", "cur", table.columns)} END AS lost,
            ${floorOf(table, "cur", "x")} AS floor
)
${sweptOf(table, "gone")}`;
});

/** Blocks between the first and the last of so many states that are worth reading: a few times what they need. */
export const blocksWithin = (count: number, bytes: number): number => {
  // Beside its values, a state has a header and a place in its block, and what aligns both.
  const needed = Math.ceil((bytes + count * 48) / 8_000);
  return Math.max(64, 4 * needed);
};

/**
 * The same for a part of a set that has just been inserted by one COPY, read from where it lies: nothing is sent but the
 * keys of its first and last state (`ends`), and nothing answered but the count. Only rows which their tombstone has seen.
 *
 * What it removes, it removes rightly, whatever lies between the two ends. And what has the `xmin` of the first was
 * inserted by this COPY, which was a subtransaction of its own: so where the parts together remove as many rows as the
 * set has tombstones, these are all of them.
 *
 * None where the two lie more blocks apart than the parameter of number `blocks` says: the first may have gone into a
 * space near the start of a large relation, and the last to its end.
 */
export const buryCopiedSql = (
  table: ReplicatedTable,
  { ends, blocks, atOnce }: { readonly ends: string; readonly blocks: number; readonly atOnce: boolean },
): string => {
  const tombstones = relationOf(table, "tombstone");
  const end = (column: string): string => `(SELECT ends.${column} FROM ends)`;
  const block = (ctid: string): string => `(${ctid}::text::point)[0]`;
  return `WITH ends AS MATERIALIZED (
  SELECT min(d.ctid) AS low, max(d.ctid) AS high, min(d.xmin::text)::xid AS copy
    FROM ${ends} JOIN ${tombstones} AS d ON ${sameKey(table, "d", "k")}
  HAVING ${block("max(d.ctid)")} - ${block("min(d.ctid)")} <= $${blocks}::int
), x AS MATERIALIZED (
  SELECT d.* FROM ${tombstones} AS d WHERE d.ctid >= ${end("low")} AND d.ctid <= ${end("high")} AND d.xmin = ${end("copy")}
)
${removeSeen(table, atOnce)}`;
};

/** Types of keys that the server hashes: else it would go over all of `x` for each row in `removeAtOnce`. */
const hashableTypes: ReadonlySet<string> = new Set(
  "uuid int2 int4 int8 text varchar bpchar bytea numeric date timestamp timestamptz".split(" "),
);

/**
 * Removes the rows which the tombstones `x` were written upon.
 * @param atOnce whether that is worth it: before PostgreSQL 17 an index looks keys up one by one all the same
 */
const removeSeen = (table: ReplicatedTable, atOnce: boolean): string =>
  // Of a partitioned table the indexes of all partitions would be asked for all keys.
  atOnce && hasHashableKey(table) && !isOwned(table) && !table.partitioned
    ? removeAtOnce(table)
    : `DELETE FROM ${relationOf(table, "row")} AS cur USING x
 WHERE ${sameKey(table, "cur", "x")} AND ${outranks("x", "cur", isOwned(table))}
   AND x.cg_prev = cur.cg_version AND x.cg_version > cur.cg_version`;

const hasHashableKey = ({ key, columns }: ReplicatedTable): boolean => {
  const [type, ...others] = columns.filter(({ name }) => key.includes(name));
  return others.length === 0 && type?.typeSchema === "pg_catalog" && hashableTypes.has(type.typeName);
};

/**
 * `removeSeen` for a key of one column: a join in all but its form. As a join, the planner would look each row up by
 * itself, from the root of the index, since it does not know how many there are. So the index is read from one end to
 * the other, and then the rows as they lie. A row that somebody else has just changed is compared with all of `x` again:
 * the sets are to be small.
 */
const removeAtOnce = (table: ReplicatedTable): string => {
  const id = identifier(table.key[0] ?? "");
  // IS TRUE keeps the planner from making a join of it.
  return `DELETE FROM ${relationOf(table, "row")} AS cur
 WHERE cur.${id} = ANY (ARRAY(SELECT x.${id} FROM x))
   AND ((cur.${id}, cur.cg_version) IN (SELECT x.${id}, x.cg_prev FROM x WHERE x.cg_version > x.cg_prev)) IS TRUE`;
};

/** The answer of what sweeps: from `gone`, and with the candidates in `from`. */
const sweptOf = (table: ReplicatedTable, from: string): string =>
  withCandidates(
    `SELECT (SELECT count(*) FROM gone)::int AS swept, (SELECT max(floor)::text FROM ${from}) AS floor,
          ${noted(table)}`,
    `SELECT ${spread("lost")} FROM ${from} WHERE lost IS NOT NULL`,
  );

/** Whether the conflict log and the quarantine have entries of the table. */
const noted = ({ name }: ReplicatedTable): string =>
  `EXISTS (SELECT FROM coregent.conflict WHERE table_name = ${literal(name)}) AS reported,
          EXISTS (SELECT FROM coregent.quarantine WHERE table_name = ${literal(name)}) AS quarantined`;

/**
 * Removes rows that a tombstone outranks, and finds tombstones that a row outranks without having seen them; of some keys,
 * or (null) of all. `keys`: a FROM item with the key's columns.
 * Of most keys no row is left.
 */
export const sweepSql = (table: ReplicatedTable, keys: string | null): string => {
  const owned = isOwned(table);
  const rows = relationOf(table, "row");
  const tombstones = relationOf(table, "tombstone");
  const rowLost = table.logsConflicts ? unseen("cur", "d") : "false";
  const tombstoneLost = table.logsConflicts ? unseen("d", "cur") : "false";
  const present =
    keys === null
      ? ""
      : `(SELECT k.* FROM ${keys} JOIN ${rows} AS r ON ${sameKey(table, "r", "k")} OFFSET 0) AS k JOIN `;
  return `WITH d AS MATERIALIZED (
  SELECT d.* FROM ${present}${tombstones} AS d${keys === null ? "" : ` ON ${sameKey(table, "d", "k")}`}
), gone AS (
  DELETE FROM ${rows} AS cur USING d WHERE ${sameKey(table, "cur", "d")} AND ${outranks("d", "cur", owned)}
  RETURNING CASE WHEN ${rowLost} THEN ${candidateOf(table, "row", "cur", table.columns)} END AS lost,
            ${floorOf(table, "cur", "d")} AS floor
), outlived AS (
  SELECT CASE WHEN ${tombstoneLost} THEN ${candidateOf(table, "tombstone", "d", table.tombstoneColumns)} END AS lost,
         ${floorOf(table, "d", "cur")} AS floor
    FROM d JOIN ${rows} AS cur ON ${sameKey(table, "cur", "d")} WHERE ${outranks("cur", "d", owned)}
), both_kinds AS (SELECT lost, floor FROM gone UNION ALL SELECT lost, floor FROM outlived)
${sweptOf(table, "both_kinds")}`;
};

/** What is noted of the table. */
export const notedSql = remembered((table: ReplicatedTable) => `SELECT ${noted(table)}`);

/** Whether a tombstone is held of the table, and what is noted of it. */
export const holdsSql = remembered(
  (table: ReplicatedTable) => `SELECT EXISTS (SELECT FROM ${relationOf(table, "tombstone")}) AS held,
          ${noted(table)}`,
);

/**
 * Whether a tombstone is held of one of these keys, and what is noted of the table. Keys that rise with time lie beyond the last tombstone: the bounds
 * spare them the look.
 */
export const meetsSql = (table: ReplicatedTable, keys: string): string => {
  const names = table.key.map(identifier);
  const tombstones = relationOf(table, "tombstone");
  const key = names.length === 1 ? `k.${names[0]}` : `(${names.map((name) => `k.${name}`).join(", ")})`;
  const bound = (order: "ASC" | "DESC"): string =>
    `(SELECT ${names.join(", ")} FROM ${tombstones} ORDER BY ${names.map((name) => `${name} ${order}`).join(", ")} LIMIT 1)`;
  return `SELECT EXISTS (
  SELECT FROM ${keys} JOIN ${tombstones} AS d ON ${sameKey(table, "d", "k")}
   WHERE ${key} >= ${bound("ASC")} AND ${key} <= ${bound("DESC")}) AS met,
          ${noted(table)}`;
};
