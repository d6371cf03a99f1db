import type { Clock, Nap } from "../clock.ts";
import { type Batch, keepaliveBatch, type TableBatch } from "./batch.ts";
import { collapse } from "./collapse.ts";
import { CommitPoint } from "./commit-point.ts";
import type { ChangeSink } from "./decode.ts";
import type { Layout } from "./layout.ts";
import type { SpareMemory } from "./spare-memory.ts";
import { StateBuffer, stateOverheadBytes } from "./state-buffer.ts";

export interface InboxLimits {
  /** A batch is closed at the end of the transaction that brings it to so many changes... */
  readonly maxBatchRows: number;
  /** ...or bytes. A transaction that exceeds a limit by itself is handed out in pieces of about this size. */
  readonly maxBatchBytes: number;
  /** Above this the source is paused. At least twice maxBatchBytes. */
  readonly maxBufferedBytes: number;
}

/** The socket behind the inbox. All may be called repeatedly. */
export interface Flow {
  pause(): void;
  resume(): void;
  /** The taker waits for what comes next. */
  hurry(): void;
}

export interface InboxParts {
  readonly clock: Pick<Clock, "nap">;
  /** For batches; given back when they are merged. */
  readonly memory: SpareMemory;
}

/** What counts against the limits of a batch. */
interface Held {
  states: number;
  bytes: number;
}

/** For each transaction: an object to assign from would be one more. */
const empty = (held: Held & { changes: number }): void => {
  held.changes = 0;
  held.states = 0;
  held.bytes = 0;
};

/** In a backlog, batches are of at least this part of the largest, or of what has come within so many ms. */
const leastShare = 4;
const patienceMs = 20;

/** Changes of a transaction, after which a message more or less a moment earlier is nothing to the taker. */
const largeTransaction = 500;

/** A position of the source's WAL up to which nothing concerns us, and the source's clock when it said so. */
interface Keepalive {
  readonly lsn: bigint;
  readonly time: bigint;
}

/**
 * Collects transactions while the merger works on those before: the merger takes what there is, so batches are small
 * while it keeps up and grow as it falls behind. In a backlog it waits until they are worth it, for many small ones cost
 * more than one. One producer, one taker.
 *
 * Changes of the open transaction lie behind the whole ones in the same buffers; each buffer's `whole` says how many
 * are whole. A batch takes those, and the rest moves to a fresh buffer.
 */
export class Inbox implements ChangeSink {
  readonly #limits: InboxLimits;
  readonly #flow: Flow;
  readonly #patience: Nap;
  readonly #due: Nap;
  /** What the source has before this position is a backlog. */
  #backlogEnd = 0n;
  #buffers = new Map<Layout, { readonly states: StateBuffer; whole: number }>();
  #skipped = new Map<string, string>();
  readonly #closed: Batch[] = [];
  #closedBytes = 0;
  /** `states`: of the changes, those that are held. */
  readonly #whole = { changes: 0, states: 0, bytes: 0, transactions: 0 };
  /** Of the last transaction that is whole. */
  readonly #lastCommit = new CommitPoint();
  readonly #open = { changes: 0, states: 0, bytes: 0, active: false };
  readonly #memory: SpareMemory;
  #keepalive: Keepalive | null = null;
  /** The highest position of a keepalive. */
  #keptAliveLsn = 0n;
  #paused = false;
  #failure: Error | null = null;
  #waiting: Pick<PromiseWithResolvers<Batch | null>, "resolve" | "reject"> | null = null;

  constructor(limits: InboxLimits, flow: Flow, { clock, memory }: InboxParts) {
    this.#limits = limits;
    this.#flow = flow;
    this.#patience = clock.nap();
    this.#due = clock.nap();
    this.#memory = memory;
  }

  /** Bytes held: of batches not yet taken, and of what follows. */
  get bufferedBytes(): number {
    return this.#closedBytes + this.#whole.bytes + this.#open.bytes;
  }

  /** Changes received and not taken yet. */
  get bufferedChanges(): number {
    return this.#closed.reduce((sum, batch) => sum + batch.changes, this.#whole.changes + this.#open.changes);
  }

  /** Whether the taker waits for what comes next, and not for the rest of a large transaction. */
  get awaited(): boolean {
    return this.#waiting !== null && this.#open.states < largeTransaction && !this.catchingUp;
  }

  /** Whether the source waits for the taker. */
  get holdsBack(): boolean {
    return this.#paused;
  }

