import { Problem, type ProblemCode, type ProblemFacts } from "../problems.ts";
import { reactionTo, sqlStateOf } from "../postgres/sqlstate.ts";

/** What a SQLSTATE means to a caller of the API. By code first, then by class. What is in neither is `internal`. */
const byCode: Readonly<Record<string, ProblemCode>> = {
  "23502": "not-null-violation",
  "23503": "foreign-key-violation",
  "23505": "unique-violation",
  "23514": "check-violation",
  "23P01": "exclusion-violation",
  "23001": "foreign-key-violation", // RESTRICT
  "21000": "unique-violation", // two rows of one upsert share a key
  "25006": "database-unavailable", // read-only: a standby, or a master that was fenced
  "40003": "internal", // whether it was done is unknown
  "40002": "check-violation",
  "42501": "permission-denied",
  "42804": "parameter-invalid", // an operator which the column's type does not have
  "42883": "parameter-invalid",
  "42725": "parameter-invalid",
  "42P18": "parameter-invalid",
  "42P21": "parameter-invalid", // a collation that does not fit the operator
  "42P22": "parameter-invalid",
  "44000": "check-violation",
  "54000": "value-invalid", // an index row too large
  "55P03": "contention",
  "55006": "contention",
  "55P04": "value-invalid", // an enum value that was just added
  "57014": "statement-timeout",
  "25P03": "statement-timeout",
  "25P04": "statement-timeout",
  P0001: "refused-by-database",
  P0002: "refused-by-database",
  P0003: "refused-by-database",
};

const byClass: Readonly<Record<string, ProblemCode>> = {
  "08": "database-unavailable",
  "09": "refused-by-database",
  "20": "refused-by-database",
  "22": "value-invalid",
  "23": "check-violation",
  "27": "refused-by-database",
  "28": "database-unavailable",
  "38": "refused-by-database",
  "39": "refused-by-database",
  "3D": "database-unavailable",
  "40": "contention",
  "53": "database-unavailable",
  "54": "value-invalid",
  "57": "database-unavailable",
  "58": "database-unavailable",
};

/** Null for a code that says nothing of the caller's request. */
export const problemCodeOf = (sqlState: string): ProblemCode | null =>
  byCode[sqlState] ?? byClass[sqlState.slice(0, 2)] ?? null;

/** Not found or changed since the catalog was read: a table, a column, a type, the result of a prepared statement. */
const staleStates: ReadonlySet<string> = new Set(["42P01", "42703", "42704", "0A000", "3F000", "26000"]);

/** A column has another type than the catalog says, so that its text would be taken for something else. */
export class StaleCatalog extends Error {
  override readonly name = "StaleCatalog";
  override readonly message = "a table was altered since the catalog was read";
}

export const isCatalogStale = (error: unknown): boolean => {
  if (rootOf(error) instanceof StaleCatalog) return true;
  const state = sqlStateOf(rootOf(error));
  // A function of the user's that misses a table is not cured by our reading the catalog again.
  return state !== null && staleStates.has(state) && !isFromFunction(rootOf(error));
};

const rootOf = (error: unknown): unknown =>
  error instanceof Problem && error.cause !== undefined ? error.cause : error;

const text = (error: Error, property: string): string | undefined => {
  const value: unknown = Reflect.get(error, property);
  return typeof value === "string" && value !== "" ? value : undefined;
};

const isFromFunction = (error: unknown): boolean =>
  error instanceof Error && text(error, "internalQuery") !== undefined;

/** Those whose detail names the caller's own values; that of a check or a missing value shows the whole row. */
const tellingStates: ReadonlySet<string> = new Set(["23503", "23505", "23P01", "23001"]);

const words = (error: Error, sqlState: string): string => {
  const detail = tellingStates.has(sqlState) ? text(error, "detail") : undefined;
  return detail === undefined ? error.message : `${error.message}. ${detail}`;
};

/**
 * What PostgreSQL or the connection to it said, as a problem; a Problem stays itself. For statements and BEGIN, not for
 * COMMIT: there a broken connection leaves open what was done.
 */
export const problemOf = (error: unknown): Problem => {
  if (error instanceof Problem) return error;
  if (error instanceof StaleCatalog) return new Problem("contention", error.message, { cause: error });
  const state = sqlStateOf(error);
  if (state !== null && error instanceof Error) return problemOfState(error, state);
  if (error instanceof Error && reactionTo(error, "session") === "retry") {
    return new Problem("database-unavailable", "the connection to the database failed", { cause: error });
  }
  return new Problem("internal", "an error that was not expected", { cause: error });
};

const problemOfState = (error: Error, sqlState: string): Problem => {
  const known = problemCodeOf(sqlState);
  // Names and rights inside a function of the application's are its own trouble, not the caller's.
  const code = known === null || (sqlState.startsWith("42") && isFromFunction(error)) ? "internal" : known;
  const facts: ProblemFacts = {
    sqlState,
    ...(text(error, "constraint") === undefined ? {} : { constraint: text(error, "constraint") ?? "" }),
    ...(text(error, "column") === undefined ? {} : { column: text(error, "column") ?? "" }),
    cause: error,
  };
  return new Problem(code, hidden[code] ?? words(error, sqlState), facts);
};

/** Instead of the server's words, which may tell of its inside. */
const hidden: Readonly<Partial<Record<ProblemCode, string>>> = {
  internal: "the database reported an error that was not expected",
  "database-unavailable": "the database cannot take the request now",
};
