import { conflictType, succeeded, type ConflictType } from "../../conflict/classify.ts";
import { retracts } from "../../conflict/conflict-log.ts";
import { compareStates, type State } from "../../conflict/state.ts";
import { tombstoneName } from "../postgres/install/names.ts";
import { literal, qualified } from "../postgres/identifiers.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import { keysFromText, type KeySet } from "./merge-keys.ts";
import type { Candidate } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { isOwned, keyText, relationOf, sameKey } from "./merge-sql.ts";
import type { StateKind } from "./states.ts";

/**
 * The conflict log in SQL; its rules are those of conflict/conflict-log.ts. The statements that merge give
 * *candidates*: states that lost against one which had not seen them. A candidate is reported if
 *   - the highest state now held of the key has not seen it either: that is what it lost against;
 *   - no other candidate of the key, higher than it, has seen it: then that one is the loss, and this its ancestor.
 * Reports of this region whose loser turns out to be an ancestor of what is now held are retracted, for every key
 * of the batch. Only this region retracts its reports.
 */

/** A loser and what it lost against. */
export interface Loss {
  readonly loser: Candidate;
  readonly winner: State;
}

/** Pure: which of one key's candidates lost, given the highest state that is held now. */
export const lossesOf = (candidates: readonly Candidate[], winner: State): Loss[] => {
  const distinct = new Map(candidates.map((candidate) => [candidate.state.version, candidate]));
  const unseen = [...distinct.values()].filter(
    ({ state }) => compareStates(winner, state) > 0 && !succeeded(state.version, winner),
  );
  return unseen
    .filter(
      (a) => !unseen.some((b) => compareStates(b.state, a.state) > 0 && succeeded(a.state.version, b.state)),
    )
    .map((loser) => ({ loser, winner }));
};

interface HeldRow {
  readonly key: string;
  readonly kind: StateKind;
  readonly version: string;
  readonly base: string;
  readonly prev: string;
  readonly seen: string[] | null;
  /** Set aside, and not visible. */
  readonly quarantined: boolean;
}

/** All states held of the keys ($1), in the table, its tombstones and the quarantine ($2: the table's name). */
const heldSql = (table: ReplicatedTable): string => {
  const relation = (kind: StateKind): string => `
SELECT k.cg_key AS key, '${kind}' AS kind, s.cg_version::text AS version,
       ${isOwned(table) ? "s.cg_base::text" : "'0'"} AS base, s.cg_prev::text AS prev, s.cg_seen::text[] AS seen,
       false AS quarantined
  FROM ${keysFromText(table, 1)} JOIN ${relationOf(table, kind)} AS s ON ${sameKey(table, "s", "k")}`;
  return `${relation("row")} UNION ALL ${relation("tombstone")} UNION ALL
SELECT q.key, q.kind, q.version::text, q.base::text, q.prev::text, q.seen::text[], true
  FROM coregent.quarantine AS q WHERE q.table_name = $2 AND q.key = ANY ($1::text[])`;
};

/** The highest state held of each key, by the key's text. Without a row's content. */
export const readHeld = async (
  session: MergeSession,
  table: ReplicatedTable,
  keys: readonly string[],
  only: { readonly kind?: StateKind; readonly quarantined?: boolean } = {},
): Promise<Map<string, State>> => {
  const { rows } = await session.query<HeldRow>(heldSql(table), [keys, table.name]);
  const highest = new Map<string, State>();
  for (const row of rows) {
    if (only.kind !== undefined && row.kind !== only.kind) continue;
    if (only.quarantined !== undefined && row.quarantined !== only.quarantined) continue;
    const stamp = {
      version: BigInt(row.version),
      base: BigInt(row.base),
      prev: BigInt(row.prev),
      seen: row.seen === null ? null : row.seen.map(BigInt),
    };
    const held: State =
      row.kind === "row" ? { kind: "row", content: "", ...stamp } : { kind: "tombstone", ...stamp };
    const other = highest.get(row.key);
    if (other === undefined || compareStates(held, other) > 0) highest.set(row.key, held);
  }
  return highest;
};

const logRelation = qualified("coregent", "conflict");
const logTombstones = qualified("coregent", tombstoneName("coregent", "conflict"));

/**
 * A tombstone that was found below a row is new here unless it was reported or retracted before, or what was written
 * upon it was reported in its place.
 */
