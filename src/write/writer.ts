import type { ClientBase } from "pg";
import type { Place } from "../../regions/distance.ts";
import {
  atHome,
  chooseMaster,
  rankForClient,
  type RankedRegion,
  type RegionVerdict,
  type RegionView,
  type RouteRequest,
} from "../../regions/route.ts";
import type { Failover, Route } from "../../regions/table-settings.ts";
import type { Topology } from "../../regions/topology.ts";
import type { Clock, RandomSource } from "../clock.ts";
import { Problem } from "../problems.ts";
import { Attempt, type AttemptAt, mayBeRepeated } from "./attempt.ts";
import { type Catalog, type CatalogSource, type CatalogTable, findTable } from "./catalog.ts";
import { GatheredInserts } from "./gathered-inserts.ts";
import { GatheredReads } from "./gathered-reads.ts";
import type { Master } from "./master.ts";
import type { Masters } from "./masters.ts";
import { type Key, type Operation, type OperationResult, type SelectOperation } from "./operation.ts";
import { ownersOf, type Ownership } from "./owners.ts";
import { readWithSession } from "./read.ts";
import type { SessionToken } from "./session-token.ts";
import { problemOf } from "./sql-problems.ts";

export interface WriteRequest {
  /** In one transaction, at one master. */
  readonly operations: readonly Operation[];
  /** What the caller has seen: the writes are stamped above it. */
  readonly session: SessionToken | null;
  /** In how many further regions the write is to be before it is answered, within `waitMs`. */
  readonly durable: { readonly regions: number } | null;
  readonly waitMs: number;
  readonly idempotency: { readonly scope: string; readonly key: string; readonly requestHash: string } | null;
  /** The caller is gone: what has not been committed is given up. */
  readonly signal: AbortSignal;
}

export interface WriteOutcome {
  /** Whose master wrote. */
  readonly region: string;
  /** In place of an owner that is down, with its authority. */
  readonly takeover: boolean;
  readonly results: readonly OperationResult[];
  /** The highest among the results, 0n for none. */
  readonly version: bigint;
  readonly session: SessionToken;
  readonly durableRegions: number | null;
  /** The answer is that of an earlier request with the same idempotency key. */
  readonly replayed: boolean;
  /**
   * Of a request with an idempotency key: false if a region that could not be asked may have carried it out too. null: it
   * had no key.
   */
  readonly onceOnly: boolean | null;
}

export interface ReadRequest {
  readonly operations: readonly SelectOperation[];
  readonly session: SessionToken | null;
  /** How long to wait for this region to have what the session has seen. */
  readonly waitMs: number;
  readonly signal: AbortSignal;
}

export interface ReadOutcome {
  readonly region: string;
  readonly results: readonly OperationResult[];
  readonly session: SessionToken;
}

export interface RouteExplanation {
  readonly table: string;
  readonly key: Key | null;
  /** null: nobody owns the row, or it is not known here. */
  readonly owner: string | null;
  readonly ownerColumn: string | null;
  readonly route: Route;
  readonly failover: Failover;
  /** Where a write would go; null: nowhere. */
  readonly target: string | null;
  readonly takeover: boolean;
  /** Every region, best first. */
  readonly regions: readonly RegionVerdict[];
}

export interface Writer {
  write(request: WriteRequest): Promise<WriteOutcome>;
  read(request: ReadRequest): Promise<ReadOutcome>;
  explain(table: string, key?: Key): Promise<RouteExplanation>;
  nearest(place: Place): readonly RankedRegion[];
}

/** What was routed where; for metrics. */
export interface WriterEvents {
  readonly routed: (verdict: RegionVerdict, tookMs: number) => void;
  /** A write went on to the next master, since this one failed. */
  readonly failedOver: (from: string) => void;
  readonly read: (region: string, tookMs: number) => void;
}

export interface WriterOptions {
  readonly masters: Masters;
  readonly topology: () => Topology;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly events?: WriterEvents;
}

/** At one master: the second is for a session that was stale, or an answer that was lost while the master is well. */
const maxTries = 2;

