import type { ReplicatedTable } from "../postgres/table.ts";
import { keysOf, type KeySet } from "./merge-keys.ts";
import type { Candidate } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import type { CandidateRow, FloorRow } from "./merge-sql.ts";
import { candidatesIn, piecesOf } from "./merge-states.ts";
import { sessionMemory } from "./session-memory.ts";
import type { StateSet } from "./states.ts";
import { blocksWithin, buryCopiedSql, burySql, holdsSql, meetsSql, notedSql, sweepSql } from "./sweep-sql.ts";
import { together } from "./together.ts";

/** What is noted of a table beside its states, before a sweep waited for a row's lock. */
export interface Noted {
  /** The conflict log has entries of this table. */
  readonly reported: boolean;
  /** The quarantine has. */
  readonly quarantined: boolean;
}

export interface Swept extends Noted {
  /** Rows removed. */
  readonly rows: number;
  readonly candidates: readonly Candidate[];
  readonly floor: string | null;
}

type SweptRow = CandidateRow & FloorRow & Noted & { readonly swept: number };

const nothingNoted: Noted = { reported: false, quarantined: false };

export const nothingSwept: Swept = { rows: 0, candidates: [], ...nothingNoted, floor: null };

const sweptIn = (rows: readonly SweptRow[]): Swept => {
  const [first] = rows;
  if (first === undefined) return nothingSwept;
  const { swept, reported, quarantined, floor } = first;
  return { rows: swept, candidates: candidatesIn(rows, true), reported, quarantined, floor };
};

/**
 * Removes rows of these keys that a tombstone outranks: rows and tombstones lie in two relations and do not wait for
 * each other, so two transactions can each miss the other's.
 */
export const sweepKeys = async (session: MergeSession, keys: KeySet): Promise<Swept> => {
  if (keys.count === 0) return nothingSwept;
  const { rows } = await session.query<SweptRow>(sweepSql(keys.table, keys.from), keys.values);
  return sweptIn(rows);
};

/** The same for tombstones that have just been merged: nearly all of them remove their row. */
export const buryRows = async (session: MergeSession, tombstones: StateSet): Promise<Swept> => {
  const parts = await together(piecesOf(tombstones).map((piece) => buryPiece(session, piece)));
  return parts.reduce(added, nothingSwept);
};

const buryPiece = async (session: MergeSession, tombstones: StateSet): Promise<Swept> => {
  const { rows } = await session.query<SweptRow>(burySql(tombstones), [tombstones.value()]);
  const buried = sweptIn(rows);
  if (buried.rows === tombstones.count) return buried;
  // Some rows are higher, or were not here. Or a higher tombstone was, and what it left is not ours to judge by this one.
  return added(buried, await sweepKeys(session, keysOf(tombstones)));
};

/** So many sets of a table are not tried after one that did not lie together, or whose rows were others. */
const skippedSets = 64;
const toSkip = sessionMemory<number>();

/**
 * The same for a set that has just been inserted by one COPY, in the same flight. It lies together where the relation
 * has no space within; else its rows are looked for as others are.
 */
export const buryCopied = async (session: MergeSession, tombstones: StateSet): Promise<Swept> => {
  const { table, count } = tombstones;
  const skip = toSkip(session);
  const left = skip.get(table.name) ?? 0;
  if (left > 0) {
    skip.set(table.name, left - 1);
    return buryRows(session, tombstones);
  }
  const pieces = piecesOf(tombstones);
  const [removed, { rows: noted }] = await together([
    together(pieces.map((piece) => removeCopied(session, piece))),
    session.query<Noted>(notedSql(table)),
  ]);
  const buried = { ...nothingSwept, ...noted[0], rows: removed.reduce((sum, rows) => sum + rows, 0) };
  if (buried.rows === count) return buried;
  // Of which part rows are left is not known: where parts lie among each other, one may have removed what is another's.
  skip.set(table.name, skippedSets);
  if (buried.rows < count / 2) return added(buried, await buryRows(session, tombstones));
  const rest = pieces.map((piece) => sweepKeys(session, keysOf(piece)));
  return (await together(rest)).reduce(added, buried);
};

/** How many rows are removed. */
const removeCopied = async (session: MergeSession, tombstones: StateSet): Promise<number> => {
  const { table, count, bytes } = tombstones;
  const { from: ends, values: keys } = keysOf(tombstones.pick([0, count - 1]));
  const values = [...keys, String(blocksWithin(count, bytes))];
  const sql = buryCopiedSql(table, { ends, blocks: values.length, atOnce: session.serverVersion >= 17 });
  const { rowCount } = await session.query(sql, values);
  return rowCount ?? 0;
};

const added = (before: Swept, later: Swept): Swept => ({
  reported: before.reported || later.reported,
  quarantined: before.quarantined || later.quarantined,
  rows: before.rows + later.rows,
  candidates: [...before.candidates, ...later.candidates],
  floor: higher(before.floor, later.floor),
});

const higher = (a: string | null, b: string | null): string | null =>
  a === null || (b !== null && BigInt(b) > BigInt(a)) ? b : a;

/** The same for all tombstones of a table. Here a plan that reads whole relations is the right one. */
export const sweepTable = async (session: MergeSession, table: ReplicatedTable): Promise<Swept> => {
  await session.client.query("SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on");
  const { rows } = await session.client.query<SweptRow>(sweepSql(table, null));
  await session.client.query("SET LOCAL enable_hashjoin = off; SET LOCAL enable_seqscan = off");
  return sweptIn(rows);
};

/** Whether the session has seen a tombstone of a table: then the question for them as a whole is left out. */
const entombed = sessionMemory<true>();

/** Whether any tombstone is held of the table. Most tables of which nothing is deleted are spared what follows. */
export const holdsTombstones = async (
  session: MergeSession,
  table: ReplicatedTable,
): Promise<Noted & { readonly held: boolean }> => {
  const known = entombed(session);
  if (known.has(table.name)) return { ...nothingNoted, held: true };
  const { rows } = await session.query<Noted & { held: boolean }>(holdsSql(table));
  const [answer = { ...nothingNoted, held: true }] = rows;
  if (answer.held) known.set(table.name, true);
  return answer;
};

export interface Met extends Noted {
  /** Whether a tombstone may be held of one of the keys: else there is nothing to sweep. */
  readonly met: boolean;
}

/** One statement, which is asked at once. */
export const lookForTombstones = async (session: MergeSession, rows: StateSet): Promise<Met> => {
  if (entombed(session).has(rows.table.name)) return meetTombstones(session, keysOf(rows));
  const { held, ...noted } = await holdsTombstones(session, rows.table);
  return { ...noted, met: held };
};

export const meetTombstones = async (session: MergeSession, keys: KeySet): Promise<Met> => {
  const { rows } = await session.query<Noted & { met: boolean }>(
    meetsSql(keys.table, keys.from),
    keys.values,
  );
  return rows[0] ?? { ...nothingNoted, met: false };
};