const insertSql = `
INSERT INTO ${logRelation} AS c (table_name, key, loser_version, type, loser_kind, loser_base, loser_seen, loser_row,
  winner_kind, winner_version, winner_base, detected_in, detected_at)
SELECT $1, l.key, l.version, l.type, l.kind, l.base, l.seen::bigint[], l.content::jsonb, l.winner_kind,
       l.winner_version, l.winner_base, coregent.region_id(), transaction_timestamp()
  FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
              $9::text[], $10::bigint[], $11::bigint[], $12::bool[])
    AS l(key, version, type, kind, base, seen, content, winner_kind, winner_version, winner_base, maybe_old)
 WHERE NOT l.maybe_old
    OR NOT EXISTS (SELECT FROM ${logTombstones} AS d WHERE d.table_name = $1 AND d.key = l.key
                      AND d.loser_version = l.version AND d.detected_in = coregent.region_id())
   AND NOT EXISTS (SELECT FROM ${logRelation} AS c WHERE c.table_name = $1 AND c.key = l.key
                      AND c.detected_in = coregent.region_id()
                      AND (c.loser_base, c.loser_version) > (l.base, l.version)
                      AND coregent.succeeded(l.version, c.loser_version, c.loser_seen))
ON CONFLICT DO NOTHING
RETURNING type`;

const retractSql = `
DELETE FROM ${logRelation} AS c USING unnest($2::text[], $3::bigint[]) AS r(key, version)
 WHERE c.table_name = $1 AND c.key = r.key AND c.loser_version = r.version AND c.detected_in = coregent.region_id()`;

const arrayText = (values: readonly bigint[] | null): string | null =>
  values === null || values.length === 0 ? null : `{${values.join(",")}}`;

/** Adds losses to the log; gives the types of those that are new in it. */
const report = async (
  session: MergeSession,
  table: string,
  losses: readonly Loss[],
): Promise<ConflictType[]> => {
  const column = <T>(of: (loss: Loss) => T): T[] => losses.map(of);
  const { rows } = await session.query<{ type: ConflictType }>(insertSql, [
    table,
    column(({ loser }) => loser.key),
    column(({ loser }) => loser.state.version),
    column(({ loser, winner }) => conflictType(loser.state, winner)),
    column(({ loser }) => loser.state.kind),
    column(({ loser }) => loser.state.base),
    column(({ loser }) => arrayText(loser.state.seen)),
    column(({ loser }) => (loser.state.kind === "row" ? loser.state.content : null)),
    column(({ winner }) => winner.kind),
    column(({ winner }) => winner.version),
    column(({ winner }) => winner.base),
    column(({ loser }) => loser.maybeOld),
  ]);
  return rows.map((row) => row.type);
};

/** An entry of this region's. */
export interface Reported {
  readonly key: string;
  readonly loser: bigint;
}

/** The same for keys given as texts. */
export const readReportsOf = async (
  session: MergeSession,
  table: ReplicatedTable,
  keys: readonly string[],
): Promise<Reported[]> => {
  if (keys.length === 0) return [];
  const { rows } = await session.query<{ key: string; loser: string }>(
    `SELECT c.key, c.loser_version::text AS loser FROM ${logRelation} AS c
      WHERE c.table_name = $1 AND c.key = ANY ($2::text[]) AND c.detected_in = coregent.region_id()`,
    [table.name, keys],
  );
  return rows.map(({ key, loser }) => ({ key, loser: BigInt(loser) }));
};

/** This region's reports of these keys. */
export const readReports = async (session: MergeSession, keys: KeySet): Promise<Reported[]> => {
  const { rows } = await session.query<{ key: string; loser: string }>(
    `SELECT c.key, c.loser_version::text AS loser
       FROM (SELECT ${keyText(keys.table, "k")} AS key FROM ${keys.from}) AS k
       JOIN ${logRelation} AS c ON c.key = k.key
      WHERE c.table_name = ${literal(keys.table.name)} AND c.detected_in = coregent.region_id()`,
    keys.values,
  );
  return rows.map(({ key, loser }) => ({ key, loser: BigInt(loser) }));
};

export interface Findings {
  readonly candidates: readonly Candidate[];
  readonly reports: readonly Reported[];
}

/** Reports and retracts for one table, in the open transaction, after all else of the batch. */
export const logConflicts = async (
  session: MergeSession,
  table: ReplicatedTable,
  { candidates, reports }: Findings,
): Promise<ConflictType[]> => {
  if (!table.logsConflicts || candidates.length + reports.length === 0) return [];
  const byKey = Map.groupBy(candidates, (candidate) => candidate.key);
  // In one order everywhere, since entries of other links may wait for ours.
  const keys = [...new Set([...byKey.keys(), ...reports.map((entry) => entry.key)])].sort();
  const held = await readHeld(session, table, keys);
  const losses = keys.flatMap((key) => {
    const winner = held.get(key);
    return winner === undefined ? [] : lossesOf(byKey.get(key) ?? [], winner);
  });
  const seenAfterAll = reports.filter(({ key, loser }) => {
    const winner = held.get(key);
    return winner !== undefined && retracts(loser, winner, session.regionId);
  });
  if (losses.length + seenAfterAll.length === 0) return [];
  return session.asLocalWriter(async () => {
    const types = losses.length === 0 ? [] : await report(session, table.name, losses);
    if (seenAfterAll.length > 0) {
      await session.query(retractSql, [
        table.name,
        seenAfterAll.map(({ key }) => key),
        seenAfterAll.map(({ loser }) => loser),
      ]);
    }
    return types;
  });
};
