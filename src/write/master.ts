import type { Client, QueryConfig, QueryResult, QueryResultRow } from "pg";
import type { Logger } from "pino";
import type { ClockReading } from "../../regions/clocks.ts";
import { afterProbe, unprobed, type HealthState } from "../../regions/health.ts";
import { afterDemand, idleLoad, type LoadState, withLatency } from "../../regions/load.ts";
import type { Region } from "../../regions/topology.ts";
import type { WriterSettings } from "../../regions/writer-settings.ts";
import type { Clock } from "../clock.ts";
import { connect } from "../postgres/client.ts";
import type { Line } from "../postgres/line.ts";
import { CatalogCache, readCatalog } from "./catalog.ts";
import { Connections, destroy } from "./connections.ts";
import { SlotWatch } from "./durable.ts";
import type { Database } from "./position.ts";
import { problemOf } from "./sql-problems.ts";

export interface MasterOptions {
  readonly cluster: string;
  /** Ids of all regions, as they are now. */
  readonly members: () => ReadonlySet<number>;
  /** Has this master write a pulse (pulse.ts). */
  readonly pulse: () => void;
  readonly region: () => Region;
  readonly settings: () => WriterSettings;
  /** How it is reached; undefined: directly. */
  readonly line: Line | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * What a probe asks: whether the master may be written to, and its clock. Where an earlier release has installed there is no
 * column drained_at; a row as JSON can be asked for it all the same.
 */
const probeSql = `
SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS "readOnly",
       coregent.clock_us()::text AS clock,
       EXISTS (SELECT FROM coregent.local AS l WHERE to_jsonb(l) ->> 'drained_at' IS NOT NULL) AS drained`;

interface ProbeRow {
  readonly standby: boolean;
  readonly readOnly: boolean;
  readonly clock: string;
  readonly drained: boolean;
}

type Answer = { readonly failed: string } | { readonly failed: null; readonly tookMs: number };

/** Between two probes, however many requests fail: what is over in an instant does not make a master down. */
const leastProbeMs = 50;
const roundTripWeight = 0.2;

/**
 * One region's master as this writer sees it: sessions for requests, a session of its own for probes, and what these told
 * of its health, load, distance and clock. The rules are in regions/; here they get their facts.
 */
export class Master implements Database {
  readonly connections: Connections;
  readonly catalog: CatalogCache;
  /** In which further regions commits are durable. */
  readonly slots: SlotWatch;
  readonly #options: MasterOptions;
  #health: HealthState;
  #load: LoadState;
  #drained = false;
  #roundTripMs: number | null = null;
  #clockReading: (ClockReading & { readonly atMs: number }) | null = null;
  /** When the last probe that was judged had begun. */
  #judgedSinceMs = -Infinity;
  readonly #onJudged = new Set<() => void>();
  #wake = new AbortController();
  /** A request waits for a probe that begins from now on. */
  #wanted = false;
  #session: Client | null = null;

