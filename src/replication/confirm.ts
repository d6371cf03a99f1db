import { Bell } from "./bell.ts";

/** A commit at the target which the target may still lose in a crash. */
interface Commit {
  /** Exactly the end LSN of the source's last transaction in it. */
  endLsn: bigint;
  /** Where the target's WAL stood after the commit: it is durable when the target has flushed up to here. */
  readonly targetLsn: bigint;
}

const maxAwaiting = 1024;

/**
 * What the source may be told: the position before which everything is durable at the target. The source forgets
 * what is confirmed, so this never runs ahead, however the merge, the flush and the keepalives interleave.
 */
export class Confirmation {
  #confirmed: bigint;
  readonly #awaiting: Commit[] = [];
  readonly #changed = new Bell();

  /** `confirmed`: what the source's slot says is confirmed already. */
  constructor(confirmed: bigint) {
    this.#confirmed = confirmed;
  }

  /** What may be confirmed now. Never goes down. */
  get confirmed(): bigint {
    return this.#confirmed;
  }

  /** The target's WAL position whose flush lets more be confirmed; null: all that was merged is durable. */
  get awaitedTargetLsn(): bigint | null {
    return this.#awaiting[0]?.targetLsn ?? null;
  }

  /**
   * Resolves when there is something to be made durable, or to be told: more than `told` is confirmed. Also when the
   * signal is aborted.
   */
  async due(told: bigint, signal: AbortSignal): Promise<void> {
    while (this.#awaiting.length === 0 && this.#confirmed <= told && !signal.aborted) {
      await this.#changed.rung(signal);
    }
  }

  /** As above, for everything merged so far: what a shutdown waits for. */
  get lastTargetLsn(): bigint | null {
    return this.#awaiting.at(-1)?.targetLsn ?? null;
  }

  /**
   * Whole transactions up to `endLsn` were committed at the target. `targetLsn`: its pg_current_wal_insert_lsn(),
   * read after the commit.
   */
  committed(endLsn: bigint, targetLsn: bigint): void {
    if (this.#awaiting.length === maxAwaiting) {
      this.#awaiting.pop();
    }
    this.#awaiting.push({ endLsn, targetLsn });
    this.#changed.ring();
  }

  /** Nothing that the source sent before `lsn` is outstanding: all of it is committed, if not yet durable. */
  idle(lsn: bigint): void {
    const last = this.#awaiting.at(-1);
    if (last === undefined) {
      this.#advance(lsn);
    } else if (lsn > last.endLsn) {
      last.endLsn = lsn;
    }
  }

  /** The target has flushed its WAL up to here (pg_current_wal_flush_lsn()). Tells whether more may be confirmed. */
  flushed(targetLsn: bigint): boolean {
    const before = this.#confirmed;
    while (this.#awaiting.length > 0 && this.#awaiting[0]!.targetLsn <= targetLsn) {
      this.#advance(this.#awaiting.shift()!.endLsn);
    }
    return this.#confirmed > before;
  }

  #advance(lsn: bigint): void {
    if (lsn > this.#confirmed) {
      this.#confirmed = lsn;
      this.#changed.ring();
    }
  }
}
