import { tombstoneName } from "../postgres/install/names.ts";
import { qualified } from "../postgres/identifiers.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import { keysFromText } from "./merge-keys.ts";
import type { Candidate, ConflictType, MergeCounts } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { relationOf, sameKey, isOwned } from "./merge-sql.ts";
import type { StateKind } from "./states.ts";

/**
 * The conflict log. The statements that merge give *candidates*: pairs where the lower state was not seen by
 * the higher. A candidate is logged if
 *   - the highest state now held of the key has not seen it either: it is what the candidate lost against;
 *   - no other candidate of the key, higher than it, has seen it: then that one is the loss, and this its ancestor;
 *   - it neither stands in the log nor was taken out of it. What was taken out is an ancestor of what stays, or of a
 *     loser, for ever, since states only go up.
 * And for each key in conflict, entries whose loser the winner has seen are taken out: no ancestor of what stays is
 * in the log.
 */

/** A state held of a key, without its content. */
export interface Held {
  readonly kind: StateKind;
  readonly version: bigint;
  readonly base: bigint;
  readonly prev: bigint;
  readonly seen: readonly bigint[];
}

/** A loser and what it lost against. */
export interface Loss {
  readonly loser: Candidate;
  readonly winner: Held;
}

const isHigher = (a: Held, b: Held): boolean =>
  a.base > b.base || (a.base === b.base && a.version > b.version);

const regionOf = (version: bigint): bigint => version & 1023n;

const succeeded = (loser: Held, winner: Held): boolean =>
  regionOf(loser.version) === regionOf(winner.version) ||
  winner.seen.some((seen) => regionOf(seen) === regionOf(loser.version) && seen >= loser.version);

/** Pure: which of one key's candidates lost, given the highest state that is held now. */
export const lossesOf = (candidates: readonly Candidate[], winner: Held): Loss[] => {
  const distinct = new Map(candidates.map((candidate) => [candidate.version, candidate]));
  const unseen = [...distinct.values()].filter(
    (candidate) => isHigher(winner, candidate) && !succeeded(candidate, winner),
  );
  return unseen
    .filter((a) => !unseen.some((b) => isHigher(b, a) && succeeded(a, b)))
    .map((loser) => ({ loser, winner }));
};

interface HeldRow {
  readonly key: string;
  readonly kind: StateKind;
  readonly version: string;
  readonly base: string;
  readonly prev: string;
  readonly seen: string[] | null;
}

/** All states held of the keys ($1), in the table, its tombstones and the quarantine ($2: the table's name). */
const heldSql = (table: ReplicatedTable): string => {
  const relation = (kind: StateKind): string => `
SELECT k.key, '${kind}' AS kind, s.cg_version::text AS version,
       ${isOwned(table) ? "s.cg_base::text" : "'0'"} AS base, s.cg_prev::text AS prev, s.cg_seen::text[] AS seen
  FROM ${keysFromText(table, 1)} JOIN ${relationOf(table, kind)} AS s ON ${sameKey(table, "s", "k")}`;
  return `${relation("row")} UNION ALL ${relation("tombstone")} UNION ALL
SELECT q.key, q.kind, q.version::text, q.base::text, q.prev::text, q.seen::text[]
  FROM coregent.quarantine AS q WHERE q.table_name = $2 AND q.key = ANY ($1::text[])`;
};

/** The highest state held of each key, by the key's text. */
export const readHeld = async (
  session: MergeSession,
  table: ReplicatedTable,
  keys: readonly string[],
): Promise<Map<string, Held>> => {
  const { rows } = await session.query<HeldRow>(heldSql(table), [keys, table.name]);
  const highest = new Map<string, Held>();
  for (const row of rows) {
    const held: Held = {
      kind: row.kind,
      version: BigInt(row.version),
      base: BigInt(row.base),
      prev: BigInt(row.prev),
      seen: (row.seen ?? []).map(BigInt),
    };
    const other = highest.get(row.key);
    if (other === undefined || isHigher(held, other)) highest.set(row.key, held);
  }
  return highest;
};

