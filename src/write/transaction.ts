import type { Client } from "pg";
import type { Clock } from "../clock.ts";
import { Problem } from "../problems.ts";
import { commitThenAsk, commitWithPosition, OutcomeUnknown } from "./commit.ts";
import { type Lease, together } from "./connections.ts";
import { KeyTaken } from "./idempotency.ts";
import type { Master } from "./master.ts";
import type { Position } from "./position.ts";
import { queryPrepared } from "./prepared-query.ts";
import { problemOf } from "./sql-problems.ts";

/** What holds for one transaction of a writer, besides its statements. */
export interface TransactionSettings {
  /** A version, as decimal text: every write is stamped above it. null: above what it replaces, as ever. */
  readonly stampAbove: string | null;
  /** The writes have the authority of owners that are down. */
  readonly takeover: boolean;
}

export interface TransactionRequest<T> {
  readonly settings: TransactionSettings;
  readonly work: (client: Client) => Promise<T>;
  /** False for a result that leaves nothing to commit: the transaction is rolled back. Default true. */
  readonly commits?: (result: T) => boolean;
  /** Asks for the master's position; null: the session that commits reads it, in the same round trip. */
  readonly askPosition?: (() => Promise<Position>) | null;
  readonly signal: AbortSignal;
}

const beginStatement = { name: "coregent begin", text: "BEGIN" };

const beginText = ({ stampAbove, takeover }: TransactionSettings): string =>
  [
    "BEGIN",
    // Digits only: settings take no parameters, and set_config would be a round trip of its own.
    ...(stampAbove === null ? [] : [`SET LOCAL coregent.stamp_above = '${BigInt(stampAbove)}'`]),
    ...(takeover ? ["SET LOCAL coregent.takeover = 'on'"] : []),
  ].join("; ");

const sendBegin = (client: Client, settings: TransactionSettings): Promise<unknown> =>
  settings.stampAbove === null && !settings.takeover
    ? queryPrepared(client, beginStatement)
    : client.query(beginText(settings));

/**
 * One transaction at one master: taken up by its bounded sessions, begun, worked on, committed. The position is where
 * the commit has brought the master; null if nothing was committed.
 * @throws OutcomeUnknown if the connection broke during COMMIT; else KeyTaken, a Problem or the signal's reason, and nothing
 *   of it was done
 */
export const runTransaction = async <T>(
  master: Master,
  { settings, work, signal, commits = () => true, askPosition = null }: TransactionRequest<T>,
  clock: Clock,
): Promise<{ readonly result: T; readonly position: Position | null }> => {
  const askedMs = clock.monotonic();
  const lease = await takeLease(master, signal);
  // Its transaction ends with the session. From COMMIT on it is not given up: what was done must be known.
  const giveUp = (): void => lease.discard();
  signal.addEventListener("abort", giveUp, { once: true });
  try {
    const begin = async (): Promise<void> => {
      await sendBegin(lease.client, settings);
      if (lease.warm) master.observeLatency(clock.monotonic() - askedMs);
    };
    // Not awaited: the first statement goes with it. Where BEGIN fails, so does that.
    const [begun, working] = together(lease.client, () => [begin(), work(lease.client)]);
    begun.catch(() => undefined);
    const result = await working;
    await begun;
    signal.throwIfAborted();
    if (!commits(result)) {
      await rollBack(lease);
      return { result, position: null };
    }
    signal.removeEventListener("abort", giveUp);
    const position = await (askPosition === null
      ? together(lease.client, () => commitWithPosition(lease.client))
      : commitThenAsk(lease.client, () => {
          lease.giveBack();
          return askPosition();
        }));
    lease.giveBack();
    return { result, position };
  } catch (error) {
    if (error instanceof OutcomeUnknown) throw error;
    if (error instanceof KeyTaken) {
      await rollBack(lease);
      throw error;
    }
    signal.throwIfAborted();
    const problem = problemOf(error);
    if (problem.code !== "database-unavailable") await rollBack(lease);
    throw problem.with({ region: master.name });
  } finally {
    signal.removeEventListener("abort", giveUp);
    lease.discard();
  }
};

const takeLease = async (master: Master, signal: AbortSignal): Promise<Lease> => {
  try {
    return await master.connections.take(signal);
  } catch (error) {
    signal.throwIfAborted();
    const problem = problemOf(error);
    // Whatever it was, nothing has been sent: another master may do.
    throw problem.code === "internal"
      ? new Problem("database-unavailable", "the database refuses the session", {
          cause: error,
          region: master.name,
        })
      : problem.with({ region: master.name });
  }
};

const rollBack = async (lease: Lease): Promise<void> => {
  try {
    await lease.client.query("ROLLBACK");
    lease.giveBack();
  } catch {
    lease.discard();
  }
};
