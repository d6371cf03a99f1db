import { sqlStateOf } from "../postgres/sqlstate.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import { Bell } from "./bell.ts";
import { logConflicts, readReports, readReportsOf, type Reported } from "./conflict-log.ts";
import type { KeySet } from "./merge-keys.ts";
import { MergeCounts, type ConflictCount } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import { sweepKeys, sweepTable, type Swept } from "./sweep.ts";

/** What is swept at once: some keys of a table, or all of it. */
interface Task {
  readonly table: ReplicatedTable;
  readonly keys: KeySet | null;
  /** Of all keys, those whose reports are to be judged again, as the conflict log names them. */
  readonly judge?: readonly string[];
}

/** Tasks of one capture, and the transactions that were open at it and may still bring a row below a tombstone. */
interface Group {
  tasks: Task[];
  blockers: ReadonlySet<string>;
}

export interface SweepRound {
  readonly rowsSwept: number;
  readonly conflicts: readonly ConflictCount[];
  /** Keys (and tables, each counted as one) that still wait for a transaction to end. */
  readonly waiting: number;
  /** The last error; what it stopped is tried again in the next round. */
  readonly error: unknown;
}

/**
 * Every transaction of this database that is open, by its virtual id. The oldest xid in progress would not do: it
 * misses a transaction that has a snapshot and has not written yet. Prepared transactions are here too. Not ours, and
 * not those which cannot write rows.
 */
const openTransactionsSql = `
SELECT DISTINCT l.virtualtransaction AS id
  FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype IN ('virtualxid', 'transactionid') AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND (a.datname IS NULL OR a.datname = current_database())
   AND (a.backend_type IS NULL OR a.backend_type NOT IN ('autovacuum worker', 'walsender', 'checkpointer'))`;

/**
 * Sweeps again after the commit. A local transaction that was open when a tombstone was merged may not have seen it,
 * and commit a row below it later. So the keys of merged tombstones are swept each time that some of the transactions
 * open at the commit have ended, until all have.
 *
 * Modes of a key: *fresh* (added, its transactions not yet captured), *waiting* (captured), then forgotten. Memory is
 * bounded: beyond `maxKeys`, whole tables are remembered in place of keys.
 */
export class Sweeper {
  readonly #maxKeys: number;
  readonly #added = new Bell();
  #fresh: Task[] = [];
  #waiting: Group[] = [];

  constructor(options: { readonly maxKeys?: number } = {}) {
    this.#maxKeys = options.maxKeys ?? 200_000;
  }

  /** To be called after the commit that merged these tombstones. */
  add(keys: KeySet): void {
    if (keys.count === 0) return;
    this.#addTask({ table: keys.table, keys });
  }

  /** To be swept whole: at the agent's start, since it is not known which tombstones the last one had not settled. */
  addTable(table: ReplicatedTable): void {
    this.#addTask({ table, keys: null });
  }

  /** Resolves when something waits, be it for a transaction to end or for another try; or when the signal is aborted. */
  async wanted(signal: AbortSignal): Promise<void> {
    while (this.waiting === 0 && !signal.aborted) {
      await this.#added.rung(signal);
    }
  }

  get waiting(): number {
    return count(this.#fresh) + this.#waiting.reduce((sum, group) => sum + count(group.tasks), 0);
  }

  /**
   * One round: sweeps what can be swept now. To be called every now and then, with a session that has no origin.
   * Errors of the data are in the answer; those of the session are thrown.
   */
  async round(session: MergeSession): Promise<SweepRound> {
    const counts = new MergeCounts();
    let error: unknown = null;
    if (this.waiting > 0) {
      const fresh = this.#fresh;
      this.#fresh = [];
      const open = await openTransactions(session).catch((reason: unknown) => {
        this.#fresh.push(...fresh);
        throw reason;
      });
      // At first once in any case: a transaction may have ended between the merge's own sweep and its commit.
      const started: Group = { tasks: fresh, blockers: new Set([...open, "first round"]) };
      if (fresh.length > 0) this.#waiting.push(started);
      for (const group of this.#waiting) {
        const left = group.blockers.intersection(open);
        if (left.size === group.blockers.size) continue;
        const { failed, reported } = await sweepTasks(session, group, counts);
        // A merge that was open when these reports were committed did not see them, and may have brought what
        // descends from a loser: once it has ended, they are judged again.
        this.#fresh.push(...reported);
        if (failed === null) group.blockers = left;
        else error = failed;
      }
      this.#waiting = this.#waiting.filter((group) => group.blockers.size > 0);
    }
    return {
      rowsSwept: counts.rowsSwept,
      conflicts: counts.report().conflicts,
      waiting: this.waiting,
      error,
    };
  }

  #addTask(task: Task): void {
    this.#fresh.push(task);
    this.#bound();
    this.#added.ring();
  }

  #bound(): void {
    if (this.waiting <= this.#maxKeys) return;
    const tasks = [...this.#fresh, ...this.#waiting.flatMap((group) => group.tasks)];
    const tables = new Map(tasks.map(({ table }) => [table.name, table]));
    // Captured anew: whatever was open at a commit and still is, is among what is open then.
    this.#fresh = [...tables.values()].map((table) => ({ table, keys: null }));
    this.#waiting = [];
  }
}

const count = (tasks: readonly Task[]): number =>
  tasks.reduce((sum, { keys }) => sum + (keys?.count ?? 1), 0);

const openTransactions = async (session: MergeSession): Promise<Set<string>> => {
  const { rows } = await session.query<{ id: string }>(openTransactionsSql);
  return new Set(rows.map((row) => row.id));
};

/**
 * Each task in a transaction of its own. The error of the last that failed; all are swept again then. A table that was
 * dropped or released meanwhile is forgotten. `reported`: the tasks that added to the conflict log.
 */
const sweepTasks = async (
  session: MergeSession,
  group: Group,
  counts: MergeCounts,
): Promise<{ readonly failed: unknown; readonly reported: readonly Task[] }> => {
  let failed: unknown = null;
  const reported: Task[] = [];
  for (const task of group.tasks) {
    const { table, keys } = task;
    try {
      await session.transaction(async () => {
        const swept: Swept = await (keys === null ? sweepTable(session, table) : sweepKeys(session, keys));
        const reports = swept.reported && table.logsConflicts ? await reportsOf(session, task) : [];
        const types = await logConflicts(session, table, { candidates: swept.candidates, reports });
        counts.raiseFloor(swept.floor);
        if (counts.floor > 0n) await session.query("SELECT coregent.raise_floor($1)", [counts.floor]);
        counts.rowsSwept += swept.rows;
        for (const type of types) counts.conflict(table.name, type);
        if (types.length > 0) reported.push({ ...task, judge: swept.candidates.map(({ key }) => key) });
      });
    } catch (error) {
      if (sqlStateOf(error) === "42P01") group.tasks = group.tasks.filter((other) => other !== task);
      else failed = error;
    }
  }
  return { failed, reported };
};

const reportsOf = (session: MergeSession, { table, keys, judge = [] }: Task): Promise<Reported[]> =>
  keys === null ? readReportsOf(session, table, judge) : readReports(session, keys);
