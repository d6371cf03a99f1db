import { compareStates } from "../../conflict/state.ts";
import { regionOf } from "../../conflict/version.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { Batch, TableBatch } from "./batch.ts";
import { logConflicts, readHeld, readReports, type Reported } from "./conflict-log.ts";
import { keysOf } from "./merge-keys.ts";
import { MergeCounts, type Candidate, type MergeReport } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { applyStates } from "./merge-states.ts";
import type { StateSet } from "./states.ts";
import { sweepKeys } from "./sweep.ts";

export interface MergeOptions {
  /** Lock and read before replacing. Default: before PostgreSQL 18, where RETURNING does not show what was replaced. */
  readonly lockFirst?: boolean;
}

/**
 * merge(states): the one way in which states from elsewhere come into this region's tables, whatever the occasion.
 * Idempotent, and the same in any order, as the pure join in conflict/ is.
 *
 * Runs in the open transaction of `session`; the caller commits (and records its progress in the same transaction).
 * Any error leaves the transaction to be rolled back, `reactionTo(error, "merge")` tells what then.
 */
export const mergeBatch = async (
  session: MergeSession,
  batch: Pick<Batch, "tables">,
  options: MergeOptions = {},
): Promise<MergeReport> => {
  const counts = new MergeCounts();
  await session.resumeOrigin();
  for (const part of batch.tables) await mergeTable(session, part, { options, counts });
  // Before others can see, and write upon, what has replaced higher versions.
  if (counts.floor > 0n) await session.query("SELECT coregent.raise_floor($1)", [counts.floor]);
  return counts.report();
};

interface Work {
  readonly options: MergeOptions;
  readonly counts: MergeCounts;
}

const mergeTable = async (session: MergeSession, part: TableBatch, work: Work): Promise<void> => {
  const { table, rows, tombstones } = part;
  const { counts } = work;
  const candidates: Candidate[] = [];
  const reports: Reported[] = [];
  const lockFirst = work.options.lockFirst ?? session.serverVersion < 18;

  // Tombstones first: the sweep below then also removes rows of this batch that they outrank.
  const buried = await applyStates(session, tombstones, { lockFirst, counts });
  candidates.push(...(await withoutOutlived(session, table, buried.candidates)));
  counts.tombstonesMerged += buried.applied;
  const merged = await applyStates(session, rows, { lockFirst, counts });
  candidates.push(...merged.candidates);
  counts.rowsMerged += merged.applied;

  for (const set of [tombstones, rows]) {
    if (set.count === 0) continue;
    const keys = keysOf(set);
    const swept = await sweepKeys(session, keys);
    counts.rowsSwept += swept.rows;
    counts.raiseFloor(swept.floor);
    candidates.push(...(set.kind === "row" ? notOurOwn(session, set, swept.candidates) : swept.candidates));
    if (swept.reported && table.logsConflicts) reports.push(...(await readReports(session, keys)));
    if (set.kind === "tombstone") counts.sweepLater.push(keys);
  }
  for (const type of await logConflicts(session, table, { candidates, reports }))
    counts.conflict(table.name, type);
};

/**
 * Leaves out tombstones that were replaced, but were not the highest state held of their key: a row was. So they have
 * been judged when that row was written or merged.
 */
const withoutOutlived = async (
  session: MergeSession,
  table: ReplicatedTable,
  candidates: readonly Candidate[],
): Promise<readonly Candidate[]> => {
  if (candidates.length === 0) return candidates;
  const rows = await readHeld(session, table, [...new Set(candidates.map(({ key }) => key))], ["row"]);
  return candidates.filter(({ key, state }) => {
    const row = rows.get(key);
    return row === undefined || compareStates(row, state) < 0;
  });
};

/**
 * Rows of this batch that a tombstone outranks were written and swept again. If they were once written in this
 * region, they have come back from a peer, and were judged here when they were overruled.
 */
const notOurOwn = (session: MergeSession, set: StateSet, candidates: readonly Candidate[]): Candidate[] => {
  const isOurs = ({ state }: Candidate): boolean => regionOf(state.version) === session.regionId;
  if (!candidates.some(isOurs)) return [...candidates];
  const incoming = new Set(Array.from({ length: set.count }, (_, index) => set.version(index)));
  return candidates.filter(
    (candidate) =>
      candidate.state.kind === "tombstone" || !isOurs(candidate) || !incoming.has(candidate.state.version),
  );
};
