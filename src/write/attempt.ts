import type { QueryConfig, QueryResultRow } from "pg";
import type { RegionVerdict } from "../../regions/route.ts";
import type { Clock, RandomSource } from "../clock.ts";
import { Problem } from "../problems.ts";
import { type Catalog, findTable } from "./catalog.ts";
import { OutcomeUnknown } from "./commit.ts";
import { type IdempotencyKey, type IdempotencyRecord, KeyTaken, settle } from "./idempotency.ts";
import type { Committed, GatheredInserts } from "./gathered-inserts.ts";
import type { Master } from "./master.ts";
import type { Masters } from "./masters.ts";
import { answerOf, doOnce, insertsUnderFixedKeysOnly, type Once, refuse } from "./once.ts";
import {
  highestVersion,
  type JsonValue,
  type Operation,
  type OperationResult,
  type SelectOperation,
} from "./operation.ts";
import { outcomeHeaders } from "./outcome-headers.ts";
import { keyIn } from "./owners.ts";
import { type Position, sessionAfter } from "./position.ts";
import { positionOf } from "./read.ts";
import { type SingleInsert, singleInsert } from "./new-row.ts";
import { runOperations } from "./run-operations.ts";
import { SessionTokenFormat, stampAbove } from "./session-token.ts";
import { settleByStates } from "./settle-by-states.ts";
import { problemOf } from "./sql-problems.ts";
import { runTransaction, type TransactionSettings } from "./transaction.ts";
import type { WriteOutcome, WriteRequest } from "./writer.ts";

export interface AttemptParts {
  readonly masters: Masters;
  readonly inserts: GatheredInserts;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly cluster: string;
  /** For an answer of a peer about an idempotency key. */
  readonly askMs: number;
  /** For a lost session to end, where it may have committed. */
  readonly settleMs: number;
}

export interface AttemptAt {
  readonly master: Master;
  readonly verdict: RegionVerdict;
  readonly request: WriteRequest;
  /** An earlier attempt may have been committed, here or elsewhere: of a request that `mayBeRepeated` only. */
  readonly again: boolean;
}

/**
 * A single new row whose key was made for this request is the same row wherever it is inserted, and however often: nobody else
 * can have used its key.
 */
export const mayBeRepeated = ({ operations, idempotency, durable }: WriteRequest): boolean => {
  const [operation] = operations;
  const single = operations.length === 1 && operation?.kind === "insert" && operation.rows.length === 1;
  return single && operation.keysMade === true && idempotency === null && durable === null;
};

const maxContentions = 3;
const contentionMs = 20;

/**
 * One request at one master, again while concurrent transactions are in the way.
 * @throws Problem; `database-unavailable` and `overloaded` if nothing of it was done, so that another master may do it;
 *   `outcome-unknown` if that is not known
 */
export class Attempt {
  readonly #parts: AttemptParts;
  readonly #master: Master;
  readonly #verdict: RegionVerdict;
  readonly #request: WriteRequest;
  readonly #again: boolean;
  /** Process id of the last session at the server, */
  #backend: number | null = null;
  /** and what is about to be committed there. */
  #results: readonly OperationResult[] | null = null;

  constructor(parts: AttemptParts, at: AttemptAt) {
    this.#parts = parts;
    this.#again = at.again;
    this.#master = at.master;
    this.#verdict = at.verdict;
    this.#request = at.request;
  }

