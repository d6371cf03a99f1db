import type { Batch, TableBatch } from "./batch.ts";
import { collapse } from "./collapse.ts";
import type { ChangeSink } from "./decode.ts";
import type { Layout } from "./layout.ts";
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

/** A position of the source's WAL up to which nothing concerns us, and the source's clock when it said so. */
interface Keepalive {
  readonly lsn: bigint;
  readonly time: bigint;
}

/**
 * Collects transactions while the merger works on those before: the merger takes what there is, so batches are small
 * while it keeps up and grow as it falls behind. One producer, one taker.
 *
 * Changes of the open transaction lie behind the whole ones in the same buffers; each buffer's `whole` says how many
 * are whole. A batch takes those, and the rest moves to a fresh buffer.
 */
export class Inbox implements ChangeSink {
  readonly #limits: InboxLimits;
  readonly #flow: Flow;
  #buffers = new Map<Layout, { readonly states: StateBuffer; whole: number }>();
  #skipped = new Map<string, string>();
  readonly #closed: Batch[] = [];
  #closedBytes = 0;
  readonly #whole = { changes: 0, bytes: 0, transactions: 0, endLsn: 0n, commitTime: 0n };
  readonly #open = { changes: 0, bytes: 0, active: false };
  #keepalive: Keepalive | null = null;
  /** The highest position handed out by a batch or noted of one. */
  #seenLsn = 0n;
  #paused = false;
  #failure: Error | null = null;
  #waiting: { readonly resolve: (batch: Batch) => void; readonly reject: (reason: unknown) => void } | null =
    null;

  constructor(limits: InboxLimits, flow: Flow) {
    this.#limits = limits;
    this.#flow = flow;
  }

  /** Bytes held: of batches not yet taken, and of what follows. */
  get bufferedBytes(): number {
    return this.#closedBytes + this.#whole.bytes + this.#open.bytes;
  }

  /** Changes received and not taken yet. */
  get bufferedChanges(): number {
    return this.#closed.reduce((sum, batch) => sum + batch.changes, this.#whole.changes + this.#open.changes);
  }

  /** Whether the taker waits for what comes next. */
  get awaited(): boolean {
    return this.#waiting !== null;
  }

  begin(): void {
    this.#open.active = true;
    // The end of this transaction will say more, and in the middle of its pieces a keepalive would be wrong.
    this.#keepalive = null;
  }

  buffer(layout: Layout): StateBuffer {
    let entry = this.#buffers.get(layout);
    if (entry === undefined) {
      entry = { states: new StateBuffer(layout), whole: 0 };
      this.#buffers.set(layout, entry);
    }
    return entry.states;
  }

  appended(bytes: number): void {
    this.#open.changes += 1;
    this.#open.bytes += bytes + stateOverheadBytes;
    const { changes, bytes: size } = this.#open;
    if (changes >= this.#limits.maxBatchRows || size >= this.#limits.maxBatchBytes) {
      this.#closePiece();
    }
  }

  skip(table: string, reason: string): void {
    this.#skipped.set(table, reason);
  }

  commit(endLsn: bigint, commitTime: bigint): void {
    const whole = this.#whole;
    for (const entry of this.#buffers.values()) {
      entry.whole = entry.states.count;
    }
    whole.changes += this.#open.changes;
    whole.bytes += this.#open.bytes;
    whole.transactions += 1;
    whole.endLsn = endLsn;
    whole.commitTime = commitTime;
    this.#seenLsn = endLsn;
    Object.assign(this.#open, { changes: 0, bytes: 0, active: false });
    if (whole.changes >= this.#limits.maxBatchRows || whole.bytes >= this.#limits.maxBatchBytes) {
      this.#close(true);
    }
    this.#advance();
  }

  /** The source has sent everything before `lsn`; `time`: its clock, microseconds since 1970. */
  keepalive(lsn: bigint, time: bigint): void {
    if (this.#open.active || lsn <= this.#seenLsn) {
      return;
    }
    this.#seenLsn = lsn;
    this.#keepalive = { lsn, time };
    this.#advance();
  }

  /** The stream has ended. Whole transactions that are here can still be taken; then `take` rejects with the error. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#advance();
  }

  /**
   * What there is, as soon as it is one whole transaction, a piece of a huge one, or a keepalive.
   * @throws the stream's error, or the signal's reason
   */
  async take(signal: AbortSignal): Promise<Batch> {
    signal.throwIfAborted();
    if (this.#waiting !== null) {
      throw new Error("the inbox has one taker");
    }
    const { promise, resolve, reject } = Promise.withResolvers<Batch>();
    const abort = (): void => {
      // From now on a batch stays here, for the next taker.
      this.#waiting = null;
      reject(signal.reason);
    };
    this.#waiting = { resolve, reject };
    signal.addEventListener("abort", abort, { once: true });
    try {
      this.#advance();
      if (this.#waiting !== null) {
        this.#flow.hurry();
      }
      return await promise;
    } finally {
      this.#waiting = null;
      signal.removeEventListener("abort", abort);
    }
  }

  /** Hands over what can be taken, and pauses or resumes the source. */
  #advance(): void {
    if (this.#waiting !== null) {
      const batch = this.#next();
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
    } else if (this.#paused && held < this.#limits.maxBufferedBytes / 2) {
      this.#paused = false;
      this.#flow.resume();
    }
  }

  #next(): Batch | null {
    if (this.#closed.length === 0 && this.#whole.transactions > 0) {
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
    return { ...emptyBatch, endLsn: keepalive.lsn, commitTime: keepalive.time };
  }

  /** The open transaction is too large to be held: what is whole goes first, for it does not have to wait. */
  #closePiece(): void {
    if (this.#whole.transactions > 0) {
      this.#close(true);
    }
    for (const entry of this.#buffers.values()) {
      entry.whole = entry.states.count;
    }
    this.#whole.changes = this.#open.changes;
    this.#whole.bytes = this.#open.bytes;
    Object.assign(this.#open, { changes: 0, bytes: 0 });
    this.#close(false);
    this.#advance();
  }

  #close(endsTransaction: boolean): void {
    const tables = this.#detach();
    const { changes, bytes, transactions, endLsn, commitTime } = this.#whole;
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
    });
    this.#closedBytes += bytes;
    this.#skipped = new Map();
    Object.assign(this.#whole, { changes: 0, bytes: 0, transactions: 0 });
  }

  #detach(): TableBatch[] {
    const byTable = new Map<string, { row?: StateBuffer; tombstone?: StateBuffer }>();
    for (const [layout, entry] of this.#buffers) {
      if (entry.whole > 0) {
        const { name } = layout.table;
        const pair = byTable.get(name) ?? {};
        pair[layout.kind] = entry.states.detach(entry.whole);
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

const emptyBatch = {
  tables: [],
  states: 0,
  changes: 0,
  bytes: 0,
  transactions: 0,
  endsTransaction: true,
  skipped: new Map<string, string>(),
} as const;