const logRelation = qualified("coregent", "conflict");
const logTombstones = qualified("coregent", tombstoneName("coregent", "conflict"));

const insertSql = `
INSERT INTO ${logRelation} AS c (table_name, key, loser_version, type, loser_kind, loser_base, loser_seen, loser_row,
  winner_kind, winner_version, winner_base, detected_in, detected_at)
SELECT $1, l.key, l.version, coregent.conflict_type(l.kind, l.prev, l.winner_kind, l.winner_prev), l.kind, l.base,
       l.seen::bigint[], l.content::jsonb, l.winner_kind, l.winner_version, l.winner_base, coregent.region_id(),
       transaction_timestamp()
  FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
              $9::text[], $10::bigint[], $11::bigint[], $12::bigint[])
    AS l(key, kind, version, base, prev, seen, content, winner_kind, winner_version, winner_base, winner_prev)
 WHERE NOT EXISTS (SELECT FROM ${logTombstones} AS d
                    WHERE d.table_name = $1 AND d.key = l.key AND d.loser_version = l.version)
ON CONFLICT (table_name, key, loser_version) DO NOTHING
RETURNING type`;

const retractSql = `
DELETE FROM ${logRelation} AS c
 USING unnest($2::text[], $3::bigint[], $4::text[]) AS w(key, version, seen)
 WHERE c.table_name = $1 AND c.key = w.key
   AND coregent.succeeded(c.loser_version, w.version, w.seen::bigint[])`;

const arrayText = (values: readonly bigint[]): string | null =>
  values.length === 0 ? null : `{${values.join(",")}}`;

/** Writes losses to the log and takes out what the winners have seen; gives the types of those that are new. */
const write = async (
  session: MergeSession,
  table: string,
  losses: readonly Loss[],
): Promise<ConflictType[]> =>
  session.asLocalWriter(async () => {
    const column = <T>(of: (loss: Loss) => T): T[] => losses.map(of);
    const inserted = await session.query<{ type: ConflictType }>(insertSql, [
      table,
      column(({ loser }) => loser.key),
      column(({ loser }) => loser.kind),
      column(({ loser }) => loser.version),
      column(({ loser }) => loser.base),
      column(({ loser }) => loser.prev),
      column(({ loser }) => arrayText(loser.seen)),
      column(({ loser }) => loser.content),
      column(({ winner }) => winner.kind),
      column(({ winner }) => winner.version),
      column(({ winner }) => winner.base),
      column(({ winner }) => winner.prev),
    ]);
    const winners = new Map(losses.map(({ loser, winner }) => [loser.key, winner]));
    await session.query(retractSql, [
      table,
      [...winners.keys()],
      [...winners.values()].map((winner) => winner.version),
      [...winners.values()].map((winner) => arrayText(winner.seen)),
    ]);
    return inserted.rows.map((row) => row.type);
  });

/** Logs what is to be logged of one table's candidates, in the open transaction, after all else of the batch. */
export const logConflicts = async (
  session: MergeSession,
  table: ReplicatedTable,
  candidates: readonly Candidate[],
  counts: MergeCounts,
): Promise<void> => {
  if (candidates.length === 0 || !table.logsConflicts) return;
  const byKey = Map.groupBy(candidates, (candidate) => candidate.key);
  // In one order everywhere, since entries of other links may wait for ours.
  const keys = [...byKey.keys()].sort();
  const held = await readHeld(session, table, keys);
  const losses = keys.flatMap((key) => {
    const winner = held.get(key);
    return winner === undefined ? [] : lossesOf(byKey.get(key) ?? [], winner);
  });
  if (losses.length === 0) return;
  for (const type of await write(session, table.name, losses)) counts.conflict(table.name, type);
};
