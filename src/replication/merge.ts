import { compareStates } from "../../conflict/state.ts";
import { regionOf } from "../../conflict/version.ts";
import { reactionTo } from "../postgres/sqlstate.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { Batch, TableBatch } from "./batch.ts";
import { logConflicts, readHeld, readReports, readReportsOf, type Reported } from "./conflict-log.ts";
import type { FetchStates } from "./fetch.ts";
import { keysOf } from "./merge-keys.ts";
import { MergeCounts, type Candidate, type MergeReport } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { copyStates, prepareCopy } from "./merge-copy.ts";
import { applyFitting, applyStates, byPredecessor, piecesOf, type Fitted } from "./merge-states.ts";
import { setAside, settleQuarantine } from "./quarantine.ts";
import type { StateSet } from "./states.ts";
import {
  buryCopied,
  buryRows,
  holdsTombstones,
  lookForTombstones,
  meetTombstones,
  nothingSwept,
  sweepKeys,
  type Noted,
  type Swept,
} from "./sweep.ts";
import { fetchStates, mergePartial, type PartialMerge } from "./toast.ts";
import { together } from "./together.ts";

export interface MergeOptions {
  /**
   * Set aside what does not fit, in savepoints. Without it, a row that does not fit fails the whole batch, which costs
   * the ordinary batch nothing: then roll back and merge it again, carefully. Pieces of a transaction that is too
   * large to be held are merged carefully from the start.
   */
  readonly careful?: boolean;
  /** For rows with unchanged TOAST columns; may be missing where there are none. */
  readonly fetch?: FetchStates;
  /** Lock and read before replacing. Default: before PostgreSQL 18, where RETURNING does not show what was replaced. */
  readonly lockFirst?: boolean;
  /** So many new keys of a relation are first tried by COPY. Default 200: for fewer, other statements cost less. */
  readonly leastCopied?: number;
  /** The keys are probably not here, whatever was there where the states were written: a table is being copied. */
  readonly absent?: boolean;
}

/**
 * merge(states): the one way in which states from elsewhere come into this region's tables, whatever the occasion.
 * Idempotent, and the same in any order, as the pure join in conflict/ is.
 *
 * Runs in the open transaction of `session`; the caller commits (and records its progress in the same transaction).
 * Any error leaves the transaction to be rolled back, `reactionTo(error, "merge")` tells what then; `quarantine` means
 * that it is to be merged again with `careful`.
 */
export const mergeBatch = async (
  session: MergeSession,
  batch: Pick<Batch, "tables">,
  options: MergeOptions = {},
): Promise<MergeReport> => {
  const merged = await mergeStates(session, batch, options);
  return merged.settle();
};

/** States that are merged in a transaction which is not ready to be committed. */
export interface MergedStates {
  /** Does what other transactions may wait for: it settles quarantine and conflict log, which keys share. */
  readonly settle: () => Promise<MergeReport>;
}

/** The first part of `mergeBatch`, which touches nothing but rows and tombstones of the batch's keys. */
export const mergeStates = async (
  session: MergeSession,
  batch: Pick<Batch, "tables">,
  options: MergeOptions = {},
): Promise<MergedStates> => {
  const counts = new MergeCounts();
  await session.resumeOrigin();
  const merges: { part: TableBatch; merge: TableMerge }[] = [];
  for (const part of batch.tables) {
    const merge = new TableMerge(session, part.table, { ...options, counts });
    merges.push({ part: await merge.copy(part), merge });
  }
  if (options.careful === true) for (const { part, merge } of merges) await merge.apply(part);
  else await applyAndLook(session, merges);
  await together(merges.map(({ merge }) => merge.sweep()));
  const settle = async (): Promise<MergeReport> => {
    for (const { merge } of merges) await merge.settle();
    // Last, because the log is written as our own: without the origin.
    for (const { merge } of merges) await merge.log();
    // Before others can see, and write upon, what has replaced higher versions.
    if (counts.floor > 0n) await session.query("SELECT coregent.raise_floor($1)", [counts.floor]);
    return counts.report();
  };
  return { settle };
};

/** What most batches need is asked at once: the states, and behind them all whether a tombstone is held of their keys. */
const applyAndLook = async (
  session: MergeSession,
  merges: readonly { readonly part: TableBatch; readonly merge: TableMerge }[],
): Promise<void> => {
  const applied = merges.map(({ part, merge }) => merge.apply(part));
  const looked = merges.map(({ part, merge }) => merge.look(part));
  const { asked } = session;
  await together([...applied, ...looked]);
  // What was asked since may have merged more, and waited for others: the sweep is to look by itself.
  if (session.asked > asked) for (const { merge } of merges) merge.forgetLook();
};

/** Below so many new keys of a relation other statements cost less than COPY. */
const leastCopied = 200;

/**
 * Builds most of what merging the batch will send: while the server is at work on the one before.
 * @param options as they will be for the merge
 */