/** Routes each write to the right master, and goes on to the next where one falls away. */
export class RegionalWriter implements Writer {
  /** That of the nearest master that answers: the tables are the same in all. Rejects with a Problem. */
  readonly catalog: CatalogSource = {
    get: () => this.#somewhere((master) => master.catalog.get()),
    refreshed: () => this.#somewhere((master) => master.catalog.refreshed()),
  };
  readonly #options: WriterOptions;
  readonly #inserts: GatheredInserts;
  readonly #reads: GatheredReads;

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#inserts = new GatheredInserts(options.clock);
    this.#reads = new GatheredReads(options.clock);
  }

  /** @throws Problem, or the signal's reason */
  async write(request: WriteRequest): Promise<WriteOutcome> {
    this.#refuseIfFenced();
    const doubts: Problem[] = [];
    try {
      return await this.#writeSomewhere(request, doubts);
    } catch (error) {
      request.signal.throwIfAborted();
      // What came of the first attempt is not known, whatever has become of the others.
      throw doubts[0] ?? error;
    }
  }

  async #writeSomewhere(request: WriteRequest, doubts: Problem[]): Promise<WriteOutcome> {
    const startedMs = this.#options.clock.monotonic();
    const ownership = await this.#ownership(request.operations, request.signal);
    const route = this.#routeOf(ownership);
    const tries = new Map<string, number>();
    let failure: unknown = null;
    for (;;) {
      const next = this.#next(route, tries);
      if (next === null) throw this.#nobody(route, failure);
      const [master, verdict] = next;
      tries.set(master.name, (tries.get(master.name) ?? 0) + 1);
      try {
        const again = doubts.length > 0;
        const outcome = await this.#attempt({ master, verdict, request, again });
        this.#options.events?.routed(verdict, this.#options.clock.monotonic() - startedMs);
        return outcome;
      } catch (error) {
        failure = error;
        if (isInDoubt(error) && mayBeRepeated(request)) {
          doubts.push(error);
          failure = new Problem("database-unavailable", error.message, { cause: error });
        }
        await this.#afterFailure(failure, { master, route, tries, request, startedMs });
      }
    }
  }

  /** @throws Problem, or the signal's reason */
  async read(request: ReadRequest): Promise<ReadOutcome> {
    const startedMs = this.#options.clock.monotonic();
    const route = { ...this.#routeOf(unowned), route: "nearest" } as const;
    const readable = this.#inOrder(route, { as: forReads, wanted: ({ candidate }) => candidate });
    const outcome = await readWithSession(readable, request, {
      masters: this.#options.masters,
      gathered: this.#reads,
    });
    this.#options.events?.read(outcome.region, this.#options.clock.monotonic() - startedMs);
    return outcome;
  }

  /** @throws Problem `table-unknown` */
  async explain(table: string, key?: Key): Promise<RouteExplanation> {
    const signal = AbortSignal.timeout(this.#options.topology().writer.maxWaitMs);
    const found = await this.#findTable(table);
    const operations: Operation[] =
      key === undefined ? [] : [{ kind: "delete", table: found.name, key, ifMatch: null, returning: [] }];
    const ownership = await this.#ownership(operations, signal);
    const route = this.#tableRoute(found.name);
    const regions = chooseMaster(
      { ...this.#routeOf(ownership), route, failover: found.failover },
      this.#options.masters.views(),
    );
    const [first] = regions;
    return {
      table: found.name,
      key: key ?? null,
      owner: ownership.owners[0] ?? null,
      ownerColumn: found.ownerColumn,
      route,
      failover: found.failover,
      target: first?.candidate === true ? first.region : null,
      takeover: first?.takeover === true,
      regions,
    };
  }

  nearest(place: Place): readonly RankedRegion[] {
    return rankForClient(place, this.#options.masters.views());
  }

  #refuseIfFenced(): void {
    const { masters } = this.#options;
    const odd = masters.oddClocks.get(masters.here);
    if (odd?.verdict === "fence") {
      throw new Problem("region-fenced", `region ${masters.here} takes no writes: ${odd.text}`, {
        region: masters.here,
        retryAfterSeconds: 5,
      });
    }
  }

  #routeOf(ownership: Ownership): RouteRequest {
    return { here: this.#options.masters.here, chance: this.#options.random(), ...ownership };
  }

  #tableRoute(table: string): Route {
    return this.#options.topology().tables.find(({ name }) => name === table)?.route ?? "owner";
  }

  /** The best candidate that has not been tried often enough. */
  #next(route: RouteRequest, tries: ReadonlyMap<string, number>): readonly [Master, RegionVerdict] | null {
    const { masters } = this.#options;
    const home = this.#atHome(route);
    if (home !== null && (tries.get(masters.here) ?? 0) < maxTries) return home;
    for (const verdict of chooseMaster(route, masters.views())) {
      const master = masters.find(verdict.region);
      if (verdict.candidate && master !== undefined && (tries.get(verdict.region) ?? 0) < maxTries) {
        return [master, verdict];
      }
    }
    return null;
  }

  /** This region's own master, where it is the best whatever the others are. */
  #atHome(route: RouteRequest, as = asItIs): readonly [Master, RegionVerdict] | null {
    const { masters } = this.#options;
    const { home } = masters;
    const verdict = home === null ? null : atHome(route, as(home));
    const master = masters.find(masters.here);
    return verdict === null || master === undefined ? null : [master, verdict];
  }

  /** The catalog of the nearest master that answers, for what is the same in all of them. */
  async #somewhere<T>(ask: (master: Master) => Promise<T>): Promise<T> {
    const route = this.#routeOf(unowned);
    let failure: unknown = null;
    for (const master of this.#inOrder(route, { as: asItIs, wanted: ({ choice }) => choice !== "down" })) {
      try {
        return await ask(master);
      } catch (error) {
        const problem = problemOf(error);
        if (problem.code !== "database-unavailable" && problem.code !== "overloaded") throw problem;
        master.doubt();
        failure = problem;
      }
    }
    throw this.#nobody(route, failure);
  }

  /** The masters that are wanted, best first. Each time it is looked anew which is the next: the last one may have taken long. */
  *#inOrder(
    route: RouteRequest,
    { as, wanted }: { readonly as: typeof asItIs; readonly wanted: (verdict: RegionVerdict) => boolean },
  ): Generator<Master, void> {
    const { masters } = this.#options;
    const tried = new Set<string>();
    let [next] = this.#atHome(route, as) ?? [];
    for (;;) {
      next ??= chooseMaster(route, masters.views().map(as))
        .filter((verdict) => wanted(verdict) && !tried.has(verdict.region))
        .map(({ region }) => masters.find(region))
        .find((master) => master !== undefined);
      if (next === undefined) return;
      tried.add(next.name);
      yield next;
      next = undefined;
    }
  }

  #findTable(name: string): Promise<CatalogTable> {
    return this.#somewhere(async (master) => {
      try {
        return findTable(await master.catalog.get(), name);
      } catch (error) {
        if (!(error instanceof Problem) || error.code !== "table-unknown") throw error;
        return findTable(await master.catalog.refreshed(), name);
      }
    });
  }

  #ownership(operations: readonly Operation[], signal: AbortSignal): Promise<Ownership> {
    return this.#somewhere(async (master) => {
      const ask = (catalog: Catalog): Promise<Ownership> =>
        ownersOf(
          (lookUp: (client: ClientBase) => Promise<(string | null)[]>) => master.session(lookUp, signal),
          operations,
          { catalog, routeOf: (table) => this.#tableRoute(table) },
        );
      try {
        return await ask(await master.catalog.get());
      } catch (error) {
        const unknown = error instanceof Problem && error.code === "table-unknown";
        if (!unknown && !master.catalog.noticed(error)) throw error;
        return ask(await master.catalog.refreshed());
      }
    });
  }

  #attempt(at: AttemptAt): Promise<WriteOutcome> {
    const { masters, clock, random, topology } = this.#options;
    const { cluster } = topology();
    const askMs = Math.max(...masters.all.map(({ answersWithinMs }) => answersWithinMs));
    const settleMs = at.master.decisionMs;
    const inserts = this.#inserts;
    return new Attempt({ masters, inserts, clock, random, cluster, askMs, settleMs }, at).run();
  }

  /** Returns if another attempt makes sense, at the same master or elsewhere. */
  async #afterFailure(
    error: unknown,
    at: {
      readonly master: Master;
      readonly route: RouteRequest;
      readonly tries: Map<string, number>;
      readonly request: WriteRequest;
      readonly startedMs: number;
    },
  ): Promise<void> {
    const { master, route, tries, request } = at;
    request.signal.throwIfAborted();
    const problem = problemOf(error).with({ region: master.name });
    const { maxWaitMs } = this.#options.topology().writer;
    if (problem.code === "overloaded") {
      tries.set(master.name, maxTries);
      if (this.#options.clock.monotonic() - at.startedMs >= maxWaitMs) throw problem;
      return;
    }
    if (problem.code !== "database-unavailable") throw problem;
    this.#options.events?.failedOver(master.name);
    if (route.route === "owner" && route.owners.includes(master.name)) {
      // Until it is decided whether the owner is down, nobody can take over from it.
      await master.judgedAnew(AbortSignal.any([request.signal, AbortSignal.timeout(master.decisionMs)]));
    } else {
      master.doubt();
      tries.set(master.name, maxTries);
    }
  }

  #nobody(route: RouteRequest, failure: unknown): Problem {
    if (failure !== null) {
      return problemOf(failure).with({ retryAfterSeconds: 1 });
    }
    const regions = chooseMaster(route, this.#options.masters.views());
    return new Problem("no-master", regions.map(({ region, because }) => `${region} ${because}`).join("; "), {
      retryAfterSeconds: 1,
    });
  }
}

const asItIs = (view: RegionView): RegionView => view;

/** A read does no harm where the clock is wrong, and does not leave the region for a while of much work. */
const forReads = (view: RegionView): RegionView => ({ ...view, share: 1, fenced: null });

const isInDoubt = (error: unknown): error is Problem =>
  error instanceof Problem && error.code === "outcome-unknown";

const unowned: Ownership = { owners: [], route: "owner", failover: "takeover" };