  constructor(options: MasterOptions) {
    this.#options = options;
    const { clock, region, settings } = options;
    this.#health = unprobed(clock.monotonic());
    this.#load = idleLoad(clock.monotonic());
    this.connections = new Connections({
      region: region().name,
      url: () => region().postgres.reveal(),
      applicationName: `coregent writer ${region().name}`,
      line: options.line,
      clock,
      bounds: settings,
    });
    this.slots = new SlotWatch(this, { ...options, region: region().id });
    this.catalog = new CatalogCache({
      region: region().name,
      monotonic: clock.monotonic,
      read: () =>
        this.session((client) => readCatalog(client, this.name), AbortSignal.timeout(this.#patienceMs)),
    });
  }

  get name(): string {
    return this.#options.region().name;
  }

  get region(): Region {
    return this.#options.region();
  }

  get health(): HealthState {
    return this.#health;
  }

  /** Taken out for maintenance, as it said when it was probed last. */
  get drained(): boolean {
    return this.#drained;
  }

  get roundTripMs(): number | null {
    return this.#roundTripMs;
  }

  /** Of its clock, as long as it is recent enough to say something. */
  get clockReading(): ClockReading | null {
    const reading = this.#clockReading;
    const oldestMs = this.#options.clock.monotonic() - 10 * this.#options.settings().probeMs;
    return reading === null || reading.atMs < oldestMs ? null : reading;
  }

  /** As it is now: what waits for the master is looked at anew. */
  load(): LoadState {
    const { clock, settings } = this.#options;
    const nowMs = clock.monotonic();
    const { queued } = this.connections;
    const longestWaitMs = this.connections.longestWaitMs(nowMs);
    const before = this.#load;
    this.#load = afterDemand(before, { queued, longestWaitMs, atMs: nowMs }, settings());
    this.#report(before.phase, this.#load.phase, this.#load.reason);
    return this.#load;
  }

  /** A latency of work that is always the same (load.ts). */
  observeLatency(latencyMs: number): void {
    this.#load = withLatency(this.#load, latencyMs, this.#options.settings());
  }

  /**
   * One short question of ours, in the session for probes, which no request holds; if it is not there, in one of the shared
   * sessions, within the bounds for waiting.
   */
  async query<R extends QueryResultRow>(config: QueryConfig): Promise<QueryResult<R>> {
    if (this.#session !== null) return this.#session.query<R>(config);
    return this.session((client) => client.query<R>(config), AbortSignal.timeout(this.#patienceMs));
  }

  /**
   * Works with one of the shared sessions, outside a transaction. After an error that may be the session's it is ended.
   * @throws Problem `overloaded`; what connecting and the work throw; the signal's reason
   */
  async session<T>(work: (client: Client) => Promise<T>, signal: AbortSignal): Promise<T> {
    const lease = await this.connections.take(signal);
    signal.addEventListener("abort", lease.discard, { once: true });
    try {
      const result = await work(lease.client);
      lease.giveBack();
      return result;
    } catch (error) {
      const { code } = problemOf(error);
      if (code === "database-unavailable" || code === "internal") lease.discard();
      else lease.giveBack();
      throw error;
    } finally {
      signal.removeEventListener("abort", lease.discard);
    }
  }

  get #patienceMs(): number {
    const { maxWaitMs, statementTimeoutMs } = this.#options.settings();
    return maxWaitMs + statementTimeoutMs;
  }

  /** Probes until the signal is aborted. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, settings } = this.#options;
    while (!signal.aborted) {
      this.#wanted = false;
      const good = await this.#probe(signal);
      this.connections.prune(clock.monotonic());
      if (good) this.connections.warmUp(signal).catch(() => undefined);
      this.load();
      this.#wake = new AbortController();
      const { probeMs } = settings();
      // What has failed is looked at more often, until it is known to be down or well.
      const usualMs = good || this.#health.health === "down" ? probeMs : probeMs / 2;
      const waitMs = this.#wanted ? Math.min(usualMs, leastProbeMs) : usualMs;
      await clock.sleep(waitMs, AbortSignal.any([signal, this.#wake.signal])).catch(() => undefined);
    }
    this.#dropSession();
  }

  /** Has it probed soon, since a request has failed there. */
  doubt(): void {
    this.#wanted = true;
    this.#wake.abort();
  }

  /**
   * Asks now whether the master is well, since a request has failed there, and waits until that is decided: resolves when
   * it is healthy or down by probes that began after this call, or at the signal.
   */
  async judgedAnew(signal: AbortSignal): Promise<void> {
    const sinceMs = this.#options.clock.monotonic();
    this.doubt();
    while (!signal.aborted && (this.#judgedSinceMs < sinceMs || this.#health.health === "suspect")) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          this.#onJudged.delete(done);
          signal.removeEventListener("abort", done);
          resolve();
        };
        this.#onJudged.add(done);
        signal.addEventListener("abort", done, { once: true });
      });
    }
  }

  /** Whether the probe was good. One without an answer counts as failed each time that the bound has passed. */
  async #probe(signal: AbortSignal): Promise<boolean> {
    const { clock, settings } = this.#options;
    const beganAtMs = clock.monotonic();
    const givingUp = new AbortController();
    const asking = this.#ask(AbortSignal.any([signal, givingUp.signal]));
    for (;;) {
      const { probeTimeoutMs, failuresToDown } = settings();
      const late = new AbortController();
      const answer = await Promise.race([
        asking,
        clock.sleep(probeTimeoutMs, AbortSignal.any([late.signal, signal])).then(
          () => null,
          () => null,
        ),
      ]);
      late.abort();
      if (signal.aborted) {
        return false;
      }
      if (answer !== null) {
        this.#judge(answer, beganAtMs);
        return answer.failed === null;
      }
      this.#judge({ failed: "does not answer" }, beganAtMs);
      // A packet that was lost comes again, so the session is kept while there is hope.
      if (clock.monotonic() - beganAtMs >= giveUpMs(probeTimeoutMs, failuresToDown)) {
        givingUp.abort();
        this.#dropSession();
        return false;
      }
    }
  }

  async #ask(signal: AbortSignal): Promise<Answer> {
    const { clock } = this.#options;
    let session: Client | null = null;
    try {
      session = await this.#probeSession(signal);
      const before = { at: clock.now(), tick: clock.monotonic() };
      const { rows } = await session.query<ProbeRow>({ name: "probe", text: probeSql });
      const tookMs = clock.monotonic() - before.tick;
      const [row] = rows;
      if (row !== undefined && row.drained !== this.#drained) {
        this.#drained = row.drained;
        this.#options.logger.info(
          { master: this.name, drained: row.drained },
          "a master is drained, or resumed",
        );
      }
      if (row === undefined || row.standby || row.readOnly) {
        return { failed: row?.standby === true ? "is a standby" : "is read-only" };
      }
      const skewMs = Number(row.clock) / 1000 - (before.at + tookMs / 2);
      this.#clockReading = {
        region: this.name,
        skewMs,
        uncertaintyMs: tookMs / 2,
        atMs: before.tick + tookMs,
      };
      return { failed: null, tookMs };
    } catch (error) {
      // It may have been given up, and another probe may have a session of its own by now.
      if (session === this.#session) this.#dropSession();
      return { failed: reasonOf(error) };
    }
  }

