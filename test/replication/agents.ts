import { pino } from "pino";
import { clusterSlug, type Topology } from "../../regions/topology.ts";
import { agentContext } from "../../src/cli/agent-context.ts";
import { systemClock } from "../../src/clock.ts";
import { topologyOf } from "../../src/config.ts";
import type { PostgresVersion } from "../../src/embedded/binaries.ts";
import { startFaultProxy, type FaultProxy } from "../../src/embedded/fault-proxy.ts";
import { installRegion } from "../../src/postgres/install/region.ts";
import type { Line } from "../../src/postgres/line.ts";
import { runAgent } from "../../src/replication/agent.ts";
import type { AgentStatus, LinkStatus } from "../../src/replication/status.ts";
import { type AgentLimits, defaultLimits } from "../../src/replication/wiring.ts";
import { differences } from "../../src/testing/compare.ts";
import { configText } from "../../src/testing/config-file.ts";
import { installCluster } from "../../src/testing/install.ts";
import type { TableOptions } from "../../src/testing/options.ts";
import {
  createDatabase,
  dropOrigins,
  eventually,
  type TestDatabase,
  uniqueName,
} from "../support/database.ts";

/** Short enough that a test sees them pass. */
export const testLimits: AgentLimits = {
  ...defaultLimits,
  connectTimeoutMs: 5_000,
  minBackoffMs: 20,
  maxBackoffMs: 200,
  idleProgressMs: 100,
  observeMs: 100,
};

export interface LogEntry {
  readonly level: number;
  readonly msg: string;
  readonly peer?: string;
  readonly reason?: string;
  readonly err?: { readonly message: string };
}

export const errorLevel = 50;

export interface LocalAgentOptions {
  readonly limits?: Partial<AgentLimits>;
  readonly lineTo?: (region: string) => Line;
}

/** One agent within this process: what it knows of itself, what it logs, and its end. */
export class LocalAgent implements AsyncDisposable {
  readonly status: AgentStatus;
  readonly logs: LogEntry[] = [];
  readonly #ending = new AbortController();
  readonly #done: Promise<void>;

  constructor(topology: () => Topology, name: string, { limits, lineTo }: LocalAgentOptions = {}) {
    const region = topology().regions.find((each) => each.name === name);
    if (region === undefined) throw new Error(`no region ${name}`);
    const logger = pino(
      { level: "debug" },
      { write: (line: string) => void this.logs.push(JSON.parse(line)) },
    );
    const made = agentContext({ clock: systemClock(), random: Math.random }, region, {
      topology,
      logger,
      ...(lineTo === undefined ? {} : { lineTo }),
    });
    const context = { ...made, limits: { ...testLimits, ...limits } };
    this.status = context.status;
    this.#done = runAgent(context, this.#ending.signal);
    this.#done.catch(() => undefined);
  }

  link(peer: string): LinkStatus {
    const link = this.status.links.get(peer);
    if (link === undefined) throw new Error(`no link with ${peer}`);
    return link;
  }

  /** Until every link streams. */
  async streaming(timeoutMs = 20_000): Promise<this> {
    await eventually(
      () => {
        const links = [...this.status.links.values()];
        if (links.length > 0 && links.every(({ state }) => state === "streaming")) return true;
        throw new Error(`not streaming: ${JSON.stringify(links.map((l) => [l.peer, l.state, l.lastError]))}`);
      },
      { timeoutMs },
    );
    return this;
  }

  errors(): string[] {
    return this.logs.filter(({ level }) => level >= errorLevel).map(({ msg }) => msg);
  }

