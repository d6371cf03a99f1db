/**
 * What the loop does next after an error:
 * - `retry`: the same again, after a backoff; nothing is wrong with the data.
 * - `quarantine`: a row of this batch does not fit here; find it and set it aside.
 * - `resync`: the stream is gone (slot missing or lost); states have to be copied.
 * - `stop`: a person has to act, or the program is wrong; going on would hide it.
 */
export type Reaction = "retry" | "quarantine" | "resync" | "stop";

/**
 * Where the error came up; a few codes mean different things there.
 * - `stream`: on the replication connection to the source.
 * - `merge`: in a statement at the target that writes replicated states.
 * - `session`: anything else (connecting, reading the catalog, progress).
 */
export type Operation = "stream" | "merge" | "session";

/** By class: the first two characters. The list is PostgreSQL's own (errcodes.txt), whole. */
const byClass: Readonly<Record<string, Reaction>> = {
  "00": "retry", // success: nothing to do, and certainly nothing to stop for
  "01": "retry", // warnings
  "02": "retry", // no data
  "03": "retry", // statement not yet complete
  "08": "retry", // connection exceptions
  "09": "quarantine", // triggered action exception
  "0A": "stop", // feature not supported
  "0B": "stop", // invalid transaction initiation
  "0F": "stop", // locator
  "0L": "stop", // invalid grantor
  "0P": "stop", // invalid role
  "0Z": "stop", // diagnostics
  "10": "stop", // xquery
  "20": "quarantine", // case not found (in a CHECK's function)
  "21": "quarantine", // cardinality violation
  "22": "quarantine", // data exceptions
  "23": "quarantine", // integrity constraints
  "24": "retry", // invalid cursor state: a session that a pooler changed
  "25": "retry", // invalid transaction state: read-only for now, timeouts, a broken transaction
  "26": "retry", // unknown prepared statement: a session that a pooler changed
  "27": "quarantine", // triggered data change violation
  "28": "stop", // authentication
  "2B": "stop", // dependent privileges
  "2D": "stop", // invalid transaction termination
  "2F": "quarantine", // SQL routine exceptions (in a CHECK's function)
  "34": "retry", // invalid cursor name
  "38": "quarantine", // external routine exceptions
  "39": "quarantine", // external routine invocation
  "3B": "retry", // savepoint exceptions: the transaction is lost, not the data
  "3D": "stop", // no such database
  "3F": "stop", // no such schema
  "40": "retry", // serialization, deadlock, unknown completion
  "42": "stop", // syntax, names and rights: a programming error or a missing grant
  "44": "quarantine", // WITH CHECK OPTION
  "53": "retry", // disk, memory, connections
  "54": "quarantine", // program limits: an index row too long, too many columns
  "55": "retry", // object in use, lock not available
  "57": "retry", // shutdown, cancelled, not yet accepting connections
  "58": "retry", // the server's own I/O
  "72": "retry", // snapshot too old
  F0: "stop", // configuration file
  HV: "quarantine", // foreign data wrapper
  P0: "quarantine", // raised by PL/pgSQL: by a function of the user's that a CHECK or a domain calls
  XX: "retry", // internal errors; corruption is below
};

const byCode: Readonly<Record<string, Reaction>> = {
  "40002": "quarantine", // a constraint, found at commit
  "57P04": "stop", // the database was dropped
  XX001: "stop", // data corrupted
  XX002: "stop", // index corrupted
};

const byOperation: Readonly<Record<Operation, Readonly<Record<string, Reaction>>>> = {
  stream: {
    "42704": "resync", // the slot is gone
    "55000": "resync", // the slot is lost or invalidated
    "58P01": "resync", // the WAL it needs is gone
    "22023": "stop", // an option that the server does not know
    "22P02": "stop",
  },
  merge: {
    // The table was altered between our reading of the catalog and this statement: read it again, then retry.
    "0A000": "retry", // cached plan must not change result type
    "42703": "retry",
    "42804": "retry",
    "42P01": "retry",
    "42704": "retry",
    "3F000": "retry",
  },
  session: {
    "22023": "stop",
    "22P02": "stop",
    P0001: "stop",
  },
};