export const prepareBatch = (
  session: MergeSession,
  { tables }: Pick<Batch, "tables">,
  { absent = false }: Pick<MergeOptions, "absent"> = {},
): void => {
  for (const { rows, tombstones } of tables) {
    if (tombstones.count >= leastCopied) prepareCopy(session, tombstones);
    if (rows.count >= leastCopied && byNovelty(rows, absent).first === rows) prepareCopy(session, rows);
  }
};

/** The states of probably new keys, and the others. `absent`: as in MergeOptions. */
const byNovelty = (rows: StateSet, absent: boolean): ReturnType<typeof byPredecessor> =>
  absent ? { first: rows, later: rows.slice(0, 0) } : byPredecessor(rows);

/** One table's part of a batch. */
class TableMerge {
  readonly #session: MergeSession;
  readonly #table: ReplicatedTable;
  readonly #options: MergeOptions & { readonly counts: MergeCounts };
  readonly #candidates: Candidate[] = [];
  readonly #reports: Reported[] = [];
  readonly #setAside: string[] = [];
  /** The sets merged so far. */
  readonly #merged: StateSet[] = [];
  /** Those of them that have not been swept. */
  readonly #unswept: StateSet[] = [];
  /** Those of which no tombstone is held. */
  readonly #unmet = new Set<StateSet>();
  /** Rows removed. */
  #swept = 0;
  #noted: Noted = { reported: false, quarantined: false };

  constructor(
    session: MergeSession,
    table: ReplicatedTable,
    options: MergeOptions & { readonly counts: MergeCounts },
  ) {
    this.#session = session;
    this.#table = table;
    this.#options = options;
  }

