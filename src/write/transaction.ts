import type { Client } from "pg";
import type { Clock } from "../clock.ts";
import { Problem } from "../problems.ts";
import {
  afterCommit,
  commit,
  commitThenAsk,
  commitWithIt,
  commitWithPosition,
  OutcomeUnknown,
} from "./commit.ts";
import { type Lease, together } from "./connections.ts";
import { KeyTaken } from "./idempotency.ts";
import type { Master } from "./master.ts";
import { type Position, readPositionBy } from "./position.ts";
import { queryPrepared } from "./prepared-query.ts";
import { problemOf } from "./sql-problems.ts";

/** What holds for one transaction of a writer, besides its statements. */
export interface TransactionSettings {
  /** A version, as decimal text: every write is stamped above it. null: above what it replaces, as ever. */
  readonly stampAbove: string | null;
  /** The writes have the authority of owners that are down. */
  readonly takeover: boolean;
  /** For a lock; undefined: as long as a statement may take. */
  readonly lockTimeoutMs?: number;
}

export interface TransactionRequest<T> {
  readonly settings: TransactionSettings;
  readonly work: (client: Client) => Promise<T>;
  /** False for a result that leaves nothing to commit: the transaction is rolled back. Default true. */
  readonly commits?: (result: T) => boolean;
  /**
   * Whether the work is one statement, upon whose answer nothing depends, and so may be sent together with its COMMIT. Then
   * OutcomeUnknown is also thrown if the connection broke before.
   */
  readonly atOnce?: ((client: Client) => boolean) | null;
  /** Asks for the master's position; null: the session that commits reads it, in the same round trip. */
  readonly askPosition?: (() => Promise<Position>) | null;
  readonly signal: AbortSignal;
  /** So many are carried out by it; default one. */
  readonly requests?: number;
}

const beginStatement = { name: "coregent begin", text: "BEGIN" };

const beginText = ({ stampAbove, takeover, lockTimeoutMs }: TransactionSettings): string =>
  [
    "BEGIN",
    // Digits only: settings take no parameters, and set_config would be a round trip of its own.
    ...(stampAbove === null ? [] : [`SET LOCAL coregent.stamp_above = '${BigInt(stampAbove)}'`]),
    ...(takeover ? ["SET LOCAL coregent.takeover = 'on'"] : []),
    ...(lockTimeoutMs === undefined ? [] : [`SET LOCAL lock_timeout = ${lockTimeoutMs}`]),
  ].join("; ");

const isPlain = ({ stampAbove, takeover, lockTimeoutMs }: TransactionSettings): boolean =>
  stampAbove === null && !takeover && lockTimeoutMs === undefined;

const sendBegin = (client: Client, settings: TransactionSettings): Promise<unknown> =>
  isPlain(settings) ? queryPrepared(client, beginStatement) : client.query(beginText(settings));

/**
 * One transaction at one master: taken up by its bounded sessions, begun, worked on, committed. The position is where
 * the commit has brought the master; null if nothing was committed.
 * @throws OutcomeUnknown if the connection broke during COMMIT; else KeyTaken, a Problem or the signal's reason, and nothing
 *   of it was done
 */
export const runTransaction = async <T>(
  master: Master,
  request: TransactionRequest<T>,
  clock: Clock,
): Promise<{ readonly result: T; readonly position: Position | null }> => {
  const { settings, work, signal, commits = () => true, askPosition = null } = request;
  const askedMs = clock.monotonic();
  const lease = await takeLease(master, request);
  // Its transaction ends with the session. From COMMIT on it is not given up: what was done must be known.
  const giveUp = (): void => lease.discard();
  signal.addEventListener("abort", giveUp, { once: true });
  try {
    if (request.atOnce?.(lease.client) === true) return await runAtOnce(lease, request);
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

const runAtOnce = async <T>(
  lease: Lease,
  { settings, work, askPosition = null }: TransactionRequest<T>,
): Promise<{ readonly result: T; readonly position: Position }> => {
  const { client } = lease;
  const { working, ask } = together(client, () => {
    const working = isPlain(settings) ? work(client) : withBeginAndCommit(client, settings, work);
    if (askPosition !== null) return { working, ask: askPosition };
    const reading = readPositionBy(client);
    reading.catch(() => undefined);
    return { working, ask: () => reading };
  });
  const result = await commitWithIt(working);
  if (ask === askPosition) lease.giveBack();
  const position = await afterCommit(ask);
  lease.giveBack();
  return { result, position };
};

const withBeginAndCommit = async <T>(
  client: Client,
  settings: TransactionSettings,
  work: (client: Client) => Promise<T>,
): Promise<T> => {
  const begun = sendBegin(client, settings);
  const working = work(client);
  const committed = commit(client);
  const [, done] = await Promise.allSettled([begun, working, committed]);
  if (done.status === "rejected") throw done.reason;
  await committed;
  return done.value;
};

const takeLease = async (
  master: Master,
  { signal, requests }: Pick<TransactionRequest<unknown>, "signal" | "requests">,
): Promise<Lease> => {
  try {
    return await master.connections.take(signal, requests);
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