  #judge(answer: Answer, beganAtMs: number): void {
    const { clock, settings } = this.#options;
    const atMs = clock.monotonic();
    const before = this.#health;
    if (answer.failed === null) {
      const old = this.#roundTripMs ?? answer.tookMs;
      this.#roundTripMs = old + (answer.tookMs - old) * roundTripWeight;
      this.observeLatency(answer.tookMs);
      this.#health = afterProbe(before, { ok: true, atMs }, settings());
    } else {
      this.#health = afterProbe(before, { ok: false, atMs, reason: answer.failed }, settings());
    }
    this.#judgedSinceMs = beganAtMs;
    this.#report(before.health, this.#health.health, this.#health.reason);
    if (this.#health.health === "down" && before.health !== "down") {
      this.connections.breakAll();
    }
    for (const done of this.#onJudged) done();
  }

  #report(before: string, now: string, reason: string | null): void {
    if (before === now) {
      return;
    }
    const { logger } = this.#options;
    const facts = { master: this.name, before, now, ...(reason === null ? {} : { reason }) };
    if (now === "down" || now === "passedOver") {
      logger.warn(facts, "a master is not written to for now");
    } else {
      logger.info(facts, "a master's state has changed");
    }
  }

  async #probeSession(signal: AbortSignal): Promise<Client> {
    this.#session ??= await connect(this.region.postgres.reveal(), {
      applicationName: `coregent probe ${this.name}`,
      pipeline: true,
      connectTimeoutMs: connectTimeoutMs(this.#options.settings().probeTimeoutMs),
      line: this.#options.line,
      signal,
    });
    return this.#session;
  }

  #dropSession(): void {
    const session = this.#session;
    this.#session = null;
    if (session !== null) {
      destroy(session);
    }
  }
}

/** Connecting takes half a dozen round trips. */
const connectTimeoutMs = (probeTimeoutMs: number): number => Math.max(3_000, 6 * probeTimeoutMs);

const giveUpMs = (probeTimeoutMs: number, failuresToDown: number): number =>
  Math.max(connectTimeoutMs(probeTimeoutMs), failuresToDown * probeTimeoutMs);

/** For people, after "it": no host, port or user, since /v1/route shows it. */
const reasonOf = (error: unknown): string => {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  switch (code) {
    case "ECONNREFUSED":
      return "refuses connections";
    case "42883":
    case "3F000":
    case "42P01":
      return "lacks Coregent's functions (coregent init)";
    default:
      return code === "" ? "breaks connections" : `cannot be reached (${code})`;
  }
};