  /** Reports and retracts conflicts. */
  async log(): Promise<void> {
    const session = this.#session;
    this.#reports.push(...(await readReportsOf(session, this.#table, this.#setAside)));
    const findings = { candidates: this.#candidates, reports: this.#reports };
    for (const type of await logConflicts(session, this.#table, findings)) {
      this.#options.counts.conflict(this.#table.name, type);
    }
  }

  /** Merges what are probably new keys by COPY; gives the rest. */
  async copy(part: TableBatch): Promise<TableBatch> {
    const { counts, absent = false } = this.#options;
    const buried = await this.#copied(part.tombstones);
    if (buried) counts.tombstonesMerged += part.tombstones.count;
    const { first, later } = byNovelty(part.rows, absent);
    const inserted = await this.#copied(first);
    if (inserted) counts.rowsMerged += first.count;
    return {
      ...part,
      tombstones: buried ? part.tombstones.slice(0, 0) : part.tombstones,
      rows: inserted ? later : part.rows,
    };
  }

  async #copied(set: StateSet): Promise<boolean> {
    if (set.count < Math.max(1, this.#options.leastCopied ?? leastCopied)) return false;
    const copied = await copyStates(this.#session, set, () => this.#sweepSet(set, buryCopied));
    if (copied) this.#merged.push(set);
    return copied;
  }

  /** Merges the states, each in its own relation. */
  async apply({ rows, partial, tombstones }: TableBatch): Promise<void> {
    const { counts, careful = false } = this.#options;
    const bury = this.#apply(tombstones);
    // In savepoints it is one after the other.
    if (careful) await bury;
    const [buried, merged] = await together([bury, this.#apply(rows)]);
    this.#candidates.push(...(await this.#withoutOutlived(buried.replaced)), ...buried.refused);
    counts.tombstonesMerged += buried.applied;
    this.#candidates.push(...merged.replaced, ...merged.refused);
    counts.rowsMerged += merged.applied;
    this.#hold(buried.fitting);
    this.#hold(merged.fitting);
    for (const set of partial) await this.#mergePartial(set);
  }

  /** Asks what `sweep` has to know, unless it is more than one statement. */
  async look({ rows }: TableBatch): Promise<void> {
    if (piecesOf(rows).length !== 1) return;
    const { met, ...noted } = await lookForTombstones(this.#session, rows);
    this.#note({ ...nothingSwept, ...noted }, []);
    if (!met) this.#unmet.add(rows);
  }

  forgetLook(): void {
    this.#unmet.clear();
  }

  /** Removes rows that a tombstone outranks, in new snapshots: when the states of all tables are merged. */
  async sweep(): Promise<void> {
    await together(this.#unswept.splice(0).map((set) => this.#sweepSet(set)));
  }

  /** What is to be done for merged keys where the conflict log or the quarantine have entries of the table. */
  async settle(): Promise<void> {
    const session = this.#session;
    const { quarantined, reported } = this.#noted;
    // What was noted is of the moment before a sweep waited for a row's lock.
    const judges = (reported || this.#swept > 0) && this.#table.logsConflicts;
    if (!quarantined && !judges) return;
    for (const set of this.#merged) {
      if (set.count === 0) continue;
      const keys = keysOf(set);
      if (quarantined) {
        this.#candidates.push(...(await settleQuarantine(session, keys, versionsOf(set))));
      }
      if (judges) this.#reports.push(...(await readReports(session, keys)));
    }
  }

  async #apply(set: StateSet): Promise<Fitted> {
    const { careful = false, counts } = this.#options;
    const lockFirst = this.#options.lockFirst ?? this.#session.serverVersion < 18;
    const options = { lockFirst, counts };
    if (!careful) return { ...(await applyStates(this.#session, set, options)), fitting: set };
    const misfit = (state: StateSet, error: unknown): Promise<void> => this.#misfit(state, error);
    return applyFitting(this.#session, set, { ...options, misfit });
  }

  async #misfit(state: StateSet, error: unknown): Promise<void> {
    const { quarantined, key, candidates } = await setAside(this.#session, state, error);
    this.#candidates.push(...candidates);
    this.#setAside.push(key);
    if (quarantined) this.#options.counts.quarantined += 1;
  }

  async #mergePartial(set: StateSet): Promise<void> {
    const { counts } = this.#options;
    const done = await this.#updatePartial(set);
    counts.rowsMerged += done.applied;
    if (done.applied > 0) this.#hold(set);
    if (done.fetched === null) return;
    counts.fetchedThrough(done.fetched.position);
    // One after the other: a key may come as a row and as a tombstone, and the one does not judge what the other has lost.
    for (const part of done.fetched.parts) {
      await this.apply(part);
      await this.sweep();
    }
  }

  #hold(set: StateSet): void {
    this.#merged.push(set);
    this.#unswept.push(set);
  }

  async #updatePartial(set: StateSet): Promise<PartialMerge> {
    const { careful = false, fetch } = this.#options;
    const work = (): Promise<PartialMerge> => mergePartial(this.#session, set, fetch);
    if (!careful) return work();
    try {
      return await this.#session.savepoint(work);
    } catch (error) {
      if (reactionTo(error, "merge") !== "quarantine") throw error;
      // One of them does not fit. Whole, they can be told apart and set aside.
      return { applied: 0, fetched: await fetchStates(set, fetch) };
    }
  }

  async #sweepSet(set: StateSet, bury: typeof buryRows = buryRows): Promise<void> {
    if (set.count === 0 || this.#unmet.has(set)) return;
    if (set.kind === "tombstone") {
      const swept = await bury(this.#session, set);
      this.#note(swept, swept.candidates);
      this.#options.counts.sweepLater.push(keysOf(set));
      return;
    }
    const { held, ...noted } = await holdsTombstones(this.#session, set.table);
    this.#note({ ...nothingSwept, ...noted }, []);
    if (held) await together(piecesOf(set).map((piece) => this.#sweepRows(piece)));
  }

  async #sweepRows(rows: StateSet): Promise<void> {
    const keys = keysOf(rows);
    const { met, ...noted } = await meetTombstones(this.#session, keys);
    if (!met) {
      this.#note({ ...nothingSwept, ...noted }, []);
      return;
    }
    const swept = await sweepKeys(this.#session, keys);
    this.#note(swept, this.#notOurOwn(rows, swept.candidates));
    // With a conflict between a row and a tombstone, another merge of the key did not wait for ours: the report is
    // judged again when it has ended.
    if (swept.candidates.length > 0) this.#options.counts.sweepLater.push(keys);
  }

  #note(swept: Swept, candidates: readonly Candidate[]): void {
    const { counts } = this.#options;
    counts.rowsSwept += swept.rows;
    counts.raiseFloor(swept.floor);
    this.#swept += swept.rows;
    this.#noted = {
      reported: this.#noted.reported || swept.reported,
      quarantined: this.#noted.quarantined || swept.quarantined,
    };
    this.#candidates.push(...candidates);
  }

  /**
   * Leaves out tombstones that were replaced, but were not the highest state held of their key: a row was. So they
   * have been judged when that row was written or merged.
   */
  async #withoutOutlived(candidates: readonly Candidate[]): Promise<readonly Candidate[]> {
    if (candidates.length === 0) return candidates;
    const keys = [...new Set(candidates.map(({ key }) => key))];
    const rows = await readHeld(this.#session, this.#table, keys, { kind: "row" });
    return candidates.filter(({ key, state }) => {
      const row = rows.get(key);
      return row === undefined || compareStates(row, state) < 0;
    });
  }

  /**
   * Rows of this batch that a tombstone outranks were written and swept again. If they were once written in this
   * region, they have come back from a peer, and were judged here when they were overruled.
   */
  #notOurOwn(set: StateSet, candidates: readonly Candidate[]): Candidate[] {
    const isOurs = ({ state }: Candidate): boolean =>
      state.kind === "row" && regionOf(state.version) === this.#session.regionId;
    if (!candidates.some(isOurs)) return [...candidates];
    const incoming = versionsOf(set);
    return candidates.filter((candidate) => !isOurs(candidate) || !incoming.has(candidate.state.version));
  }
}

const versionsOf = (set: StateSet): ReadonlySet<bigint> =>
  new Set(Array.from({ length: set.count }, (_, index) => set.version(index)));
