import type { Accepted, Attempt, Done, Ending, Request } from "./record.ts";
import { keyText } from "./record.ts";

/** Clients of the endpoints, over HTTP with connections that are kept. */

export interface Endpoint {
  readonly region: string;
  readonly api: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly json: Readonly<Record<string, unknown>>;
}

/** Longer than probes take to tell who is down, and than anything that is waited for. Who is not answered by then goes away. */
const answerWithinMs = 20_000;

/** What one sending came to. */
export interface Sent {
  readonly attempt: Attempt;
  readonly answer: Answer | null;
}

export interface Call {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
  readonly headers: Readonly<Record<string, string>>;
}

/** Sends once, and tells what came of it. Never rejects. */
export const send = async (endpoint: Endpoint, { method, path, body, headers }: Call): Promise<Sent> => {
  const startMs = performance.now();
  const told = (attempt: Omit<Attempt, "endpoint" | "startMs" | "endMs">, answer: Answer | null): Sent => ({
    attempt: { endpoint: endpoint.region, startMs, endMs: performance.now(), ...attempt },
    answer,
  });
  try {
    const response = await fetch(`${endpoint.api}${path}`, {
      method,
      headers: { ...headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(answerWithinMs),
    });
    const text = await response.text();
    const json = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
    const { status, headers: answered } = response;
    return told(
      {
        status,
        code: response.ok ? null : String(json["code"]),
        retryable: json["retryable"] === true,
        hasRetryAfter: answered.has("retry-after"),
        detail: typeof json["detail"] === "string" ? json["detail"] : "",
      },
      { status, headers: answered, json },
    );
  } catch (error) {
    const { cause } = error as { readonly cause?: Error & { readonly code?: unknown } };
    const detail = `${String(error)}: ${cause?.message ?? ""}`;
    const silent = error instanceof DOMException && error.name === "TimeoutError";
    const code = silent ? "silent" : cause?.code === "ECONNREFUSED" ? "refused" : "broke";
    return told({ status: null, code, retryable: false, hasRetryAfter: false, detail }, null);
  }
};

export const rowsPath = (table: string): string => `/v1/tables/${table}/rows`;
export const rowPath = (table: string, id: string): string => `${rowsPath(table)}/${encodeURIComponent(id)}`;

/** An ETag's parts; of a table that nobody owns the base is 0. */
export const versionOf = (etag: string | null): { readonly base: bigint; readonly version: bigint } => {
  const [, base = "0", version = "0"] = /^"(?:(\d+)\.)?(\d+)"$/.exec(etag ?? "") ?? [];
  return { base: BigInt(base), version: BigInt(version) };
};

const callOf = (request: Request, body: unknown, headers: Readonly<Record<string, string>>): Call => {
  const { kind, table, id } = request;
  const path = kind === "insert" ? rowsPath(table) : rowPath(table, id ?? "");
  const methods = { insert: "POST", put: "PUT", update: "PATCH", delete: "DELETE" } as const;
  return { method: methods[kind], path, headers, ...(kind === "delete" ? {} : { body }) };
};

/** What an answer says of all that the request wrote. */
export const saidOf = (headers: Headers): Omit<Accepted, "base" | "version" | "key"> => {
  const onceOnly = headers.get("coregent-once-only");
  const durable = /\bdurable=(\d+)/.exec(headers.get("preference-applied") ?? "")?.[1];
  return {
    region: headers.get("coregent-region") ?? "",
    takeover: headers.get("coregent-takeover") === "true",
    replayed: headers.get("idempotency-replayed") === "true",
    onceOnly: onceOnly === null ? null : onceOnly === "true",
    durable: durable === undefined ? null : Number(durable),
  };
};

const acceptedFrom = (request: Request, { headers, json }: Answer): Accepted => {
  const id = request.id ?? (typeof json["id"] === "string" ? json["id"] : "");
  const { base, version } = headers.has("etag")
    ? versionOf(headers.get("etag"))
    : { base: 0n, version: BigInt(headers.get("coregent-version") ?? 0) };
  return { ...saidOf(headers), base, version, key: keyText(id) };
};

export interface Patience {
  /** Where it is sent at first; what is sent again may go elsewhere. */
  readonly endpoints: { readonly current: () => Endpoint; readonly next: () => void };
  /** Before it is sent again. */
  readonly pause: () => Promise<void>;
  /** It is not sent again from then on. */
  readonly over: AbortSignal;
}

export interface Decided {
  readonly attempts: readonly Attempt[];
  readonly ending: Ending;
  readonly answer: Answer | null;
}

/**
 * Sends until it is decided, as docs/errors.md has it: again what is marked retryable; what broke only with its
 * idempotency key, or where no connection was made.
 */
export const untilDecided = async (
  { headers, ...call }: Call,
  idempotencyKey: string | null,
  { endpoints, pause, over }: Patience,
): Promise<Decided> => {
  const attempts: Attempt[] = [];
  const key = idempotencyKey === null ? {} : { "idempotency-key": idempotencyKey };
  for (;;) {
    const { attempt, answer } = await send(endpoints.current(), { ...call, headers: { ...headers, ...key } });
    attempts.push(attempt);
    const decided = endingOf(attempt, idempotencyKey !== null);
    const ending = decided ?? (over.aborted ? "given up" : null);
    if (ending !== null) return { attempts, ending, answer };
    if (attempt.status === null || attempts.length % 3 === 0) endpoints.next();
    await pause();
  }
};

/** Whether it was done, and the answer says so. */
export const isDone = (ending: Ending): boolean => ending === "acknowledged" || ending === "committed";

/** One write of one row. */
export const request = async (
  wanted: Request,
  { body, headers }: { readonly body: unknown; readonly headers: Readonly<Record<string, string>> },
  patience: Patience,
): Promise<{ readonly done: Done; readonly answer: Answer | null }> => {
  const call = callOf(wanted, body, headers);
  const { attempts, ending, answer } = await untilDecided(call, wanted.idempotencyKey, patience);
  const accepted = isDone(ending) && answer !== null ? acceptedFrom(wanted, answer) : null;
  return { done: { ...wanted, attempts, ending, accepted }, answer };
};

/** null: it is to be sent again. */
const endingOf = ({ code, retryable }: Attempt, hasKey: boolean): Ending | null => {
  switch (code) {
    case null:
      return "acknowledged";
    case "refused":
      return null;
    case "not-durable-yet":
      return "committed";
    case "broke":
    case "silent":
      return hasKey ? null : "unknown";
    default:
      if (retryable) return null;
      return code === "outcome-unknown" ? "unknown" : "refused";
  }
};
