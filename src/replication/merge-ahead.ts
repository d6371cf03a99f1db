import type { Clock } from "../clock.ts";
import type { Batch } from "./batch.ts";
import { type MergedStates, mergeStates } from "./merge.ts";
import type { MergeSession } from "./merge-session.ts";
import { overlap } from "./overlap.ts";
import type { SpareSession } from "./spare-session.ts";

/** After one that was begun in vain, so many batches are merged one after the other. */
const batchesAlone = 64;
/** A session that could not be had, or was given back, is not asked for again so soon. */
const askAgainMs = 10_000;

/** A batch whose states are being merged before its turn has come. */
export interface Begun {
  readonly batch: Batch;
  readonly session: MergeSession;
  readonly merged: Promise<MergedStates>;
}

/**
 * Merges the states of a batch while the one before is in work: in a session of its own, by another core of the server.
 * Everything else waits for its turn, so commits come in the peer's order, each with its progress.
 *
 * They have no key in common. Where they meet in something else (a unique index, say), the first waits for the second, whose commit waits
 * for the first: that ends by lock_timeout, and then as after any failure of the first: the second is withdrawn.
 */
export class MergeAhead {
  readonly #spare: SpareSession;
  readonly #clock: Pick<Clock, "monotonic">;
  /** The second session: the merger's own, where the two have changed places. */
  #asked: MergeSession | null = null;
  /** Free for the next one. */
  #session: MergeSession | null = null;
  #begun: Begun | null = null;
  #alone = 0;
  /** Given anew each time: an answer that comes too late is nobody's. */
  #asking: symbol | null = null;
  #askAtMs = Number.NEGATIVE_INFINITY;

  constructor(spare: SpareSession, clock: Pick<Clock, "monotonic">) {
    this.#spare = spare;
    this.#clock = clock;
  }

  /** Whether there is something to be released. */
  get inUse(): boolean {
    return this.#asked !== null || this.#asking !== null;
  }

  /** `current` is being merged, in a transaction of its own. False: `next` is not begun. */
  begin(current: Batch, next: Batch): boolean {
    if (this.#alone > 0) {
      this.#alone -= 1;
      return false;
    }
    const session = this.#session;
    if (session === null || !isComplete(current) || !isComplete(next) || overlap(current, next)) return false;
    this.#session = null;
    const merged = session.begin().then(() => mergeStates(session, next));
    merged.catch(() => undefined);
    this.#begun = { batch: next, session, merged };
    return true;
  }

  /** What was begun of a batch whose turn has come: it goes on in that session, and `session` is free. Null: nothing was. */
  take(batch: Batch, session: MergeSession): Begun | null {
    const begun = this.#begun;
    if (begun?.batch !== batch) return null;
    this.#begun = null;
    this.#session = session;
    return begun;
  }

  /** For some time batches are merged one after the other. */
  pause(): void {
    this.#alone = batchesAlone;
  }

  /** Undoes what was begun: the one before it has failed, and may have waited for it. */
  async withdraw(): Promise<void> {
    const begun = this.#begun;
    if (begun === null) return;
    this.#begun = null;
    this.pause();
    await begun.merged.catch(() => undefined);
    try {
      await begun.session.rollback();
      this.#session = begun.session;
    } catch (error) {
      if (begun.session !== this.#asked) throw error;
      await this.#give();
    }
  }

  /** The session is given back: for now no batch waits for another. None of this is used at the moment of the call. */
  async release(): Promise<void> {
    this.#asking = null;
    await this.withdraw().catch(() => undefined);
    await this.#give();
  }

  /** Without a session nothing is begun. */
  ask(): void {
    const now = this.#clock.monotonic();
    if (this.inUse || now < this.#askAtMs) return;
    this.#askAtMs = now + askAgainMs;
    void this.#take();
  }

  async #take(): Promise<void> {
    const asking = (this.#asking = Symbol("asking"));
    const session = await this.#spare.take();
    if (this.#asking !== asking) {
      if (session !== null) await this.#spare.give(session);
      return;
    }
    this.#asking = null;
    this.#asked = session;
    this.#session = session;
  }

  async #give(): Promise<void> {
    const asked = this.#asked;
    this.#asked = null;
    this.#session = null;
    this.#askAtMs = this.#clock.monotonic() + askAgainMs;
    if (asked !== null) await this.#spare.give(asked);
  }
}

/** Whole transactions, of which nothing has to be fetched: such a one is kept open until the stream has passed the fetch. */
const isComplete = ({ transactions, endsTransaction, tables }: Batch): boolean =>
  transactions > 0 && endsTransaction && tables.every(({ partial }) => partial.length === 0);