  /** The batch that will be taken next; null: there is none yet. */
  get next(): Batch | null {
    return this.#closed[0] ?? null;
  }

  /** What the source has before `end` was written long ago. */
  catchUp(end: bigint): void {
    this.#backlogEnd = end;
  }

  /** The source has changed: the new one is paused if it must be. */
  regulate(): void {
    this.#advance();
  }

  begin(): void {
    this.#open.active = true;
    // The end of this transaction will say more, and in the middle of its pieces a keepalive would be wrong.
    this.#keepalive = null;
  }

  buffer(layout: Layout): StateBuffer {
    let entry = this.#buffers.get(layout);
    if (entry === undefined) {
      entry = { states: new StateBuffer(layout, undefined, this.#memory), whole: 0 };
      this.#buffers.set(layout, entry);
    }
    return entry.states;
  }

  appended(bytes: number): void {
    const open = this.#open;
    open.changes += 1;
    open.states += 1;
    open.bytes += bytes + stateOverheadBytes;
    if (this.#exceeds(open)) {
      this.#closePiece();
    }
  }

  skip(table: string, reason: string): void {
    this.#skipped.set(table, reason);
  }

  commit(point: CommitPoint): void {
    const whole = this.#whole;
    const open = this.#open;
    for (const entry of this.#buffers.values()) {
      entry.whole = entry.states.count;
    }
    whole.changes += open.changes;
    whole.states += open.states;
    whole.bytes += open.bytes;
    whole.transactions += 1;
    this.#lastCommit.copy(point);
    empty(open);
    open.active = false;
    if (this.#exceeds(whole) && !this.#shrink(whole)) {
      this.#close(true);
    }
    this.#advance();
  }

  /** The source has sent everything before `lsn`; `time`: its clock, microseconds since 1970. */
  keepalive(lsn: bigint, time: bigint): void {
    if (this.#open.active || lsn <= this.#seenLsn) {
      return;
    }
    this.#keptAliveLsn = lsn;
    this.#keepalive = { lsn, time };
    this.#advance();
  }

  /** The stream has ended. Whole transactions that are here can still be taken; then `take` rejects with the error. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#advance();
  }

  /**
   * What there is, as soon as it is one whole transaction, a piece of a huge one, or a keepalive. Null: nothing was within `ms`.
   * @throws the stream's error, or the signal's reason
   */
  async take(ms: number, signal: AbortSignal): Promise<Batch | null> {
    signal.throwIfAborted();
    if (this.#waiting !== null) {
      throw new Error("the inbox has one taker");
    }
    const { promise, resolve, reject } = Promise.withResolvers<Batch | null>();
    // After either of these a batch stays here, for the next taker.
    const abort = (): void => {
      this.#waiting = null;
      reject(signal.reason);
    };
    const giveUp = (): void => {
      if (this.#waiting?.resolve === resolve) this.#waiting = null;
      resolve(null);
    };
    this.#waiting = { resolve, reject };
    signal.addEventListener("abort", abort, { once: true });
    try {
      this.#advance();
      if (this.#waiting !== null) {
        if (this.catchingUp) void this.#bePatient().catch(reject);
        if (ms < Infinity) void this.#due.take(ms).then(giveUp);
        this.#flow.hurry();
      }
      return await promise;
    } finally {
      this.#waiting = null;
      this.#patience.end();
      this.#due.end();
      signal.removeEventListener("abort", abort);
    }
  }

  /** Until the taker has a batch. */
  async #bePatient(): Promise<void> {
    const waiting = this.#waiting;
    while (this.#waiting !== null && this.#waiting === waiting) {
      await this.#patience.take(patienceMs);
      this.#advance(true);
    }
  }

  /** Whether what the source had before the given end has not all come. */
  get catchingUp(): boolean {
    return this.#seenLsn < this.#backlogEnd;
  }

  /** Everything before this has come. */
  get #seenLsn(): bigint {
    const { endLsn } = this.#lastCommit;
    return endLsn > this.#keptAliveLsn ? endLsn : this.#keptAliveLsn;
  }

  /** Whether there is something whole, and as much as is worth a batch. */
  get #worthClosing(): boolean {
    const { transactions, states, bytes } = this.#whole;
    if (transactions === 0) return false;
    const { maxBatchRows, maxBatchBytes } = this.#limits;
    if (states >= maxBatchRows / leastShare || bytes >= maxBatchBytes / leastShare) return true;
    // The keepalive's position follows it.
    return !this.catchingUp || this.#keepalive !== null || this.#failure !== null;
  }

