import type { Client, QueryConfig, QueryResult, QueryResultRow } from "pg";
import type { Logger } from "pino";
import type { ClockReading } from "../../regions/clocks.ts";
import { afterProbe, unprobed, type HealthState } from "../../regions/health.ts";
import { afterDemand, idleLoad, type LoadState, withLatency } from "../../regions/load.ts";
import { afterLook, beginWait, patienceMs } from "../../regions/patience.ts";
import type { Region } from "../../regions/topology.ts";
import type { WriterSettings } from "../../regions/writer-settings.ts";
import { type Clock, type Nap, untilBeatMs } from "../clock.ts";
import { Problem } from "../problems.ts";
import type { Line } from "../postgres/line.ts";
import { CatalogCache, readCatalog } from "./catalog.ts";
import { Connections } from "./connections.ts";
import { SlotWatch } from "./durable.ts";
import type { Database } from "./position.ts";
import { askWhetherWell, ProbeSession, reasonOf } from "./probe.ts";
import { type PreparedResult, type PreparedStatement, queryPrepared } from "./prepared-query.ts";
import { problemOf } from "./sql-problems.ts";

export interface MasterOptions {
  readonly cluster: string;
  /** Ids of all regions, as they are now. */
  readonly members: () => ReadonlySet<number>;
  /** Has this master write a pulse (pulse.ts). */
  readonly pulse: () => void;
  /** Told when it is down, well again, drained or resumed. */
  readonly changed: () => void;
  readonly region: () => Region;
  readonly settings: () => WriterSettings;
  /** How it is reached; undefined: directly. */
  readonly line: Line | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

type Answer = { readonly failed: string } | { readonly failed: null; readonly tookMs: number };

interface Asked {
  /** null: not yet. */
  answer: Answer | null;
}

/** Between two probes, however many requests fail: what is over in an instant does not make a master down. */
const leastProbeMs = 50;
const roundTripWeight = 0.2;
/** How often it is looked whether something has come, in the time that a probe may take. */
const looksPerTimeout = 8;

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
  /** Between two probes, and for the answer of one. */
  readonly #resting: Nap;
  readonly #looking: Nap;
  /** A request waits for a probe that begins from now on. */
  #wanted = false;
  readonly #session: ProbeSession;
  /** How long the last good probe has waited for one answer. */
  #stepMs = 0;

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
    this.#resting = clock.nap();
    this.#looking = clock.nap();
    this.#session = new ProbeSession(options);
    this.slots = new SlotWatch(this, { ...options, region: region().id });
    this.catalog = new CatalogCache({
      region: region().name,
      monotonic: clock.monotonic,
      read: () =>
        this.session((client) => readCatalog(client, this.name), AbortSignal.timeout(this.#queryMs)),
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

  /**
   * Within which it answers a short question, if it is well. Where the session for that is still being opened, as after a
   * start, that takes many round trips, and so it has the time in which it would be found to be down.
   */
  get answersWithinMs(): number {
    return this.#session.open === null ? this.decisionMs : this.#patienceMs;
  }

  get #patienceMs(): number {
    return patienceMs(this.#stepMs, this.#options.settings());
  }

  /** Within which it is decided whether a master that has fallen silent is down, in whole ms. */
  get decisionMs(): number {
    const { failuresToDown, probeTimeoutMs, probeMs } = this.#options.settings();
    const probesMs = this.#patienceMs + (failuresToDown - 1) * probeTimeoutMs;
    return probesMs + Math.ceil((failuresToDown * probeMs) / 2);
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
    const { open } = this.#session;
    if (open !== null) return open.query<R>(config);
    return this.session((client) => client.query<R>(config), AbortSignal.timeout(this.#queryMs));
  }

  /** The same in the session for probes; null: it is not there. */
  queryPrepared(statement: PreparedStatement): Promise<PreparedResult> | null {
    const { open } = this.#session;
    return open === null ? null : queryPrepared(open, statement);
  }

  /**
   * Works with one of the shared sessions, for so many requests, outside a transaction. After an error that may be the
   * session's it is ended.
   * @throws Problem `overloaded`; what connecting and the work throw; the signal's reason
   */
  async session<T>(work: (client: Client) => Promise<T>, signal: AbortSignal, requests = 1): Promise<T> {
    const lease = await this.connections.take(signal, requests);
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

  get #queryMs(): number {
    const { maxWaitMs, statementTimeoutMs } = this.#options.settings();
    return maxWaitMs + statementTimeoutMs;
  }

  /** Probes until the signal is aborted. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, settings } = this.#options;
    const stop = (): void => {
      this.#session.drop();
      this.#looking.end();
      this.#resting.end();
    };
    signal.addEventListener("abort", stop, { once: true });
    while (!signal.aborted) {
      this.#wanted = false;
      const good = await this.#probe(signal);
      this.connections.prune(clock.monotonic());
      if (good) this.connections.warmUp(signal).catch(() => undefined);
      this.load();
      const { probeMs } = settings();
      // What has failed is looked at more often, until it is known to be down or well.
      const usualMs = good || this.#health.health === "down" ? probeMs : probeMs / 2;
      if (signal.aborted) break;
      await this.#resting.take(
        this.#wanted ? Math.min(usualMs, leastProbeMs) : untilBeatMs(clock.monotonic(), usualMs),
      );
    }
    this.#session.drop();
  }

  /** Has it probed soon, since a request has failed there. */
  doubt(): void {
    this.#wanted = true;
    this.#resting.end();
  }

  /**
   * Asks now whether the master is well, since a request has failed there, and waits until that is decided: resolves when
   * it is down, or healthy by a probe that began after this call, or at the signal.
   */
  async judgedAnew(signal: AbortSignal): Promise<void> {
    const sinceMs = this.#options.clock.monotonic();
    this.doubt();
    while (!signal.aborted && !this.#decidedSince(sinceMs)) {
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

  /**
   * What the work comes to, unless the master is found to be down meanwhile: then nobody waits for it any more.
   * @throws Problem `database-unavailable`; what the work throws
   */
  async unlessDown<T>(work: Promise<T>): Promise<T> {
    const { promise: down, reject } = Promise.withResolvers<never>();
    const judged = (): void => {
      if (this.#health.health !== "down") return;
      reject(new Problem("database-unavailable", `the master of ${this.name} does not answer`));
    };
    this.#onJudged.add(judged);
    try {
      return await Promise.race([work, down]);
    } finally {
      this.#onJudged.delete(judged);
    }
  }

  /** A probe that waits in vain may go on for long after the master was found to be down: nobody waits for its end. */
  #decidedSince(sinceMs: number): boolean {
    const { health } = this.#health;
    return health === "down" || (health === "healthy" && this.#judgedSinceMs >= sinceMs);
  }

  /** Whether the probe was good. One that waits in vain counts as failed each time that the bound has passed. */
  async #probe(signal: AbortSignal): Promise<boolean> {
    const { clock, settings } = this.#options;
    const beganAtMs = clock.monotonic();
    const asked: Asked = { answer: null };
    void this.#ask(asked);
    const stepMs = this.#stepMs;
    let wait = beginWait({ heard: this.#session.heard, atMs: beganAtMs }, stepMs, settings());
    for (;;) {
      // Other questions share the session. What is seen late would be taken for distance, and waited for all the longer.
      const lookMs = settings().probeTimeoutMs / looksPerTimeout;
      await this.#looking.take(Math.min(lookMs, wait.lateAtMs - clock.monotonic()));
      if (signal.aborted) {
        return false;
      }
      const { answer } = asked;
      const looked = afterLook(wait, { heard: this.#session.heard, atMs: clock.monotonic() }, settings());
      wait = looked.wait;
      if (answer !== null) {
        // What was slow once is forgotten with the next answer in good time.
        if (answer.failed === null)
          this.#stepMs = Math.max(wait.stepMs > stepMs ? wait.stepMs : 0, answer.tookMs);
        this.#judge(answer, beganAtMs);
        return answer.failed === null;
      }
      if (!looked.late) continue;
      this.#judge({ failed: "does not answer" }, beganAtMs);
      // A packet that was lost comes again, so the session is kept while there is hope.
      if (clock.monotonic() - wait.heardAtMs >= giveUpMs(settings())) {
        this.#session.drop();
        return false;
      }
    }
  }

  async #ask(asked: Asked): Promise<void> {
    asked.answer = await this.#answer();
    this.#looking.end();
  }

  async #answer(): Promise<Answer> {
    const { clock } = this.#options;
    let session: Client | null = null;
    try {
      session = await this.#session.connected();
      const before = { at: clock.now(), tick: clock.monotonic() };
      const found = await askWhetherWell(session);
      const tookMs = clock.monotonic() - before.tick;
      if (found.drained !== this.#drained) {
        this.#drained = found.drained;
        this.#options.logger.info(
          { master: this.name, drained: found.drained },
          "a master is drained, or resumed",
        );
        this.#options.changed();
      }
      if (found.standby || found.readOnly) return { failed: found.standby ? "is a standby" : "is read-only" };
      const skewMs = found.clock / 1000 - (before.at + tookMs / 2);
      this.#clockReading = {
        region: this.name,
        skewMs,
        uncertaintyMs: tookMs / 2,
        atMs: before.tick + tookMs,
      };
      return { failed: null, tookMs };
    } catch (error) {
      // It may have been given up, and another probe may have a session of its own by now.
      if (session !== null && session === this.#session.open) this.#session.drop();
      return { failed: reasonOf(error) };
    }
  }

  #judge(answer: Answer, beganAtMs: number): void {
    const { clock, settings, line } = this.#options;
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
    if (this.#health.health !== before.health) this.#options.changed();
    // The link to it, which may wait for long, need not wait until it is trusted with writes again.
    if (before.health === "down" && before.successes === 0 && answer.failed === null) line?.answered?.();
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
}

/** Of silence. */
const giveUpMs = ({ probeTimeoutMs, failuresToDown }: WriterSettings): number =>
  Math.max(3_000, 6 * probeTimeoutMs, failuresToDown * probeTimeoutMs);
