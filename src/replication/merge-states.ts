import type { State } from "../../conflict/state.ts";
import { reactionTo } from "../postgres/sqlstate.ts";
import type { Candidate, MergeCounts } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import {
  lockAndReplaceSql,
  refusedSql,
  replaceSql,
  upsertSql,
  type CandidateRow,
  type FloorRow,
} from "./merge-sql.ts";
import type { StateSet } from "./states.ts";
import { together } from "./together.ts";

export interface Applied {
  /** States that are now held and were not before. */
  readonly applied: number;
  /** Held states that lost. */
  readonly replaced: readonly Candidate[];
  /** Incoming states that lost. */
  readonly refused: readonly Candidate[];
}

/** The answer of a statement with candidates: the first row carries the counts, and no key if there are none. */
export const candidatesIn = (rows: readonly CandidateRow[], maybeOld = false): Candidate[] =>
  rows.flatMap((row) => {
    if (row.key === null) return [];
    const stamp = {
      base: BigInt(row.base),
      version: BigInt(row.version),
      prev: BigInt(row.prev),
      seen: row.seen === null ? null : row.seen.map(BigInt),
    };
    const state: State =
      row.kind === "row"
        ? { kind: "row", content: row.content ?? "{}", ...stamp }
        : { kind: "tombstone", ...stamp };
    return [{ key: row.key, state, maybeOld: maybeOld && row.kind === "tombstone" }];
  });

/** Keys that come or go between reading and replacing are tried again so often, each time in a new snapshot. */
const maxRounds = 10;

/** A key of the batch came and went each time. The transaction is tried again. */
export class KeysUnsettled extends Error {
  readonly reaction = "retry";
  constructor(table: string) {
    super(`keys of ${table} were inserted and deleted by others while they were merged`);
  }
}

const nothing: Applied = { applied: 0, replaced: [], refused: [] };

const sum = (parts: readonly Applied[]): Applied => ({
  applied: parts.reduce((total, part) => total + part.applied, 0),
  replaced: parts.flatMap((part) => part.replaced),
  refused: parts.flatMap((part) => part.refused),
});

type MergedRow = CandidateRow & FloorRow & { applied: number };

const upsert = async (session: MergeSession, set: StateSet, counts: MergeCounts): Promise<Applied> => {
  const { rows } = await session.query<MergedRow>(upsertSql(set), [set.value()]);
  counts.raiseFloor(rows[0]?.floor ?? null);
  return { applied: rows[0]?.applied ?? 0, replaced: candidatesIn(rows), refused: [] };
};

type LockedRow = CandidateRow & FloorRow & { replaced: number; inserted: number; kept: number };

const lockAndReplace = async (
  session: MergeSession,
  set: StateSet,
  counts: MergeCounts,
): Promise<Applied> => {
  let done = nothing;
  for (let round = 1; round <= maxRounds; round++) {
    // What the rounds before have merged is now held, so that it counts as kept.
    const { rows } = await session.query<LockedRow>(lockAndReplaceSql(set), [set.value()]);
    counts.raiseFloor(rows[0]?.floor ?? null);
    const { replaced, inserted, kept } = rows[0] ?? { replaced: 0, inserted: 0, kept: 0 };
    done = sum([done, { applied: replaced + inserted, replaced: candidatesIn(rows), refused: [] }]);
    if (replaced + inserted + kept >= set.count) return done;
  }
  throw new KeysUnsettled(set.table.name);
};

type Apply = (session: MergeSession, set: StateSet, counts: MergeCounts) => Promise<Applied>;

/** For states that were written upon others: nearly always one that they have seen is held. */
const replaceOr =
  (otherwise: Apply): Apply =>
  async (session, set, counts) => {
    const { rowCount } = await session.query(replaceSql(set), [set.value()]);
    const replaced = { ...nothing, applied: rowCount ?? 0 };
    return replaced.applied === set.count ? replaced : sum([replaced, await otherwise(session, set, counts)]);
  };

/** What one statement is given: it is the server's memory for it that grows, see MergeSession. */
const maxPieceStates = 2_000;
const maxPieceBytes = 1024 * 1024;

