import type { ReplicatedTable } from "../postgres/table.ts";
import type { KeySet } from "./merge-keys.ts";
import type { Candidate } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { sweepSql, type CandidateRow, type FloorRow } from "./merge-sql.ts";
import { candidatesIn } from "./merge-states.ts";

export interface Swept {
  /** Rows removed. */
  readonly rows: number;
  readonly candidates: readonly Candidate[];
  /** The conflict log has entries of this table. */
  readonly reported: boolean;
  /** The quarantine has. */
  readonly quarantined: boolean;
  readonly floor: string | null;
}

type SweptRow = CandidateRow &
  FloorRow & { readonly swept: number; readonly reported: boolean; readonly quarantined: boolean };

const nothing: Swept = { rows: 0, candidates: [], reported: false, quarantined: false, floor: null };

const sweptIn = (rows: readonly SweptRow[]): Swept => {
  const [first] = rows;
  if (first === undefined) return nothing;
  return {
    rows: first.swept,
    candidates: candidatesIn(rows, true),
    reported: first.reported,
    quarantined: first.quarantined,
    floor: first.floor,
  };
};

/**
 * Removes rows of these keys that a tombstone outranks: rows and tombstones lie in two relations and do not wait for
 * each other, so two transactions can each miss the other's.
 */
export const sweepKeys = async (session: MergeSession, keys: KeySet): Promise<Swept> => {
  if (keys.count === 0) return nothing;
  const { rows } = await session.query<SweptRow>(sweepSql(keys.table, keys.from), keys.values);
  return sweptIn(rows);
};

/** The same for all tombstones of a table. Here a plan that reads whole relations is the right one. */
export const sweepTable = async (session: MergeSession, table: ReplicatedTable): Promise<Swept> => {
  await session.client.query("SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on");
  const { rows } = await session.client.query<SweptRow>(sweepSql(table, null));
  await session.client.query("SET LOCAL enable_hashjoin = off; SET LOCAL enable_seqscan = off");
  return sweptIn(rows);
};
