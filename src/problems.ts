/**
 * What the HTTP API answers when it does not do what was asked, as `application/problem+json` (RFC 9457). The comment of
 * each code is its manual: what happened, then the remedy; docs/errors.md is made of them
 * (`npx vitest run --project main test/cli/errors.test.ts -u` writes it).
 *
 * `retryable`: the same request may succeed later, and nothing of it was done.
 */
export const problemCodes = {
  /**
   * The body is not JSON in UTF-8, or is nested too deeply, or holds what no PostgreSQL text can hold: the character NUL, half
   * of a surrogate pair.
   *
   * Remedy: correct the body; `detail` names the place.
   */
  "body-malformed": { status: 400, title: "The body cannot be read", retryable: false },
  /**
   * The body is JSON, but not what this address takes: a list where a row is wanted, a member that is missing or unknown.
   *
   * Remedy: `detail` names the place; /docs shows the form.
   */
  "body-invalid": { status: 400, title: "The body does not have the form wanted", retryable: false },
  /**
   * A parameter of the URL or a header cannot be understood: a filter, an order, a limit, a cursor, an ETag.
   *
   * Remedy: `detail` names the parameter and says what it takes.
   */
  "parameter-invalid": { status: 400, title: "A parameter cannot be understood", retryable: false },
  /**
   * A value does not fit the column's type: letters for a number, a date that does not exist, a number out of range.
   *
   * Remedy: correct the value; `detail` holds PostgreSQL's words.
   */
  "value-invalid": { status: 400, title: "A value does not fit its column", retryable: false },
  /**
   * The table has no such column. Columns that begin with `cg_` are Coregent's own and not served.
   *
   * Remedy: correct the name. A column that was added a moment ago is known after a few seconds at the latest.
   */
  "column-unknown": { status: 400, title: "No such column", retryable: false },
  /**
   * A value was given for a column that PostgreSQL computes (GENERATED ALWAYS), or for a part of the key in an update to
   * something that its address does not say.
   *
   * Remedy: leave the column out.
   */
  "column-not-writable": { status: 400, title: "The column cannot be written", retryable: false },
  /**
   * The body's type is not `application/json`, or the body is compressed or in another encoding than UTF-8.
   *
   * Remedy: send `Content-Type: application/json` and no `Content-Encoding`.
   */
  "content-type-unsupported": { status: 415, title: "Only application/json is taken", retryable: false },
  /**
   * The body has more bytes than are taken, or the request more rows or operations.
   *
   * Remedy: send less at once.
   */
  "too-large": { status: 413, title: "The request is too large", retryable: false },
  /**
   * What the database would answer is more than a request may hold (16 MiB): a single row, the rows of all operations of a
   * transaction, or those that a write gives back. Nothing was written.
   *
   * Remedy: name the columns that are wanted (`select`), ask for fewer rows or operations, or for nothing back
   * (`Prefer: return=minimal`). What is longer is read by PostgreSQL's own protocol.
   */
  "answer-too-long": { status: 422, title: "The answer would be too long", retryable: false },
  /**
   * The request did not arrive in time.
   *
   * Remedy: send it again, faster.
   */
  "request-timeout": { status: 408, title: "The request came too slowly", retryable: true },
  /**
   * Nothing is served at this address with this method.
   *
   * Remedy: /docs lists what is.
   */
  "not-found": { status: 404, title: "Not found", retryable: false },
  /**
   * No replicated table has this name, or several schemas have one. Tables that are not replicated are not served.
   *
   * Remedy: name the table as `schema.table`, or as `table` where one schema only has it. A table that was just taken up by
   * `coregent init` is known after a few seconds at the latest.
   */
  "table-unknown": { status: 404, title: "No such table", retryable: false },
  /**
   * No row with this key is in the region that answered.
   *
   * Remedy: none where the row is gone. Where another answer has just told of the row, send that answer's
   * `Coregent-Session` header along: then this region waits until it has the row too.
   */
  "row-not-found": { status: 404, title: "No such row", retryable: false },
  /**
   * The row is not in the version that `If-Match` names, or is there although `If-None-Match: *` forbids it.
   *
   * Remedy: read the row again, decide again, and write with the new ETag.
   */
  "version-mismatch": { status: 412, title: "The row has another version", retryable: false },
  /**
   * Another row holds this primary key, or this value of a unique constraint; or two rows of the request share a key.
   *
   * Remedy: choose another value, or change the row that is there. `constraint` names the constraint.
   */
  "unique-violation": { status: 409, title: "The value is taken", retryable: false },
  /**
   * An EXCLUDE constraint forbids the row beside one that is there.
   *
   * Remedy: change the values or the other row. `constraint` names the constraint.
   */
  "exclusion-violation": { status: 409, title: "The row excludes another", retryable: false },
  /**
   * The row named by a foreign key is not there, or rows that name this one still are.
   *
   * Remedy: write the other row first (with its answer's `Coregent-Session`, if another region may have written it), or
   * delete those that name this one. `constraint` names the constraint.
   */
  "foreign-key-violation": { status: 422, title: "The row named is not there", retryable: false },
  /**
   * A column that must have a value has none.
   *
   * Remedy: give it one. `column` names it.
   */
  "not-null-violation": { status: 422, title: "A value is missing", retryable: false },
  /**
   * A CHECK of the table, of its domain type or of its partitions forbids the row.
   *
   * Remedy: correct the values. `constraint` names the constraint.
   */
  "check-violation": { status: 422, title: "A check forbids the row", retryable: false },
  /**
   * A trigger or function of the application refused the statement.
   *
   * Remedy: `detail` holds its words.
   */
  "refused-by-database": { status: 422, title: "The database refuses it", retryable: false },
  /**
   * The role that Coregent uses may not do this to the table.
   *
   * Remedy: GRANT it, to the role of the region's `postgres` URL.
   */
  "permission-denied": { status: 403, title: "Not permitted", retryable: false },
  /**
   * The endpoint asks for a token and the request has none.
   *
   * Remedy: send `Authorization: Bearer TOKEN`. `coregent token` makes a token and the line for the configuration.
   */
  "token-missing": { status: 401, title: "A token is needed", retryable: false },
  /**
   * The token is not known, its signature is wrong, or its time is over.
   *
   * Remedy: use a token that the configuration lists, or a fresh one of the identity provider.
   */
  "token-invalid": { status: 401, title: "The token is not valid", retryable: false },
  /**
   * The token's role does not suffice, or it may not use this table.
   *
   * Remedy: use another token, or give this one the role or the table in the configuration.
   */
  forbidden: { status: 403, title: "Not allowed", retryable: false },
  /**
   * The request names another host than this endpoint's (`Host`), and has no token. Where no token is asked for, pages of the
   * web that a browser on this machine shows could otherwise read and write by a name of their own that leads here.
   *
   * Remedy: ask by `localhost`, `127.0.0.1`, `[::1]` or the host of the region's `api` URL; or use tokens.
   */
  "host-unknown": { status: 421, title: "The endpoint does not go by this name", retryable: false },
  /**
   * The request comes from a web page of another site (`Origin`), and has no token.
   *
   * Remedy: ask from a program of your own, or use tokens.
   */
  "origin-refused": { status: 403, title: "Pages of other sites may not do this", retryable: false },
  /**
   * The identity provider's keys (`endpoint.jwt.jwks`) cannot be read, so that no JWT can be checked.
   *
   * Remedy: see that the agent reaches the address; send the request again after the time in `Retry-After`.
   */
  "identity-unavailable": { status: 503, title: "Tokens cannot be checked at the moment", retryable: true },
  /**
   * This token has sent more requests than `endpoint.requestsPerSecond` allows; or this address has sent more than 100 in a
   * second with no token or wrong ones.
   *
   * Remedy: send fewer, or a right token; go on after the time in `Retry-After`.
   */
  "rate-exceeded": { status: 429, title: "Too many requests", retryable: true },
  /**
   * This address has as many connections open as `endpoint.connectionsPerAddress` allows. The request was not looked at, and
   * its connection is closed.
   *
   * Remedy: keep connections and use them again. Where many clients come from one address, as from a proxy, list it under
   * `endpoint.sharedAddresses`.
   */
  "too-many-connections": { status: 429, title: "Too many connections of one address", retryable: true },
  /**
   * Simulated outages are off: they cut an agent's connections for real.
   *
   * Remedy: `outages: {allowed: true}` in the configuration, where they are wanted.
   */
  "outages-not-allowed": { status: 403, title: "Simulated outages are off", retryable: false },
  /**
   * Concurrent transactions stood in each other's way, and trying again did not help.
   *
   * Remedy: send the request again, after the time in `Retry-After`.
   */
  contention: { status: 503, title: "Concurrent writes are in the way", retryable: true },
  /**
   * The master stopped the statement, since it took too long.
   *
   * Remedy: ask for less (a filter that an index serves, a lower limit), or send it again when there is less load.
   */
  "statement-timeout": { status: 503, title: "The database took too long", retryable: true },
  /**
   * The master that was to answer cannot at the moment: it starts or stops, has no room for connections, or the connection
   * broke before anything was committed.
   *
   * Remedy: send the request again, after the time in `Retry-After`; another master answers if this one stays away.
   */
  "database-unavailable": { status: 503, title: "The database is not available", retryable: true },
  /**
   * No master can be written to: each is down, drained, or fenced for its clock. `detail` says which.
   *
   * Remedy: send the request again, after the time in `Retry-After`. `coregent route explain TABLE` and `coregent status` tell
   * what is the matter.
   */
  "no-master": { status: 503, title: "No master takes writes now", retryable: true },
  /**
   * The clock of this region's master is so far from the others' that its writes would outrank, or lose to, all theirs.
   * So the region's endpoint takes no writes; nothing that was written before is lost.
   *
   * Remedy: set the clock (NTP); writes are taken again by themselves. Another region's endpoint takes them meanwhile.
   */
  "region-fenced": { status: 503, title: "The region's clock is wrong", retryable: true },
  /**
   * No region that can be reached has all that the session token has seen, within the time that was allowed.
   *
   * Remedy: send the request again, with a longer `Prefer: wait=N` (seconds), or without `Coregent-Session` if older rows
   * will do.
   */
  "session-behind": { status: 503, title: "What the session has seen is not here yet", retryable: true },
  /**
   * A request with this `Idempotency-Key` is being carried out at this moment.
   *
   * Remedy: send the request again, after the time in `Retry-After`; it gets the answer of the first.
   */
  "idempotency-in-flight": { status: 409, title: "The same request is under way", retryable: true },
  /**
   * The `Idempotency-Key` was sent before with another request: another address, body or `If-Match`.
   *
   * Remedy: choose a new key for each request, and repeat a request as it was.
   */
  "idempotency-key-reused": { status: 422, title: "The key belongs to another request", retryable: false },
  /**
   * The write is committed, and will arrive in all regions; but fewer have confirmed it in time than `Prefer: durable=N` asks
   * for. Its headers tell what those of an answer to a write do, such as `Coregent-Version` and `Coregent-Once-Only`.
   *
   * Remedy: do not send it again. Read it with the answer's `Coregent-Session` where it must be known to have arrived.
   */
  "not-durable-yet": { status: 504, title: "Committed, but not yet in so many regions", retryable: false },
  /**
   * The connection to the master broke while the write was being committed, and the master could not be asked in time
   * what became of it, or others have written upon the same rows since. So it may have been done or not.
   *
   * Remedy: read the row to see. Send an `Idempotency-Key` with writes: then the same request may be sent again, and has one
   * effect.
   */
  "outcome-unknown": { status: 504, title: "Whether it was written is unknown", retryable: false },
  /**
   * More requests are under way than this endpoint takes at once.
   *
   * Remedy: send the request again, after the time in `Retry-After`.
   */
  overloaded: { status: 503, title: "Too many requests at once", retryable: true },
  /**
   * An error that the program did not expect: a defect, or a failure that it cannot explain yet. Whether the
   * write was done is not known.
   *
   * Remedy: look into the agent's log for the request id, and report it.
   */
  internal: { status: 500, title: "Internal error", retryable: false },
} as const satisfies Record<string, ProblemKind>;

