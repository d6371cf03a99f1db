import type { Clock } from "../clock.ts";
import { deleteExpired } from "./idempotency.ts";
import type { Database } from "./position.ts";

export interface ExpiryOptions {
  /** The region's own master. */
  readonly database: Database;
  readonly members: () => ReadonlySet<number>;
  readonly clock: Clock;
  readonly everyMs?: number;
  /** Deleted by one statement: each leaves a tombstone, which goes to all peers. */
  readonly batch?: number;
}

/** Deletes the region's expired idempotency records now and then, until the signal is aborted. Never rejects. */
export const runExpiry = async (options: ExpiryOptions, signal: AbortSignal): Promise<void> => {
  const { database, members, clock, everyMs = 60_000, batch = 500 } = options;
  while (!signal.aborted) {
    let deleted = batch;
    while (deleted === batch && !signal.aborted) {
      // A master that is away is tried again next time.
      deleted = await deleteExpired(database, { members: members(), limit: batch }).catch(() => 0);
    }
    await clock.sleep(everyMs, signal).catch(() => undefined);
  }
};
