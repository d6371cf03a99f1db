import type { ClientBase, QueryResult } from "pg";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { parsePosition, positionExpression, type Position } from "./position.ts";

/** The connection broke, or the server gave up, at a moment when the commit may have been done. Only the record tells. */
export class OutcomeUnknown extends Error {
  override readonly name = "OutcomeUnknown";
}

/** COMMIT answered ROLLBACK: an error before was not noticed. Nothing of the transaction is there. */
export class NotCommitted extends Error {
  override readonly name = "NotCommitted";
}

/**
 * Classes of errors that come of the connection, of resources or of somebody who ends the session; not of what the
 * transaction did (deferred constraints and triggers, serialization).
 */
const unknownClasses = new Set(["08", "53", "54", "57", "58", "F0", "XX"]);

/**
 * Commits, and reads where that has brought the master, in one round trip.
 * @throws OutcomeUnknown, NotCommitted, or what made PostgreSQL refuse the commit
 */
export const commitWithPosition = async (client: ClientBase): Promise<Position> => {
  const answers = await client
    .query(`COMMIT; SELECT ${positionExpression} AS position`)
    .catch((error: unknown) => {
      const state = sqlStateOf(error);
      if (state === null || unknownClasses.has(state.slice(0, 2)) || state === "40003") {
        throw new OutcomeUnknown("whether the transaction was committed is not known", { cause: error });
      }
      throw error;
    });
  // Of several statements pg gives several results; its types say one.
  const [committed, read] = answers as unknown as QueryResult<{ position: unknown }>[];
  if (committed?.command !== "COMMIT") {
    throw new NotCommitted(`the server answered ${committed?.command} to COMMIT`);
  }
  return parsePosition(read?.rows[0]?.position);
};