export interface ProblemKind {
  readonly status: number;
  readonly title: string;
  /** The same request may succeed later, and nothing of it was done. */
  readonly retryable: boolean;
}

export type ProblemCode = keyof typeof problemCodes;

export interface ProblemFacts {
  /** SQLSTATE, where PostgreSQL said it. */
  readonly sqlState?: string;
  /** Of the transaction's operations, from 0. */
  readonly operation?: number;
  readonly constraint?: string;
  readonly column?: string;
  /** Which region answered or refused. */
  readonly region?: string;
  /** With 429 and 503; in whole seconds. */
  readonly retryAfterSeconds?: number;
  /** Where this occurrence differs from its code's. */
  readonly retryable?: boolean;
  /** Further headers of the answer, such as the version of a write that was committed. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** A refusal to be shown to the caller as it is. `message` is the problem's detail: no secret, no stack. */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly code: ProblemCode;
  readonly facts: ProblemFacts;

  constructor(code: ProblemCode, detail: string, facts: ProblemFacts = {}) {
    super(detail, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = code;
    this.facts = facts;
  }

  get status(): number {
    return problemCodes[this.code].status;
  }

  get retryable(): boolean {
    return this.facts.retryable ?? problemCodes[this.code].retryable;
  }

  /** The same with more facts, which do not replace those that are known. */
  with(facts: ProblemFacts): Problem {
    return new Problem(this.code, this.message, { ...facts, ...this.facts });
  }
}
