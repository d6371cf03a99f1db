import type { Clock } from "../clock.ts";
import type { Database } from "./position.ts";

/** A region's pulse is at least this old before it is asked for another. */
const everyMs = 500;

/** Nobody waits for another's pulse: that is committed after it was looked for, and so does as well. */
const lockKey = "hashtextextended('coregent pulse', 0)";

/**
 * A change that reaches all peers. What is merged and confirmed of a region ends at its last change that concerned the peers,
 * while positions of its WAL may lie a little further on: behind records of transactions that were rolled back, of
 * merges, of vacuum. The peers learn of these by and by only (`idleProgressMs`); a pulse takes them past at once.
 * It also gets WAL flushed that nobody has committed.
 */
export const pulse = async (database: Database): Promise<void> => {
  await database.query({
    name: "coregent pulse",
    text: `INSERT INTO coregent.pulse AS p (region, at)
           SELECT coregent.region_id(), now() WHERE pg_try_advisory_xact_lock(${lockKey})
           ON CONFLICT (region) DO UPDATE SET at = excluded.at`,
  });
};

/** Asks regions for pulses: one at a time of each, and not too often. Those that cannot be reached give none. */
export class Pulses {
  readonly #clock: Clock;
  readonly #databases = new Map<number, Database>();
  readonly #askedMs = new Map<number, number>();
  readonly #asking = new Set<number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How a region is reached; null: no longer. */
  set(region: number, database: Database | null): void {
    if (database === null) this.#databases.delete(region);
    else this.#databases.set(region, database);
  }

  ask(region: number): void {
    const database = this.#databases.get(region);
    const now = this.#clock.monotonic();
    const last = this.#askedMs.get(region) ?? Number.NEGATIVE_INFINITY;
    if (database === undefined || this.#asking.has(region) || now - last < everyMs) return;
    this.#askedMs.set(region, now);
    this.#asking.add(region);
    pulse(database)
      .catch(() => undefined)
      .finally(() => this.#asking.delete(region));
  }
}
