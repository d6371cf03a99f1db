import type { Batch, TableBatch } from "./batch.ts";
import { logConflicts } from "./conflict-log.ts";
import { keysOf } from "./merge-keys.ts";
import { MergeCounts, type Candidate, type MergeReport } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { applyStates, type Applied } from "./merge-states.ts";
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
  const apply = async (set: StateSet): Promise<number> => {
    const done: Applied = await applyStates(session, set, {
      lockFirst: work.options.lockFirst ?? session.serverVersion < 18,
    });
    candidates.push(...done.candidates);
    return done.applied;
  };

  // Tombstones first: the sweep below then also removes rows of this batch that they outrank.
  counts.tombstonesMerged += await apply(tombstones);
  counts.rowsMerged += await apply(rows);
  for (const set of [tombstones, rows]) {
    if (set.count === 0) continue;
    const keys = keysOf(set);
    const swept = await sweepKeys(session, keys);
    counts.rowsSwept += swept.rows;
    candidates.push(...swept.candidates);
    if (set.kind === "tombstone") counts.sweepLater.push(keys);
  }
  await logConflicts(session, table, candidates, counts);
};
