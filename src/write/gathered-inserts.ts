import { MAX_REGION, pack } from "../../conflict/version.ts";
import type { Clock } from "../clock.ts";
import { isOfAll } from "./commit.ts";
import { Gatherer } from "./gather.ts";
import type { Master } from "./master.ts";
import type { InsertForm } from "./new-row.ts";
import type { Once } from "./once.ts";
import type { Position } from "./position.ts";
import { runTransaction } from "./transaction.ts";

/** What a request came to, and a position that covers it; null: there was nothing to commit. */
export interface Committed {
  readonly result: Once;
  readonly position: Position | null;
}

/** A single new row under a key that was made for it. */
export interface NewRow {
  readonly values: readonly (string | null)[];
  /** As `TransactionSettings` have it. */
  readonly stampAbove: string | null;
  readonly signal: AbortSignal;
  /** As if there were no others. */
  readonly alone: () => Promise<Committed>;
}

interface SizedRow extends NewRow {
  readonly bytes: number;
}

const maxRequests = 64;
export const insertBounds = {
  maxUnderWay: 2,
  maxWaitMs: 5,
  maxRequests: () => maxRequests,
  maxBytes: 1024 * 1024,
} as const;

/** What waits for a lock (a unique index, a foreign key) waits by itself. */
const lockTimeoutMs = 100;

/** What has seen a version further ahead than this is stamped by itself: the others' rows are not to be ahead too. */
const maxAheadMs = 1_000;

/**
 * New rows of concurrent requests, of one form and at one master, as one statement and one transaction.
 * docs/decisions/0013-gathering.md
 */
export class GatheredInserts {
  readonly #clock: Clock;
  /** A form is that of one master's table. */
  readonly #forms = new WeakMap<InsertForm, Gatherer<SizedRow, Committed>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @throws as `alone` */
  insert(master: Master, form: InsertForm, row: NewRow): Promise<Committed> {
    if (this.#isAhead(row)) return row.alone();
    return this.#gatherer(master, form).ask({ ...row, bytes: sizeOf(row) });
  }

  #isAhead({ stampAbove }: NewRow): boolean {
    if (stampAbove === null) return false;
    return BigInt(stampAbove) > pack(BigInt(Math.trunc(this.#clock.now() + maxAheadMs)) * 1000n, MAX_REGION);
  }

  #gatherer(master: Master, form: InsertForm): Gatherer<SizedRow, Committed> {
    const known = this.#forms.get(form);
    if (known !== undefined) return known;
    const gatherer = new Gatherer<SizedRow, Committed>({
      alone: (row) => row.alone(),
      together: (rows) => this.#insertAll(master, form, rows),
      concernsAll: isOfAll,
      sleep: this.#clock.sleep,
      bounds: insertBounds,
    });
    this.#forms.set(form, gatherer);
    return gatherer;
  }

  async #insertAll(master: Master, form: InsertForm, rows: readonly NewRow[]): Promise<Committed[]> {
    const inserts = form.of(rows.map(({ values }) => values));
    const { result, position } = await runTransaction(
      master,
      {
        settings: { stampAbove: highest(rows), takeover: false, lockTimeoutMs },
        work: inserts.run,
        atOnce: inserts.isPrepared,
        signal: new AbortController().signal,
        requests: rows.length,
      },
      this.#clock,
    );
    if (position === null) throw new TypeError("rows were committed, and no position was read");
    return result.map((each) => ({ result: { kind: "done", results: [each], onceOnly: true }, position }));
  }
}

const highest = (rows: readonly NewRow[]): string | null => {
  let found: bigint | null = null;
  for (const { stampAbove } of rows) {
    if (stampAbove !== null && (found === null || BigInt(stampAbove) > found)) found = BigInt(stampAbove);
  }
  return found?.toString() ?? null;
};

const sizeOf = ({ values }: NewRow): number => values.reduce((sum, value) => sum + (value?.length ?? 0), 0);