  async run(): Promise<WriteOutcome> {
    const { clock, random } = this.#parts;
    for (let contentions = 0, stale = false; ;) {
      try {
        return await this.#once();
      } catch (error) {
        if (this.#again && isTaken(error)) return this.#insertedBefore(error);
        if (!stale && this.#master.catalog.noticed(error)) {
          stale = true;
        } else if (isContention(error) && contentions < maxContentions) {
          contentions += 1;
          await clock.sleep(contentionMs * 2 ** contentions * (0.5 + random()), this.#request.signal);
        } else {
          throw error;
        }
      }
    }
  }

  async #once(): Promise<WriteOutcome> {
    const { clock } = this.#parts;
    const { session, operations, signal, idempotency } = this.#request;
    const master = this.#master;
    const catalog = await master.catalog.get();
    const fixedKeys = insertsUnderFixedKeysOnly(operations, catalog);
    const settings = {
      stampAbove: session === null ? null : stampAbove(session, clock.now()),
      takeover: this.#verdict.takeover,
    };
    const first = mayBeRepeated(this.#request) && !this.#again;
    const single = first ? singleInsert(catalog, operations) : null;
    const work = async (client: Parameters<typeof runOperations>[0]): Promise<Once> => {
      const run = async () => {
        this.#results = null;
        const results = await (single?.run(client) ?? runOperations(client, catalog, operations));
        this.#results = results;
        return results;
      };
      this.#backend = Reflect.get(client, "processID") as number | null;
      return idempotency === null
        ? { kind: "done", results: await run(), onceOnly: true }
        : doOnce(client, {
            ...this.#onceParts(),
            id: idempotency,
            work: run,
            insertsUnderFixedKeysOnly: fixedKeys,
          });
    };
    const alone = (): Promise<Committed> => {
      const commits = ({ kind }: Once): boolean => kind === "done";
      const { positions, here } = this.#parts.masters;
      const askPosition = sharesPosition(master, here) ? () => positionOf(positions, master) : null;
      const atOnce = single?.isPrepared ?? null;
      return runTransaction(master, { settings, work, commits, atOnce, askPosition, signal }, clock);
    };
    try {
      const { result, position } = await (single === null
        ? alone()
        : this.#gathered(single, settings, alone));
      if (result.kind === "replayed" || position === null) {
        return await this.#replayed(result.kind === "replayed" ? result.record : null);
      }
      const version = highestVersion(result.results);
      const outcome = {
        region: master.name,
        takeover: this.#verdict.takeover,
        results: result.results,
        version,
        session: this.#sessionAfter(position, "write", version),
        replayed: false,
        onceOnly: idempotency === null ? null : result.onceOnly,
      };
      return { ...outcome, durableRegions: await this.#durable(position.committed, outcome) };
    } catch (error) {
      if (!(error instanceof OutcomeUnknown)) throw error;
      return this.#settled(error, idempotency, fixedKeys);
    }
  }

  /** A single new row goes together with others, where there are any. */
  #gathered(
    { form, values }: SingleInsert,
    { stampAbove, takeover }: TransactionSettings,
    alone: () => Promise<Committed>,
  ): Promise<Committed> {
    if (form === null || takeover) return alone();
    const { inserts } = this.#parts;
    return inserts.insert(this.#master, form, { values, stampAbove, signal: this.#request.signal, alone });
  }

  /**
   * The row's key is taken: it was inserted by an earlier attempt, of which the answer was lost.
   * @throws what says so, if it was not
   */
  async #insertedBefore(taken: unknown): Promise<WriteOutcome> {
    const master = this.#master;
    const { operations, signal } = this.#request;
    const catalog = await master.catalog.get();
    const selects = operations.flatMap((operation) => rowInserted(catalog, operation) ?? []);
    const results = await master
      .session((client) => runOperations(client, catalog, selects), signal)
      .catch((error: unknown) => {
        throw error instanceof Problem && error.code === "row-not-found" ? taken : error;
      });
    return this.#doneAfterAll(results.map((result) => ({ ...result, created: result.keys.map(() => true) })));
  }

  /** The answer of a write that turned out to be done when its own answer was lost. */
  async #doneAfterAll(results: readonly OperationResult[]): Promise<WriteOutcome> {
    const version = highestVersion(results);
    const { name } = this.#master;
    const position = await positionOf(this.#parts.masters.positions, this.#master).catch((cause: unknown) => {
      // Nothing that would have it sent again: it is done.
      throw new Problem("outcome-unknown", `the master of ${name} went away twice`, { region: name, cause });
    });
    const outcome = {
      region: name,
      takeover: this.#verdict.takeover,
      results,
      version,
      session: this.#sessionAfter(position, "read", version),
      replayed: false,
      onceOnly: null,
    };
    return { ...outcome, durableRegions: await this.#durable(position.own.lsn, outcome) };
  }

  #onceParts() {
    const { masters, clock, askMs } = this.#parts;
    const others = masters.all.filter((each) => each !== this.#master);
    const down = others.filter(({ health }) => health.health === "down");
    return {
      takeover: this.#verdict.takeover,
      here: this.#master,
      region: this.#master.region.id,
      peers: others
        .filter((each) => !down.includes(each))
        .map((each) => ({
          region: each.region.id,
          database: {
            query: <R extends QueryResultRow>(config: QueryConfig) => each.unlessDown(each.query<R>(config)),
          },
        })),
      unreachable: down.map(({ region }) => region.id),
      timeoutMs: askMs,
      clock,
    };
  }

  #sessionAfter(position: Position, kind: "read" | "write", version: bigint): WriteOutcome["session"] {
    const { session } = this.#request;
    return sessionAfter({ session, position, kind, version }, this.#parts.masters.positions.knowledge);
  }

  /** The answer of a request that was carried out before, here or elsewhere. */
  async #replayed(record: IdempotencyRecord | null): Promise<WriteOutcome> {
    const { masters } = this.#parts;
    const { takeover, results, onceOnly } = answerOf(record);
    const writer = masters.all.find(({ region }) => region.id === record?.region);
    const position = await positionOf(masters.positions, this.#master);
    const version = highestVersion(results);
    const outcome = {
      region: writer?.name ?? this.#master.name,
      takeover,
      results,
      version,
      session: this.#sessionAfter(position, "read", version),
      replayed: true,
      onceOnly,
    };
    // Elsewhere, the slots of the master that wrote are not known: what is here is in this region and the writer's.
    const lsn = writer === this.#master ? position?.own.lsn : undefined;
    const durable =
      lsn === undefined ? await this.#durable(null, outcome) : await this.#durable(lsn, outcome);
    return { ...outcome, durableRegions: durable };
  }

  /** @throws Problem `not-durable-yet` */
  async #durable(lsn: bigint | null, outcome: Omit<WriteOutcome, "durableRegions">): Promise<number | null> {
    const { durable, waitMs, signal } = this.#request;
    if (durable === null) return null;
    const { regions } = durable;
    const held = lsn === null ? 1 : (await this.#master.slots.wait({ lsn, regions, waitMs, signal })).size;
    if (held >= regions) return held;
    throw new Problem(
      "not-durable-yet",
      `it is committed in ${outcome.region}, and durable in ${held} of ${regions} further regions by now`,
      {
        region: outcome.region,
        headers: {
          ...outcomeHeaders(outcome),
          "coregent-region": outcome.region,
          "coregent-session": new SessionTokenFormat(this.#parts.cluster).encode(outcome.session),
        },
      },
    );
  }

  /** The connection broke during COMMIT: the record tells, or the rows, if the master can be asked. */
  async #settled(
    unknown: OutcomeUnknown,
    id: IdempotencyKey | null,
    fixedKeys: boolean,
  ): Promise<WriteOutcome> {
    const { name } = this.#master;
    const facts = { region: name, cause: unknown };
    const detail = `the connection to the master of ${name} broke during COMMIT`;
    const { settleMs } = this.#parts;
    const { signal } = this.#request;
    // What went together with its COMMIT is tried again under its key instead.
    if (id === null && this.#results === null) {
      this.#master.doubt();
      throw new Problem("outcome-unknown", detail, facts);
    }
    await this.#master.judgedAnew(AbortSignal.any([signal, AbortSignal.timeout(settleMs)]));
    signal.throwIfAborted();
    if (id === null) return this.#settledByStates(detail, facts);
    try {
      const claim = await this.#master.session(
        (client) => settle(client, id, { waitMs: settleMs, backend: this.#backend }),
        AbortSignal.any([signal, AbortSignal.timeout(2 * settleMs)]),
      );
      const record = claim.kind === "in-flight" ? undefined : refuse(claim);
      if (record === null) throw new Problem("database-unavailable", `${detail}, and it was not done`, facts);
      if (record !== undefined) return await this.#replayed(record);
    } catch (error) {
      signal.throwIfAborted();
      const problem = problemOf(error);
      if (problem.facts.cause === unknown || problem.code.startsWith("idempotency")) throw problem;
    }
    // Rows under these keys are the same rows wherever they are inserted.
    if (fixedKeys) throw new Problem("database-unavailable", detail, facts);
    // Sent again with its key, it is settled by the record as soon as the master can be asked.
    throw new Problem("outcome-unknown", detail, { ...facts, retryable: true, retryAfterSeconds: 1 });
  }

  async #settledByStates(detail: string, facts: Problem["facts"]): Promise<WriteOutcome> {
    const { settleMs, clock } = this.#parts;
    const { operations, signal } = this.#request;
    const results = this.#results ?? [];
    const doubt = { operations, results, backend: this.#backend, waitMs: settleMs, clock };
    const settled = await this.#master
      .session(
        async (client) => settleByStates(client, await this.#master.catalog.get(), doubt),
        AbortSignal.any([signal, AbortSignal.timeout(2 * settleMs)]),
      )
      .catch(() => "unknown" as const);
    signal.throwIfAborted();
    if (settled === "done") return this.#doneAfterAll(results);
    throw settled === "undone"
      ? new Problem("database-unavailable", `${detail}, and it was not done`, facts)
      : new Problem("outcome-unknown", detail, facts);
  }
}

/**
 * Where several writes are under way at this region's own master, they share the question for its position, which is asked when
 * theirs are answered. Alone, or far away, it goes along in the round trip of the request.
 */
const sharesPosition = ({ name, connections }: Master, here: string): boolean =>
  name === here && connections.inFlight >= manyInFlight;

const manyInFlight = 4;

const isTaken = (error: unknown): boolean => error instanceof Problem && error.code === "unique-violation";

/** The row of an insert, to be read. */
const rowInserted = (catalog: Catalog, operation: Operation): SelectOperation | null => {
  if (operation.kind !== "insert") return null;
  const { table, rows, returning } = operation;
  const key = keyIn(findTable(catalog, table), rows[0] ?? new Map<string, JsonValue>());
  const all = { filters: [], order: [], limit: 1, offset: 0, after: null, count: false };
  return key === null ? null : { kind: "select", table, key, columns: returning, ...all };
};

const isContention = (error: unknown): boolean =>
  error instanceof KeyTaken || (error instanceof Problem && error.code === "contention");
