import type { Clock } from "../clock.ts";
import { unless } from "../unless.ts";
import { deleteExpired } from "./idempotency.ts";
import type { Database } from "./position.ts";

export interface ExpiryOptions {
  /** The region's own master; undefined while there is none. */
  readonly database: () => Database | undefined;
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
      const master = database();
      if (master === undefined) break;
      const deleting = deleteExpired(master, { members: members(), limit: batch });
      // Whoever stops does not wait for a master that does not answer.
      deleted = await unless(signal, deleting).catch(() => 0);
    }
    await clock.sleep(everyMs, signal).catch(() => undefined);
  }
};
