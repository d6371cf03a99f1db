import type { Batch } from "./batch.ts";
import type { Confirmation } from "./confirm.ts";
import type { FetchStates } from "./fetch.ts";
import { parseLsn } from "./lsn.ts";
import { type MergedStates, mergeStates, prepareBatch } from "./merge.ts";
import { MergeAhead } from "./merge-ahead.ts";
import type { MergeReport } from "./merge-report.ts";
import type { MergeSession } from "./merge-session.ts";
import type { LinkStatus } from "./status.ts";
import type { SpareSession } from "./spare-session.ts";
import type { Sweeper } from "./sweeper.ts";
import { markMisfits, misfitTables, writeProgress } from "./progress.ts";
import { insist } from "./insist.ts";
import { together } from "./together.ts";
import type { AgentContext } from "./wiring.ts";

export interface MergerOptions {
  readonly context: AgentContext;
  readonly session: MergeSession;
  /** Where the next batch may be begun while one is in work. */
  readonly spare: SpareSession;
  readonly confirmation: Confirmation;
  readonly sweeper: Sweeper;
  readonly status: LinkStatus;
  /** The peer's id, and which database of the peer's the positions are of. */
  readonly origin: number;
  readonly incarnation: string;
  /** For rows whose unchanged TOAST columns have to be read at the source. */
  readonly fetch: FetchStates;
  /** Asks the source for its position, where a fetched row makes the transaction wait for it. */
  readonly askPosition: () => void;
}

/** Positions in the target's WAL. */
interface TargetPositions {
  readonly written: bigint;
  readonly flushed: bigint;
}

/** A batch of which nothing is left to be asked. */
export interface Merged {
  /** Resolves when all that was sent to be committed is: this batch too, if it ends a transaction. @throws what the link reacts to */
  readonly committed: Promise<void>;
}

/** What the open transaction is made of so far. */
interface OpenTransaction {
  readonly reports: MergeReport[];
  /** The stream must be merged up to here before it may be committed; null: it may. */
  mergeThrough: bigint | null;
  transactions: number;
  readonly skipped: Map<string, string>;
}

const newTransaction = (): OpenTransaction => ({
  reports: [],
  mergeThrough: null,
  transactions: 0,
  skipped: new Map(),
});

/**
 * Merges batches in transactions of the target that begin and end where the source's do. A huge transaction comes in
 * pieces and stays one; a row that had to be fetched keeps the transaction open until the stream has passed the
 * position of the fetch.
 *
 * A commit is sent, and its answer not waited for: the next batch follows it. That one is not committed
 * before the answer was good, so commits come in the peer's order and none is missing. A commit that fails ends the link.
 */
export class TransactionMerger implements AsyncDisposable {
  readonly #options: MergerOptions;
  readonly #ahead: MergeAhead;
  /** In which the present batch is merged. */
  #session: MergeSession;
  /** The batch in work, where it is a transaction by itself. */
  #whole: Batch | null = null;
  #open = newTransaction();
  /** The last commit that was sent. */
  #committed: Promise<void> = Promise.resolve();
  /** It has failed: nothing is merged any more. */
  #commitFailed = false;
  #queued = 0;
  #turn: Promise<unknown> = Promise.resolve();
  /** An idle position that is not in the progress yet, and when the last one was put there. */
  #unrecorded: Batch | null = null;
  #recordedAtMs = Number.NEGATIVE_INFINITY;
  /** The highest position of the source that is merged. */
  #merged = 0n;

  constructor(options: MergerOptions) {
    this.#options = options;
    this.#session = options.session;
    this.#ahead = new MergeAhead(options.spare, options.context.clock);
  }

