import { type ClientBase, DatabaseError } from "pg";
import { sqlStateOf } from "../postgres/sqlstate.ts";
import { readPositionBy, type Position } from "./position.ts";
import { queryPrepared } from "./prepared-query.ts";
import { problemOf } from "./sql-problems.ts";

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

const commitStatement = { name: "coregent commit", text: "COMMIT" };

/**
 * Commits. @throws OutcomeUnknown, NotCommitted, or what made PostgreSQL refuse the commit
 */
export const commit = async (client: ClientBase): Promise<void> => {
  const { tag } = await queryPrepared(client, commitStatement).catch((error: unknown) => {
    throw isAnswer(error) ? error : new OutcomeUnknown(inDoubt, { cause: error });
  });
  if (tag !== "COMMIT") throw new NotCommitted(`the server answered ${tag} to COMMIT`);
};

/**
 * Commits, and reads where that has brought the master; in one round trip where the client sends statements without waiting
 * (`pipeline`).
 * @throws as `commit`; OutcomeUnknown also if the position is not answered
 */
export const commitWithPosition = async (client: ClientBase): Promise<Position> => {
  const committing = commit(client);
  const reading = readPositionBy(client);
  reading.catch(() => undefined);
  await committing;
  return reading.catch((error: unknown) => {
    throw new OutcomeUnknown(inDoubt, { cause: error });
  });
};

/**
 * Commits, and waits for a position that is read afterwards, as `ask` does.
 * @throws as `commitWithPosition`
 */
export const commitThenAsk = async (client: ClientBase, ask: () => Promise<Position>): Promise<Position> => {
  await commit(client);
  return afterCommit(ask);
};

/** What is asked after a commit. @throws OutcomeUnknown if it is not answered: the write cannot be told of */
export const afterCommit = async <T>(ask: () => Promise<T>): Promise<T> => {
  try {
    return await ask();
  } catch (error) {
    throw new OutcomeUnknown(inDoubt, { cause: error });
  }
};

const inDoubt = "whether the transaction was committed is not known";

/**
 * A statement that is a transaction of its own.
 * @throws OutcomeUnknown if it may have been committed; else what made PostgreSQL refuse it
 */
export const commitWithIt = <T>(statement: Promise<T>): Promise<T> =>
  statement.catch((error: unknown) => {
    throw isAnswer(error) || isRefusal(error) ? error : new OutcomeUnknown(inDoubt, { cause: error });
  });

/** Of a statement, and not of a commit that was under way: nothing of its transaction stays. */
const isRefusal = (error: unknown): boolean =>
  sqlStateOf(error) === "57014" || (error instanceof DatabaseError && error.severity === "ERROR");

/** PostgreSQL's word on what the transaction did, and not of a connection that ends. */
const isAnswer = (error: unknown): boolean => {
  const state = sqlStateOf(error);
  return state !== null && !unknownClasses.has(state.slice(0, 2)) && state !== "40003";
};

/** Of what several requests have in common: none of them has to do with it more than the others. */
export const isOfAll = (error: unknown): boolean => {
  if (error instanceof OutcomeUnknown) return true;
  const { code } = problemOf(error);
  return code === "database-unavailable" || code === "overloaded";
};