  /** As SIGTERM does. */
  async stop(): Promise<void> {
    this.#ending.abort(new Error("stopped by the test"));
    await this.#done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

const pair: Readonly<Record<string, PostgresVersion>> = { a: 18, b: 18 };

export interface RegionsOptions {
  readonly schema: string;
  /** Default a and b on PostgreSQL 18. Regions of one server share its replication origins: two on each at most. */
  readonly regions?: Readonly<Record<string, PostgresVersion>>;
  readonly tables?: readonly TableOptions[];
  /** Run in one region's database before it is prepared. */
  readonly before?: (name: string, db: TestDatabase) => Promise<unknown>;
}

/** Databases of the run's shared servers, prepared as one cluster, each reached by the others through a fault proxy. */
export class Regions implements AsyncDisposable {
  readonly cluster = uniqueName("c");
  readonly #options: RegionsOptions;
  readonly #ids = new Map<string, number>();
  readonly #databases = new Map<string, TestDatabase>();
  readonly #proxies = new Map<string, FaultProxy>();
  readonly #dead: FaultProxy[] = [];
  readonly #forgotten = new Set<string>();
  readonly #agents: LocalAgent[] = [];

  private constructor(options: RegionsOptions) {
    this.#options = options;
  }

  static async create(options: RegionsOptions): Promise<Regions> {
    const regions = new Regions(options);
    try {
      for (const [name, version] of Object.entries(options.regions ?? pair)) await regions.add(name, version);
      await regions.init();
      return regions;
    } catch (error) {
      await regions[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** A database with the schema; in the topology from now on. */
  async add(name: string, version: PostgresVersion = 18): Promise<TestDatabase> {
    const db = await createDatabase({ version });
    this.#databases.set(name, db);
    await db.query(this.#options.schema);
    await this.#options.before?.(name, db);
    for (const other of this.names) {
      await this.#connect(name, other);
      await this.#connect(other, name);
    }
    // Last: agents that run read the topology at any time, and it names no region that they cannot reach.
    this.#ids.set(name, this.#ids.size + 1);
    return db;
  }

  get names(): readonly string[] {
    return [...this.#ids.keys()].filter((name) => !this.#forgotten.has(name));
  }

  db(name: string): TestDatabase {
    const db = this.#databases.get(name);
    if (db === undefined) throw new Error(`no region ${name}`);
    return db;
  }

  id(name: string): number {
    return this.#ids.get(name) ?? 0;
  }

  /** Both lines between two regions. */
  between(a: string, b: string): readonly FaultProxy[] {
    return [this.line(a, b), this.line(b, a)];
  }

  /** The line by which the agent of `asks` reaches the database of `of`. */
  line(asks: string, of: string): FaultProxy {
    const proxy = this.#proxies.get(`${asks} ${of}`);
    if (proxy === undefined) throw new Error(`no line from ${asks} to ${of}`);
    return proxy;
  }

  /**
   * The line goes dead for good, and what was open on it stays half-open: the other end hears of nothing. A new line
   * takes its place.
   */
  async reroute(asks: string, of: string): Promise<void> {
    const dead = this.line(asks, of);
    dead.cut({ mode: "blackhole" });
    this.#dead.push(dead);
    await this.#connect(asks, of);
  }

  async #connect(asks: string, of: string): Promise<void> {
    const target = { host: "127.0.0.1", port: Number(new URL(this.db(of).url).port) };
    this.#proxies.set(`${asks} ${of}`, await startFaultProxy({ target, random: Math.random }));
  }

  slot(source: string, target: string): string {
    return `coregent_${clusterSlug(this.cluster)}_${this.id(source)}_${this.id(target)}`;
  }

  /** As `viewer` reaches the regions; null: directly. */
  topology(viewer: string | null = null): Topology {
    const text = configText(
      {
        regions: [...this.names],
        cluster: this.cluster,
        ...(this.#options.tables ? { tables: this.#options.tables } : {}),
      },
      this.names.map((name) => {
        const url = new URL(this.db(name).url);
        if (viewer !== null && viewer !== name) url.port = String(this.line(viewer, name).port);
        return { name, id: this.id(name), postgres: url.href, api: `http://127.0.0.1:${this.id(name)}` };
      }),
    );
    return topologyOf(text, { file: "coregent.yaml", env: {} });
  }

  async init(): Promise<void> {
    await installCluster(this.topology());
  }

  /** Prepares one region alone, as an init does that was cut short. */
  async initOnly(name: string): Promise<void> {
    const topology = this.topology();
    const region = topology.regions.find((each) => each.name === name);
    if (region === undefined) throw new Error(`no region ${name}`);
    await installRegion(await this.db(name).connect(), { topology, region });
  }

  /** Out of the topology from now on; its database stays until the end. */
  forget(name: string): void {
    this.#forgotten.add(name);
  }

  agent(
    name: string,
    limits: Partial<AgentLimits> = {},
    options: Pick<LocalAgentOptions, "lineTo"> = {},
  ): LocalAgent {
    // Read anew each time, as a configuration file that changes.
    const agent = new LocalAgent(() => this.topology(name), name, { ...options, limits });
    this.#agents.push(agent);
    return agent;
  }

  /** An agent for every region, streaming. */
  async agents(limits: Partial<AgentLimits> = {}): Promise<Readonly<Record<string, LocalAgent>>> {
    const started = this.names.map((name) => [name, this.agent(name, limits)] as const);
    for (const [, agent] of started) await agent.streaming();
    return Object.fromEntries(started);
  }

  /** Gives the end of what a region has written so far, which is flushed then: only that is seen to be ahead. */
  async flush(name: string): Promise<string> {
    const [row] = await this.db(name).query<{ lsn: string }>(
      "SELECT pg_logical_emit_message(true, 'test', 'flushed')::text AS lsn",
    );
    return row?.lsn ?? "";
  }

  /** Waits until all hold the same rows and nothing is being copied or set aside. */
  async equal(timeoutMs = 20_000, names: readonly string[] = this.names): Promise<void> {
    const regions = names.map((name) => ({ name, url: this.db(name).url }));
    await eventually(
      async () => {
        const lines = await differences(regions);
        if (lines.length > 0) throw new Error(lines.join("\n"));
      },
      { timeoutMs, everyMs: 100 },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const proxy of this.#proxies.values()) proxy.heal();
    const ended = await Promise.allSettled(this.#agents.map((agent) => agent.stop()));
    for (const proxy of [...this.#proxies.values(), ...this.#dead]) await proxy.close();
    for (const db of this.#databases.values()) await db[Symbol.asyncDispose]();
    for (const version of new Set(Object.values(this.#options.regions ?? pair)))
      await dropOrigins(clusterSlug(this.cluster), version);
    for (const result of ended) if (result.status === "rejected") throw result.reason;
  }
}

/** Positions of one link: what its source was told, and then what its consumer has merged. */
export const positions = async (
  regions: Regions,
  source: string,
  target: string,
): Promise<{ readonly merged: string; readonly confirmed: string; readonly restart: string }> => {
  const [slot] = await regions.db(source).query<{ confirmed: string; restart: string }>(
    `SELECT confirmed_flush_lsn::text AS confirmed, restart_lsn::text AS restart
         FROM pg_replication_slots WHERE slot_name = $1`,
    [regions.slot(source, target)],
  );
  const [progress] = await regions
    .db(target)
    .query<{ lsn: string }>("SELECT lsn::text AS lsn FROM coregent.progress WHERE origin = $1", [
      regions.id(source),
    ]);
  return { merged: progress?.lsn ?? "", confirmed: slot?.confirmed ?? "", restart: slot?.restart ?? "" };
};