  /** @throws what the link reacts to; the transaction is then rolled back */
  async merge(batch: Batch, signal: AbortSignal): Promise<Merged> {
    await this.#alone(() => this.#merge(batch, signal));
    return { committed: this.#committed };
  }

  /** What can be done for the next batch before its turn has come. */
  prepare(batch: Batch): void {
    if (this.#whole === null || !this.#ahead.begin(this.#whole, batch)) prepareBatch(this.#session, batch);
  }

  /** The merge is what all wait for: from now on `prepare` begins batches, as soon as there is a session for it. */
  prepareAhead(): void {
    if (this.#options.session.marksOrigin) this.#ahead.ask();
  }

  /** Ends what was only good for many batches in a row; not where a transaction goes on, which may be in that session. */
  async release(): Promise<void> {
    if (!this.#ahead.inUse) return;
    await this.#alone(async () => {
      await this.#committed;
      if (this.#session.inTransaction) return;
      await this.#ahead.release();
      this.#session = this.#options.session;
    });
  }

  /** Undoes what was begun ahead: no batch comes any more. */
  async withdraw(): Promise<void> {
    await this.#alone(async () => {
      await this.#committed.catch(() => undefined);
      await this.#ahead.withdraw().catch(() => undefined);
    });
  }

  /** No batch comes any more, nor the rest of an open transaction. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#alone(() => this.#ahead.release());
  }

  /** Looks whether more has become durable, unless a batch is being merged: then its commit tells. */
  async pollDurable(): Promise<void> {
    if (this.#queued === 0) {
      await this.#alone(() => this.noteDurable(null));
    }
  }

  /** The session serves one at a time, in the order of the calls. */
  async #alone(work: () => Promise<void>): Promise<void> {
    this.#queued += 1;
    const turn = this.#turn.then(work).finally(() => {
      this.#queued -= 1;
    });
    this.#turn = turn.catch(() => undefined);
    await turn;
  }

  async #merge(batch: Batch, signal: AbortSignal): Promise<void> {
    // Only what is asked in one session is answered in order.
    if (this.#ahead.inUse || this.#commitFailed) await this.#committed;
    const begun = this.#ahead.take(batch, this.#session);
    if (begun !== null) this.#session = begun.session;
    const session = this.#session;
    if (batch.transactions === 0 && batch.endsTransaction && batch.states === 0 && !session.inTransaction) {
      await this.#idle(batch);
      return;
    }
    const whole = begun !== null || (!session.inTransaction && batch.endsTransaction);
    try {
      if (whole) {
        this.#whole = batch;
        await this.#mergeWhole(batch, signal, begun?.merged);
      } else {
        await this.#settle(batch, await this.#mergeStates(batch, true));
        await this.#commit(batch);
      }
    } catch (error) {
      await this.#session.rollback().catch(() => undefined);
      await this.#ahead.withdraw().catch(() => undefined);
      this.#reset();
      throw error;
    } finally {
      this.#whole = null;
    }
    batch.release();
  }

  /** All of it is in memory: after a failure it is done again from the start, more carefully or a little later. */
  async #mergeWhole(batch: Batch, signal: AbortSignal, begun?: Promise<MergedStates>): Promise<void> {
    let merged = begun === undefined ? null : await this.#unlessInVain(begun);
    const session = this.#session;
    // What is begun by now may be what it failed of.
    let again = begun !== undefined && merged === null;
    // Where the next batch is begun in another session meanwhile, nothing is won by not waiting for the answer.
    const waits = this.#ahead.inUse;
    await insist({ ...this.#options, session }, signal, async (careful) => {
      this.#reset();
      if (again) await this.#ahead.withdraw();
      again = true;
      const states = merged ?? (await this.#mergeStates(batch, careful));
      merged = null;
      await this.#settle(batch, states);
      if (waits) await this.#commitAndWait(batch);
    });
    if (!waits) await this.#commit(batch);
  }

  async #commitAndWait(batch: Batch): Promise<void> {
    await this.#commit(batch);
    try {
      await this.#committed;
    } catch (error) {
      // The batch is here still, and is tried again.
      this.#committed = Promise.resolve();
      this.#commitFailed = false;
      throw error;
    }
  }

  /** What was begun ahead may have failed for want of the batch before it, and is merged anew. */
  async #unlessInVain(begun: Promise<MergedStates>): Promise<MergedStates | null> {
    try {
      return await begun;
    } catch {
      this.#ahead.pause();
      try {
        await this.#session.rollback();
      } catch (error) {
        if (this.#session === this.#options.session) throw error;
        // The second session is lost. The link has its own.
        await this.#ahead.release();
        this.#session = this.#options.session;
      }
      return null;
    }
  }

  async #mergeStates(batch: Batch, careful: boolean): Promise<MergedStates> {
    const session = this.#session;
    if (!session.inTransaction) {
      await session.begin();
    }
    return await mergeStates(session, batch, { careful, fetch: this.#options.fetch });
  }

  async #settle(batch: Batch, merged: MergedStates): Promise<void> {
    const report = await merged.settle();
    const open = this.#open;
    open.reports.push(report);
    open.transactions += batch.transactions;
    for (const [table, reason] of batch.skipped) {
      open.skipped.set(table, reason);
    }
    const { mergeThrough } = report;
    if (mergeThrough !== null && (open.mergeThrough === null || mergeThrough > open.mergeThrough)) {
      open.mergeThrough = mergeThrough;
    }
    if (batch.endsTransaction) await markMisfits(this.#session, this.#options.origin, open.skipped);
  }

  /** Sends the commit, if the transaction is to end. Nearly always the one before was answered with the states of this batch. */
  async #commit(batch: Batch): Promise<void> {
    const { origin, incarnation } = this.#options;
    const session = this.#session;
    const done = this.#open;
    if (!batch.endsTransaction) return;
    if (done.mergeThrough !== null && batch.endLsn < done.mergeThrough) {
      this.#options.askPosition();
      return;
    }
    await this.#committed;
    const { endLsn: lsn, commitTime } = batch;
    this.#reset();
    this.#committed = together([
      writeProgress(session, { origin, incarnation, lsn, commitTime }),
      session.commit().then(() => this.#account(batch, done)),
      this.#positions(),
    ]).then(([, , positions]) => this.#noteDurable(positions, lsn));
    this.#committed.catch(() => {
      this.#commitFailed = true;
    });
  }

  /** Nothing to merge: the position is recorded now and then, so that the peer's WAL can go. */
  async #idle(batch: Batch): Promise<void> {
    const { status } = this.#options;
    await this.#committed;
    // A source that has begun to read behind what is merged here says where it is: progress never goes back to that.
    if (batch.endLsn <= this.#merged) {
      return;
    }
    status.mergedLsn = batch.endLsn;
    this.#unrecorded = batch;
    if (this.idleDueMs() === 0) {
      await this.#recordIdle();
    }
  }

  /** In how many ms an idle position is to be recorded; null: there is none, or a transaction is open, whose end will say more. */
  idleDueMs(): number | null {
    const { clock, limits } = this.#options.context;
    return this.#unrecorded === null || this.#session.inTransaction
      ? null
      : Math.max(0, this.#recordedAtMs + limits.idleProgressMs - clock.monotonic());
  }

  /** Records the last idle position, unless something was merged since. Between two batches. */
  async recordIdle(): Promise<void> {
    await this.#alone(() => this.#recordIdle());
  }

  async #recordIdle(): Promise<void> {
    const { origin, incarnation, context } = this.#options;
    const session = this.#session;
    await this.#committed;
    if (session.inTransaction) return;
    const position = this.#unrecorded;
    this.#unrecorded = null;
    if (position === null || position.endLsn <= this.#merged) {
      return;
    }
    this.#recordedAtMs = context.clock.monotonic();
    const { endLsn: lsn, commitTime } = position;
    await session.transaction(() => writeProgress(session, { origin, incarnation, lsn, commitTime }));
    this.#options.status.recordedLsn = lsn;
    await this.noteDurable(lsn);
  }

  /** Only what the target has flushed is confirmed: its commits are asynchronous (FAULTS 5). */
  async noteDurable(committed: bigint | null): Promise<void> {
    this.#noteDurable(await this.#positions(), committed);
  }

  /** How far the target has written its WAL, and flushed it. Asked along with a commit, they are those after it. */
  async #positions(): Promise<TargetPositions> {
    const { rows } = await this.#session.query<{ written: string; flushed: string }>(
      "SELECT pg_current_wal_insert_lsn()::text AS written, pg_current_wal_flush_lsn()::text AS flushed",
    );
    const [row] = rows;
    if (row === undefined) throw new Error("the target did not tell its WAL position");
    return { written: parseLsn(row.written), flushed: parseLsn(row.flushed) };
  }

  #noteDurable({ written, flushed }: TargetPositions, committed: bigint | null): void {
    const { confirmation, status } = this.#options;
    if (committed !== null) {
      this.#merged = committed > this.#merged ? committed : this.#merged;
      confirmation.committed(committed, written);
    }
    confirmation.flushed(flushed);
    status.confirmedLsn = confirmation.confirmed;
  }

  #account(batch: Batch, done: OpenTransaction): void {
    const { status, sweeper } = this.#options;
    for (const report of done.reports) {
      status.rows += report.rowsMerged;
      status.tombstones += report.tombstonesMerged;
      for (const { table, type, count } of report.conflicts) {
        const types = status.conflicts.get(table) ?? new Map<string, number>();
        types.set(type, (types.get(type) ?? 0) + count);
        status.conflicts.set(table, types);
      }
      for (const keys of report.sweepLater) {
        sweeper.add(keys);
      }
    }
    for (const [table, reason] of misfitTables(done.skipped)) {
      status.misfits.set(table, reason);
    }
    status.transactions += done.transactions;
    status.batches += 1;
    status.mergedLsn = batch.endLsn;
    status.recordedLsn = batch.endLsn;
    status.mergedCommitMs = Number(batch.commitTime / 1000n);
  }

  #reset(): void {
    this.#open = newTransaction();
  }
}