/** A set as such pieces, in the order of the keys. */
export const piecesOf = (set: StateSet): readonly StateSet[] => {
  const pieces = Math.max(Math.ceil(set.count / maxPieceStates), Math.ceil(set.bytes / maxPieceBytes));
  if (pieces <= 1) return set.count === 0 ? [] : [set];
  const size = Math.ceil(set.count / pieces);
  return Array.from({ length: Math.ceil(set.count / size) }, (_, i) => set.slice(i * size, (i + 1) * size));
};

export interface ApplyOptions {
  /** Lock and read before replacing, as must be done before PostgreSQL 18. */
  readonly lockFirst: boolean;
  readonly counts: MergeCounts;
}

/**
 * Merges whole states of one relation: each replaces what is held in this relation if it is higher. What the other
 * relation holds of the key is the sweep's business.
 */
export const applyStates = async (
  session: MergeSession,
  set: StateSet,
  options: ApplyOptions,
): Promise<Applied> => {
  const { lockFirst, counts } = options;
  const each = async (states: StateSet, apply: Apply): Promise<Applied[]> =>
    together(
      piecesOf(states).map(async (piece) => withRefused(session, piece, await apply(session, piece, counts))),
    );
  const insertOrReplace = lockFirst ? lockAndReplace : upsert;
  if (set.kind === "tombstone") return sum(await each(set, insertOrReplace));
  const { first, later } = byPredecessor(set);
  const [replaced, inserted] = await together([
    each(later, replaceOr(insertOrReplace)),
    each(first, insertOrReplace),
  ]);
  return sum([...replaced, ...inserted]);
};

/** Those which nothing was held of where they were written, and those written upon others. */
export const byPredecessor = (set: StateSet): { readonly first: StateSet; readonly later: StateSet } => {
  let firsts = 0;
  for (let index = 0; index < set.count; index++) if (set.isFirst(index)) firsts += 1;
  if (firsts === set.count) return { first: set, later: set.pick([]) };
  if (firsts === 0) return { first: set.pick([]), later: set };
  const first: number[] = [];
  const later: number[] = [];
  for (let index = 0; index < set.count; index++) (set.isFirst(index) ? first : later).push(index);
  return { first: set.pick(first), later: set.pick(later) };
};

/** States that did not win are a replay, or came too late. Rare, so that the ordinary batch does not pay for asking. */
const withRefused = async (session: MergeSession, set: StateSet, done: Applied): Promise<Applied> => {
  if (done.applied === set.count || !set.table.logsConflicts) return done;
  const { rows } = await session.query<CandidateRow>(refusedSql(set), [set.value()]);
  return { ...done, refused: candidatesIn(rows) };
};

/** `fitting`: the states that did not fail, merged or refused. */
export interface Fitted extends Applied {
  readonly fitting: StateSet;
}

/**
 * The same where some states do not fit: halves what fails, in savepoints, down to single states, which go to
 * `misfit` with the error.
 */
export const applyFitting = async (
  session: MergeSession,
  set: StateSet,
  options: ApplyOptions & { readonly misfit: (state: StateSet, error: unknown) => Promise<void> },
): Promise<Fitted> => {
  const parts: Applied[] = [];
  const indices: number[] = [];
  const part = async (start: number, end: number): Promise<void> => {
    const piece = start === 0 && end === set.count ? set : set.slice(start, end);
    let failure: unknown;
    try {
      parts.push(await session.savepoint(() => applyStates(session, piece, options)));
      for (let index = start; index < end; index++) indices.push(index);
      return;
    } catch (error) {
      if (reactionTo(error, "merge") !== "quarantine") throw error;
      failure = error;
    }
    if (end - start === 1) return options.misfit(piece, failure);
    const middle = (start + end) >>> 1;
    await part(start, middle);
    await part(middle, end);
  };
  if (set.count > 0) await part(0, set.count);
  return { ...sum(parts), fitting: indices.length === set.count ? set : set.pick(indices) };
};
