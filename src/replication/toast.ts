import type { FetchStates, Fetched } from "./fetch.ts";
import type { MergeSession } from "./merge-session.ts";
import { missingPartialSql, updatePartialSql } from "./merge-sql.ts";
import type { StateSet } from "./states.ts";

/**
 * Rows whose unchanged TOAST columns the WAL did not hold. The local values are exact if the local row is the very one
 * that the change was written upon; else the row is fetched from its source. Never is the local value kept: it may stem
 * from a third region's write.
 *
 * Nothing is to be done where a higher state is held already. If that one has not seen the change, the change has lost
 * against it, but its content is not here: the region that wrote it reports it, for it holds it whole.
 */
export interface PartialMerge {
  /** Rows that were merged with the local values of their unchanged columns. */
  readonly applied: number;
  /** Whole states to be merged like any others; null: all is done. */
  readonly fetched: Fetched | null;
}

/** The set needs a session with the source, and there is none. */
export class NoSource extends Error {
  readonly reaction = "stop";
  constructor(table: string) {
    super(`${table}: rows must be fetched from their source, and the merge was given no session with it`);
  }
}

const parameters = (set: StateSet): [Buffer, bigint[]] => [
  set.value(),
  Array.from({ length: set.count }, (_, index) => set.unchangedSince(index)),
];

export const mergePartial = async (
  session: MergeSession,
  set: StateSet,
  fetch: FetchStates | undefined,
): Promise<PartialMerge> => {
  if (set.count === 0) return { applied: 0, fetched: null };
  const updated = await session.query(updatePartialSql(set), parameters(set));
  const applied = updated.rowCount ?? 0;
  if (applied === set.count) return { applied, fetched: null };
  const missing = await session.query<{ index: number }>(missingPartialSql(set), parameters(set));
  if (missing.rows.length === 0) return { applied, fetched: null };
  return {
    applied,
    fetched: await fetchStates(set.pick(missing.rows.map(({ index }) => index - 1)), fetch),
  };
};

export const fetchStates = async (set: StateSet, fetch: FetchStates | undefined): Promise<Fetched> => {
  if (fetch === undefined) throw new NoSource(set.table.name);
  return fetch(set);
};