  /** Hands over what can be taken, and pauses or resumes the source. `impatient`: it need not be much. */
  #advance(impatient = false): void {
    if (this.#waiting !== null) {
      const batch = this.#next(impatient);
      if (batch !== null) {
        this.#waiting.resolve(batch);
        this.#waiting = null;
      } else if (this.#failure !== null) {
        this.#waiting.reject(this.#failure);
        this.#waiting = null;
      }
    }
    const held = this.bufferedBytes;
    if (held >= this.#limits.maxBufferedBytes) {
      // Each time: a stream that is just being opened may have missed it.
      this.#paused = true;
      this.#flow.pause();
    } else if (this.#paused && held < this.#limits.maxBufferedBytes - this.#limits.maxBatchBytes / 4) {
      // Soon: while it stands still and the target alone works, a core has nothing to do.
      this.#paused = false;
      this.#flow.resume();
    }
  }

  #next(impatient: boolean): Batch | null {
    if (this.#closed.length === 0 && (this.#worthClosing || (impatient && this.#whole.transactions > 0))) {
      this.#close(true);
    }
    const batch = this.#closed.shift();
    if (batch !== undefined) {
      this.#closedBytes -= batch.bytes;
      return batch;
    }
    const keepalive = this.#keepalive;
    if (keepalive === null) {
      return null;
    }
    this.#keepalive = null;
    return keepaliveBatch(keepalive.lsn, keepalive.time);
  }

  #exceeds({ states, bytes }: Held): boolean {
    return states >= this.#limits.maxBatchRows || bytes >= this.#limits.maxBatchBytes;
  }

  /** The open transaction is too large to be held: what is whole goes first, for it does not have to wait. */
  #closePiece(): void {
    if (this.#whole.transactions > 0) {
      this.#close(true);
    }
    if (!this.#shrink(this.#open)) {
      for (const entry of this.#buffers.values()) {
        entry.whole = entry.states.count;
      }
      const { changes, states, bytes } = this.#open;
      Object.assign(this.#whole, { changes, states, bytes });
      empty(this.#open);
      this.#close(false);
    }
    this.#advance();
  }

  /**
   * Leaves out states that were overtaken by others of their keys, where the buffers hold nothing but these. True if that
   * makes room for as much again: what changes the same keys again and again is merged but once.
   */
  #shrink(held: Held): boolean {
    let states = 0;
    let bytes = 0;
    for (const entry of this.#buffers.values()) {
      entry.states.compact();
      if (entry.whole > 0) {
        entry.whole = entry.states.count;
      }
      states += entry.states.count;
      bytes += entry.states.end + entry.states.count * stateOverheadBytes;
    }
    Object.assign(held, { states, bytes });
    return states <= this.#limits.maxBatchRows / 2 && bytes <= this.#limits.maxBatchBytes / 2;
  }

  #close(endsTransaction: boolean): void {
    const used: StateBuffer[] = [];
    const tables = this.#detach(used);
    const { changes, bytes, transactions } = this.#whole;
    const { endLsn, commitTime } = this.#lastCommit;
    this.#closed.push({
      tables,
      states: tables.reduce((sum, table) => sum + statesOf(table), 0),
      changes,
      bytes,
      transactions,
      endsTransaction,
      endLsn,
      commitTime,
      skipped: this.#skipped,
      release: () => {
        for (const states of used.splice(0)) states.release();
      },
    });
    this.#closedBytes += bytes;
    this.#skipped = new Map();
    empty(this.#whole);
    this.#whole.transactions = 0;
  }

  #detach(used: StateBuffer[]): TableBatch[] {
    const byTable = new Map<string, { row?: StateBuffer; tombstone?: StateBuffer }>();
    for (const [layout, entry] of this.#buffers) {
      if (entry.whole > 0) {
        const { name } = layout.table;
        const pair = byTable.get(name) ?? {};
        const states = entry.states.detach(entry.whole);
        used.push(states);
        pair[layout.kind] = states;
        byTable.set(name, pair);
        entry.whole = 0;
      } else if (entry.states.count === 0) {
        // Relations come and go, buffers of those that have gone quiet need not stay.
        this.#buffers.delete(layout);
      }
    }
    return [...byTable.keys()].sort().map((name) => {
      const { row, tombstone } = byTable.get(name)!;
      return collapse(row, tombstone);
    });
  }
}

const statesOf = (batch: TableBatch): number =>
  batch.rows.count + batch.tombstones.count + batch.partial.reduce((sum, set) => sum + set.count, 0);
