import { succeeded } from "../../conflict/classify.ts";
import { compareStates, type State } from "../../conflict/state.ts";
import { regionOf } from "../../conflict/version.ts";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { literal } from "../postgres/identifiers.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import { readHeld } from "./conflict-log.ts";
import { keysFromText, type KeySet } from "./merge-keys.ts";
import type { Candidate } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { contentJson, keyText, relationOf, sameKey } from "./merge-sql.ts";
import { describeState } from "./quarantine-content.ts";
import type { StateKind, StateSet } from "./states.ts";

/**
 * The quarantine: states that do not fit here (a unique clash, a CHECK, a type), set aside whole, one per key, until
 * they do. They are held like any others: what is compared with a key's state is compared with the highest of row,
 * tombstone and this. A state of the key that is merged and not lower ends it.
 */

/** What became of a state that does not fit. */
export interface SetAside {
  /** False: something higher is held, or it was here already. */
  readonly quarantined: boolean;
  readonly key: string;
  readonly candidates: readonly Candidate[];
}

const insertSql = `
INSERT INTO coregent.quarantine AS q (table_name, key, kind, base, version, prev, seen, origin, payload, sqlstate, reason,
  next_try_at)
VALUES ($1, $2, $3, $4, $5, $6, $7::bigint[], $8, $9::jsonb, $10, $11, now() + $12 * interval '1 ms')
ON CONFLICT (table_name, key) DO UPDATE SET kind = excluded.kind, base = excluded.base, version = excluded.version,
  prev = excluded.prev, seen = excluded.seen, origin = excluded.origin, payload = excluded.payload,
  sqlstate = excluded.sqlstate, reason = excluded.reason, attempts = 1, first_at = now(),
  next_try_at = excluded.next_try_at
WHERE (excluded.base, excluded.version) > (q.base, q.version)`;

/** When a state is tried again for the first time. */
const firstRetryMs = 1_000;

export const stateOf = (set: StateSet, index: number, content: string): State => {
  const seen = set.seen(index);
  const stamp = {
    base: set.base(index),
    version: set.version(index),
    prev: set.prev(index),
    seen: seen.length === 0 ? null : seen,
  };
  return set.kind === "row" ? { kind: "row", content, ...stamp } : { kind: "tombstone", ...stamp };
};

/** Sets the one state of `set` aside, unless something higher is held of its key. */
export const setAside = async (session: MergeSession, set: StateSet, error: unknown): Promise<SetAside> => {
  const { table } = set;
  const { key, content } = await describeState(session, set);
  const state = stateOf(set, 0, content ?? "{}");
  const held = await readHeldSafely(session, table, key);
  const order = held === null ? 1 : compareStates(state, held);
  if (order <= 0) {
    const reported = order < 0 && regionOf(state.version) !== session.regionId;
    return { quarantined: false, key, candidates: reported ? [{ key, state, maybeOld: false }] : [] };
  }
  const lost =
    held === null || succeeded(held.version, state) ? [] : await readHeldContent(session, table, key, held);
  await session.query(insertSql, [
    table.name,
    key,
    state.kind,
    state.base,
    state.version,
    state.prev,
    state.seen === null ? null : `{${state.seen.join(",")}}`,
    regionOf(state.version),
    content,
    sqlStateOf(error),
    error instanceof Error ? error.message : String(error),
    firstRetryMs,
  ]);
  return { quarantined: true, key, candidates: lost };
};

/** A key that cannot be read here is held by nobody but the quarantine. */
const readHeldSafely = async (
  session: MergeSession,
  table: ReplicatedTable,
  key: string,
): Promise<State | null> => {
  try {
    const held = await session.savepoint(() => readHeld(session, table, [key]));
    return held.get(key) ?? null;
  } catch (error) {
    if (sqlStateOf(error)?.startsWith("22") !== true) throw error;
    return null;
  }
};

/** The held state as a candidate, whole. */
const readHeldContent = async (
  session: MergeSession,
  table: ReplicatedTable,
  key: string,
  held: State,
): Promise<Candidate[]> => {
  if (held.kind === "tombstone") return [{ key, state: held, maybeOld: false }];
  const { rows } = await session.query<{ content: string | null }>(
    `SELECT ${contentJson(table.columns, "cur")} AS content
       FROM ${keysFromText(table, 1)} JOIN ${relationOf(table, "row")} AS cur ON ${sameKey(table, "cur", "k")}
      WHERE cur.cg_version = $3
     UNION ALL SELECT q.payload::text FROM coregent.quarantine AS q
      WHERE q.table_name = $2 AND q.key = ANY ($1::text[]) AND q.version = $3`,
    [[key], table.name, held.version],
  );
  return [{ key, state: { ...held, content: rows[0]?.content ?? "{}" }, maybeOld: false }];
};

interface EntryRow {
  readonly key: string;
  readonly kind: StateKind;
  readonly base: string;
  readonly version: string;
  readonly prev: string;
  readonly seen: string[] | null;
  readonly payload: string | null;
}

const entryState = (row: EntryRow): State => {
  const stamp = {
    base: BigInt(row.base),
    version: BigInt(row.version),
    prev: BigInt(row.prev),
    seen: row.seen === null ? null : row.seen.map(BigInt),
  };
  return row.kind === "row"
    ? { kind: "row", content: row.payload ?? "{}", ...stamp }
    : { kind: "tombstone", ...stamp };
};

/**
 * After states of these keys were merged: ends the quarantine of those whose key now holds a state that is not lower.
 * Candidates are the states that lost so, and incoming ones that lost against one set aside.
 */
export const settleQuarantine = async (
  session: MergeSession,
  keys: KeySet,
  incoming: ReadonlySet<bigint>,
): Promise<Candidate[]> => {
  const { table } = keys;
  const { rows } = await session.query<EntryRow>(
    `SELECT q.key, q.kind, q.base::text, q.version::text, q.prev::text, q.seen::text[], q.payload::text
       FROM (SELECT ${keyText(table, "k")} AS key FROM ${keys.from}) AS k
       JOIN coregent.quarantine AS q ON q.key = k.key
      WHERE q.table_name = ${literal(table.name)}`,
    keys.values,
  );
  if (rows.length === 0) return [];
  const visible = await readHeld(
    session,
    table,
    rows.map(({ key }) => key),
    { quarantined: false },
  );
  const candidates: Candidate[] = [];
  for (const row of rows) {
    const aside = entryState(row);
    const held = visible.get(row.key);
    if (held === undefined) continue;
    if (compareStates(held, aside) < 0) {
      const isNew = incoming.has(held.version) && regionOf(held.version) !== session.regionId;
      if (isNew && !succeeded(held.version, aside)) {
        candidates.push(...(await readHeldContent(session, table, row.key, held)));
      }
      continue;
    }
    await session.query("DELETE FROM coregent.quarantine WHERE table_name = $1 AND key = $2", [
      table.name,
      row.key,
    ]);
    if (compareStates(held, aside) > 0) candidates.push({ key: row.key, state: aside, maybeOld: false });
  }
  return candidates;
};
