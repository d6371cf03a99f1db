import type { ClientBase } from "pg";
import { Problem } from "../problems.ts";
import { together } from "./connections.ts";
import type { GatheredReads, Read } from "./gathered-reads.ts";
import type { Master } from "./master.ts";
import type { Masters } from "./masters.ts";
import { highestVersion } from "./operation.ts";
import { type Position, readPosition, readPositionBy, sessionAfter } from "./position.ts";
import { type MasterPosition, type Positions, TooManyWaiting } from "./positions.ts";
import { runOperations } from "./run-operations.ts";
import { problemOf } from "./sql-problems.ts";
import type { ReadOutcome, ReadRequest } from "./writer.ts";

export interface ReadParts {
  readonly masters: Pick<Masters, "positions">;
  readonly gathered: GatheredReads;
}

/**
 * Reads at the first of these masters that has all that the session has seen: the first is waited for, the others must have
 * it already.
 * @throws Problem `session-behind` when none has it; else what the last of them said, or the signal's reason
 */
export const readWithSession = async (
  masters: Iterable<Master>,
  request: ReadRequest,
  parts: ReadParts,
): Promise<ReadOutcome> => {
  const { positions } = parts.masters;
  let waitMs = request.waitMs;
  let behind = 0;
  let failure: Problem | null = null;
  for (const master of masters) {
    try {
      if (request.session === null || (await has(master, { ...request, waitMs }, positions))) {
        return await readAt(master, request, parts);
      }
      behind += 1;
    } catch (error) {
      request.signal.throwIfAborted();
      const problem = problemOf(error).with({ region: master.name });
      if (problem.code !== "database-unavailable" && problem.code !== "overloaded") throw problem;
      master.doubt();
      failure = problem;
    }
    waitMs = 0;
  }
  if (behind === 0 && failure !== null) throw failure.with({ retryAfterSeconds: 1 });
  throw behind === 0
    ? new Problem("no-master", "no region can be reached", { retryAfterSeconds: 1 })
    : new Problem("session-behind", "no region that can be reached has all that this session has seen", {
        retryAfterSeconds: 1,
      });
};

const has = async (
  master: Master,
  { session, waitMs, signal, operations }: ReadRequest,
  positions: Positions,
): Promise<boolean> => {
  const position: MasterPosition | null = positions.of(master.region.id);
  if (session === null || position === null) return session === null;
  try {
    const tables = operations.map(({ table }) => table);
    return (await position.waitFor({ token: session, tables, waitMs, signal })) !== null;
  } catch (error) {
    if (!(error instanceof TooManyWaiting)) throw error;
    throw new Problem("overloaded", error.message, { retryAfterSeconds: 1, cause: error });
  }
};

const readAt = async (
  master: Master,
  { operations, session, signal }: ReadRequest,
  { masters: { positions }, gathered }: ReadParts,
): Promise<ReadOutcome> => {
  const attempt = async (): Promise<Read> => {
    const catalog = await master.catalog.get();
    const run = (client: ClientBase) => runOperations(client, catalog, operations);
    const alone = (): Promise<Read> =>
      master.session(async (client) => {
        // Of one read, it is all in one round trip.
        if (operations.length === 1) {
          const sent = together(client, () => [run(client), readPositionBy(client)] as const);
          const [results, position] = await Promise.all(sent);
          return { results, position };
        }
        return { results: await run(client), position: await readPositionBy(client) };
      }, signal);
    return gathered.read({ master, catalog }, operations, { signal, alone });
  };
  const { results, position } = await attempt().catch((error: unknown) => {
    if (!master.catalog.noticed(error)) throw error;
    return attempt();
  });
  const version = highestVersion(results);
  return {
    region: master.name,
    results,
    session: sessionAfter({ session, position, kind: "read", version }, positions.knowledge),
  };
};

/** A master's position at some moment after the call. Callers share the question. */
export const positionOf = (positions: Positions, master: Master): Promise<Position> =>
  positions.of(master.region.id)?.now() ?? readPosition(master);
