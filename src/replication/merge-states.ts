import type { State } from "../../conflict/state.ts";
import { reactionTo } from "../postgres/sqlstate.ts";
import type { Candidate, MergeCounts } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { lockAndReplaceSql, refusedSql, upsertSql, type CandidateRow, type FloorRow } from "./merge-sql.ts";
import type { StateSet } from "./states.ts";

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

const upsert = async (session: MergeSession, set: StateSet, counts: MergeCounts): Promise<Applied> => {
  const { rows } = await session.query<CandidateRow & FloorRow & { applied: number }>(upsertSql(set), [
    set.value(),
  ]);
  counts.raiseFloor(rows[0]?.floor ?? null);
  return { applied: rows[0]?.applied ?? 0, replaced: candidatesIn(rows), refused: [] };
};

type LockedRow = CandidateRow & FloorRow & { replaced: number; inserted: number; kept: number };

const lockAndReplace = async (
  session: MergeSession,
  set: StateSet,
  counts: MergeCounts,
): Promise<Applied> => {
  const lost: Candidate[] = [];
  let applied = 0;
  for (let round = 1; round <= maxRounds; round++) {
    // What the rounds before have merged is now held, so that it counts as kept.
    const { rows } = await session.query<LockedRow>(lockAndReplaceSql(set), [set.value()]);
    counts.raiseFloor(rows[0]?.floor ?? null);
    const { replaced, inserted, kept } = rows[0] ?? { replaced: 0, inserted: 0, kept: 0 };
    lost.push(...candidatesIn(rows));
    applied += replaced + inserted;
    if (replaced + inserted + kept >= set.count) return { applied, replaced: lost, refused: [] };
  }
  throw new KeysUnsettled(set.table.name);
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
  if (set.count === 0) return { applied: 0, replaced: [], refused: [] };
  const done = await (options.lockFirst ? lockAndReplace : upsert)(session, set, options.counts);
  if (done.applied === set.count || !set.table.logsConflicts) return done;
  // A replay, or a state that came too late. Rare, so that the ordinary batch does not pay for asking.
  const refused = await session.query<CandidateRow>(refusedSql(set), [set.value()]);
  return { ...done, refused: candidatesIn(refused.rows) };
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
  const replaced: Candidate[] = [];
  const refused: Candidate[] = [];
  const indices: number[] = [];
  let applied = 0;
  const part = async (start: number, end: number): Promise<void> => {
    const piece = start === 0 && end === set.count ? set : set.slice(start, end);
    let failure: unknown;
    try {
      const done = await session.savepoint(() => applyStates(session, piece, options));
      applied += done.applied;
      replaced.push(...done.replaced);
      refused.push(...done.refused);
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
  return { applied, replaced, refused, fitting: indices.length === set.count ? set : set.pick(indices) };
};
