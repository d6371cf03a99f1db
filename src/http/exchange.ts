import { createHash } from "node:crypto";
import type { FastifyReply, FastifyRequest } from "fastify";
import { Problem } from "../problems.ts";
import { type CatalogTable, catalogWith, findTable } from "../write/catalog.ts";
import { derivedKey } from "../write/derived-key.ts";
import { freshKeys, withKeys } from "../write/keys.ts";
import type { Operation, SelectOperation } from "../write/operation.ts";
import { outcomeHeaders } from "../write/outcome-headers.ts";
import { type SessionToken, SessionTokenFormat } from "../write/session-token.ts";
import type { ReadOutcome, WriteOutcome } from "../write/writer.ts";
import { remembered } from "../remembered.ts";
import type { ApiParts, Principal, Right } from "./api-parts.ts";
import { parseIdempotencyKey, parsePrefer, type Preferences } from "./headers.ts";

/** Bytes of a request's body as they came; for the hash that an idempotency key is bound to. */
export const rawBody = Symbol("body as it came");

declare module "fastify" {
  interface FastifyRequest {
    [rawBody]?: Buffer;
  }
}

const tokensOf = remembered(({ cluster }: ApiParts) => new SessionTokenFormat(cluster));

/** One request to the API and its answer: what the headers say, who asks, and what is sent to the writer. */
export class Exchange {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  readonly preferences: Preferences;
  readonly #parts: ApiParts;
  readonly #tokens: SessionTokenFormat;
  readonly #session: SessionToken | null;

  /** @throws Problem, SessionTokenInvalid */
  constructor(parts: ApiParts, request: FastifyRequest, reply: FastifyReply) {
    this.request = request;
    this.reply = reply;
    this.#parts = parts;
    this.#tokens = tokensOf(parts);
    this.preferences = parsePrefer(request.headers.prefer);
    const session = request.headers["coregent-session"];
    this.#session = session === undefined ? null : this.#tokens.decode(String(session));
  }

  /**
   * The table that the caller named, if he may do this to it.
   * @throws Problem `table-unknown`, or what `authorize` says
   */
  async table(name: string, right: Right): Promise<CatalogTable> {
    const [table] = await this.#allowed([{ name, right }]);
    if (table === undefined) throw new Problem("table-unknown", "no table is named");
    return table.table;
  }

  async read(operation: SelectOperation): Promise<ReadOutcome> {
    const outcome = await this.#parts.writer.read({
      operations: [operation],
      session: this.#session,
      waitMs: this.preferences.waitMs ?? this.#parts.bounds.readWaitMs,
      signal: this.#gone(),
    });
    this.#answerHeaders(outcome);
    return outcome;
  }

  /** Asks for rights, makes keys for new rows without one, writes, and sets the answer's headers. */
  async write(operations: readonly Operation[]): Promise<WriteOutcome> {
    const { writer, bounds } = this.#parts;
    const access = operations.map(({ table, kind }) => ({
      name: table,
      right: kind === "select" ? ("read" as const) : ("write" as const),
    }));
    const allowed = await this.#allowed(access);
    const resolved = operations.map((operation, at) => ({
      ...operation,
      table: allowed[at]?.table.name ?? operation.table,
    }));
    const { durable } = this.preferences;
    const idempotency = this.#idempotency(allowed[0]?.principal.name ?? "");
    const makeKey =
      idempotency === null
        ? freshKeys(this.#parts.now)
        : (ordinal: number) => derivedKey(idempotency, ordinal);
    const catalog = await this.#parts.catalog.get();
    const outcome = await writer.write({
      operations: withKeys(resolved, catalog, makeKey),
      session: this.#session,
      durable,
      waitMs: this.preferences.waitMs ?? (durable === null ? bounds.readWaitMs : bounds.durableWaitMs),
      idempotency,
      signal: this.#gone(),
    });
    this.#answerHeaders(outcome);
    this.reply.headers(outcomeHeaders(outcome));
    return outcome;
  }

  async #allowed(
    access: readonly { readonly name: string; readonly right: Right }[],
  ): Promise<{ readonly table: CatalogTable; readonly principal: Principal }[]> {
    const names = access.map(({ name }) => name);
    const catalog = await catalogWith(this.#parts.catalog, names);
    const granted = new Map<string, Principal>();
    const allowed: { readonly table: CatalogTable; readonly principal: Principal }[] = [];
    for (const { name, right } of access) {
      const table = findTable(catalog, name);
      const id = `${right} ${table.name}`;
      const principal =
        granted.get(id) ?? (await this.#parts.authorize(this.request, { table: table.name, right }));
      granted.set(id, principal);
      allowed.push({ table, principal });
    }
    return allowed;
  }

  #idempotency(scope: string): { scope: string; key: string; requestHash: string } | null {
    const { headers, method, url } = this.request;
    const key = parseIdempotencyKey(headers["idempotency-key"]);
    if (key === null) return null;
    const hash = createHash("sha256");
    hash.update(JSON.stringify([method, url, headers["if-match"] ?? null, headers["if-none-match"] ?? null]));
    hash.update(this.request[rawBody] ?? "");
    return { scope, key, requestHash: hash.digest("hex") };
  }

  /** Aborted when the caller goes away before he was answered. */
  #gone(): AbortSignal {
    const gone = new AbortController();
    const { raw } = this.reply;
    const leave = (): void => {
      if (!raw.writableFinished) gone.abort(new Problem("request-timeout", "the caller went away"));
    };
    if (raw.destroyed) leave();
    else raw.once("close", leave);
    return gone.signal;
  }

  #answerHeaders(outcome: ReadOutcome | WriteOutcome): void {
    const durable = "durableRegions" in outcome && outcome.durableRegions !== null;
    const applied = this.preferences.applied.filter((name) => durable || !name.startsWith("durable="));
    this.reply.headers({
      "cache-control": "private, no-cache",
      "coregent-region": outcome.region,
      "coregent-session": this.#tokens.encode(outcome.session),
      ...(applied.length === 0 ? {} : { "preference-applied": applied.join(", ") }),
    });
  }
}