/** Codes of Node's sockets, DNS and TLS. Certificates need a person; all else is the network. */
const bySystemCode: Readonly<Record<string, Reaction>> = {
  ECONNRESET: "retry",
  ECONNREFUSED: "retry",
  ECONNABORTED: "retry",
  EPIPE: "retry",
  ETIMEDOUT: "retry",
  EHOSTUNREACH: "retry",
  EHOSTDOWN: "retry",
  ENETUNREACH: "retry",
  ENETDOWN: "retry",
  ENETRESET: "retry",
  ENOTCONN: "retry",
  EADDRNOTAVAIL: "retry",
  ENOTFOUND: "retry",
  EAI_AGAIN: "retry",
  EAI_FAIL: "retry",
  ENOENT: "retry", // a Unix socket of a server that is down
  EMFILE: "retry",
  ENFILE: "retry",
  ENOBUFS: "retry",
  ERR_SOCKET_CONNECTION_TIMEOUT: "retry",
  ERR_STREAM_PREMATURE_CLOSE: "retry",
  ERR_STREAM_DESTROYED: "retry",
  ERR_STREAM_WRITE_AFTER_END: "retry",
  ERR_SSL_WRONG_VERSION_NUMBER: "stop",
  ERR_TLS_CERT_ALTNAME_INVALID: "stop",
  CERT_HAS_EXPIRED: "stop",
  CERT_NOT_YET_VALID: "stop",
  CERT_REVOKED: "stop",
  CERT_UNTRUSTED: "stop",
  DEPTH_ZERO_SELF_SIGNED_CERT: "stop",
  SELF_SIGNED_CERT_IN_CHAIN: "stop",
  UNABLE_TO_GET_ISSUER_CERT: "stop",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "stop",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "stop",
};

/** What node-postgres throws about its connection carries no code: here alone the text has to do. */
const connectionLost =
  /^(Connection terminated|Client was closed|Client has encountered a connection error|timeout e|Query read timeout|Connection ended)/;

const reactions: readonly string[] = ["retry", "quarantine", "resync", "stop"] satisfies Reaction[];
const isReaction = (value: unknown): value is Reaction =>
  typeof value === "string" && reactions.includes(value);

/** The reaction to a SQLSTATE. Total: a code of no known class was raised by a user's function. */
export const reactionToSqlState = (code: string, operation: Operation): Reaction =>
  byOperation[operation][code] ??
  byCode[code] ??
  byClass[code.slice(0, 2)] ??
  (operation === "merge" ? "quarantine" : "stop");

/** The SQLSTATE of an error which a server reported; null for every other. */
export const sqlStateOf = (error: unknown): string | null => {
  if (!(error instanceof Error) || !("code" in error) || !("severity" in error)) return null;
  return typeof error.code === "string" && /^[0-9A-Z]{5}$/.test(error.code) ? error.code : null;
};

/**
 * A function of the user's, which a CHECK, a domain, a generated column or an index calls, is wrong here: names that it
 * looks up by a search_path are not found on merge, a table that it reads is missing. That is the row's, or the table's,
 * trouble and not our statement's: only errors in a function's own statements carry such a statement.
 */
const isFromFunction = (error: Error): boolean =>
  "internalQuery" in error && typeof error.internalQuery === "string";

/**
 * What to do after any thrown value. Errors of our own say it by a property `reaction`; an AggregateError (several
 * addresses of one host) and an error with a cause are judged by the first part that is known. All else is a defect.
 */
export const reactionTo = (error: unknown, operation: Operation): Reaction => {
  if (!(error instanceof Error)) return "stop";
  if ("reaction" in error && isReaction(error.reaction)) return error.reaction;
  const state = sqlStateOf(error);
  if (state !== null) {
    const ofClass42 = operation === "merge" && state.startsWith("42") && isFromFunction(error);
    const reaction = ofClass42 ? "quarantine" : reactionToSqlState(state, operation);
    return reaction === "quarantine" && operation !== "merge" ? "stop" : reaction;
  }
  const system = "code" in error && typeof error.code === "string" ? bySystemCode[error.code] : undefined;
  if (system !== undefined) return system;
  if (error instanceof AggregateError && error.errors.length > 0) {
    return reactionTo(error.errors[0], operation);
  }
  if (connectionLost.test(error.message)) return "retry";
  return error.cause === undefined || error.cause === error ? "stop" : reactionTo(error.cause, operation);
};
