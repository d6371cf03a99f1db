import type { Candidate } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { lockAndReplaceSql, refusedSql, upsertSql, type CandidateRow } from "./merge-sql.ts";
import type { StateSet } from "./states.ts";

export interface Applied {
  /** States that are now held and were not before. */
  readonly applied: number;
  readonly candidates: readonly Candidate[];
}

/** The answer of a statement with candidates: the first row carries the counts, and no key if there are none. */
export const candidatesIn = (rows: readonly CandidateRow[]): Candidate[] =>
  rows.flatMap((row) =>
    row.key === null
      ? []
      : [
          {
            key: row.key,
            kind: row.kind,
            version: BigInt(row.version),
            base: BigInt(row.base),
            prev: BigInt(row.prev),
            seen: (row.seen ?? []).map(BigInt),
            content: row.content,
          },
        ],
  );

/** Keys that come or go between reading and replacing are tried again so often, each time in a new snapshot. */
const maxRounds = 10;

/** A key of the batch came and went each time. The transaction is tried again. */
export class KeysUnsettled extends Error {
  readonly reaction = "retry";
  constructor(table: string) {
    super(`keys of ${table} were inserted and deleted by others while they were merged`);
  }
}

const upsert = async (session: MergeSession, set: StateSet): Promise<Applied> => {
  const { rows } = await session.query<CandidateRow & { applied: number }>(upsertSql(set), [set.value()]);
  return { applied: rows[0]?.applied ?? 0, candidates: candidatesIn(rows) };
};

const lockAndReplace = async (session: MergeSession, set: StateSet): Promise<Applied> => {
  const candidates: Candidate[] = [];
  let applied = 0;
  for (let round = 1; round <= maxRounds; round++) {
    // What the rounds before have merged is now held, so that it counts as kept.
    const { rows } = await session.query<CandidateRow & { replaced: number; inserted: number; kept: number }>(
      lockAndReplaceSql(set),
      [set.value()],
    );
    const { replaced, inserted, kept } = rows[0] ?? { replaced: 0, inserted: 0, kept: 0 };
    candidates.push(...candidatesIn(rows));
    applied += replaced + inserted;
    if (replaced + inserted + kept >= set.count) return { applied, candidates };
  }
  throw new KeysUnsettled(set.table.name);
};

export interface ApplyOptions {
  /** Lock and read before replacing, as must be done before PostgreSQL 18. */
  readonly lockFirst: boolean;
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
  if (set.count === 0) return { applied: 0, candidates: [] };
  const done = await (options.lockFirst ? lockAndReplace : upsert)(session, set);
  if (done.applied === set.count || !set.table.logsConflicts) return done;
  // A replay, or a state that came too late. Rare, so that the ordinary batch does not pay for asking.
  const refused = await session.query<CandidateRow>(refusedSql(set), [set.value()]);
  return { applied: done.applied, candidates: [...done.candidates, ...candidatesIn(refused.rows)] };
};
