import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Client } from "pg";
import type { Topology } from "../../regions/topology.ts";
import { topologyOf } from "../config.ts";
import type { Conditions } from "../embedded/fault-proxy.ts";
import { freePort } from "../embedded/ports.ts";
import { logTail, startServer } from "../embedded/server.ts";
import { clockOffset, clockOffsetSetting } from "../postgres/clock-offset.ts";
import { AgentProcess } from "./agent-process.ts";
import { differences } from "./compare.ts";
import { configText, writeConfig, type ConfiguredRegion } from "./config-file.ts";
import { installCluster } from "./install.ts";
import { Network } from "./network.ts";
import { regionNames, versionOf, type ClusterOptions, type CutOptions, type KillOptions } from "./options.ts";
import { runCoregent, type CommandResult } from "./program.ts";
import { TestRegion } from "./region.ts";

const pauseMs = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Regions on this machine: each an embedded PostgreSQL and an agent process, joined through proxies that have the
 * faults of a network. Made by {@link startCluster}; ended by `await using` or {@link TestCluster.stop}.
 */
export class TestCluster implements AsyncDisposable {
  /** Data, configuration and logs. */
  readonly folder: string;
  readonly network: Network;
  readonly #options: ClusterOptions;
  readonly #regions = new Map<string, TestRegion>();

  constructor(options: ClusterOptions, folder: string) {
    this.#options = options;
    this.folder = folder;
    this.network = new Network(options.seed ?? 1, { latencyMs: options.latencyMs ?? 0 });
  }

  /** In the order of their ids. */
  get regions(): readonly TestRegion[] {
    return [...this.#regions.values()].sort((a, b) => a.id - b.id);
  }

  region(name: string): TestRegion {
    const found = this.#regions.get(name);
    if (!found)
      throw new Error(
        `There is no region ${name}; there are ${this.regions.map((region) => region.name).join(", ")}`,
      );
    return found;
  }

  /** A coregent.yaml for commands that are to reach every region whatever is cut: `--config` of verify and the like. */
  get configFile(): string {
    return join(this.folder, "coregent.yaml");
  }

  /** What {@link configFile} says. */
  get topology(): Topology {
    const text = configText(this.#options, this.#configured(null));
    return topologyOf(text, { file: this.configFile, env: {} });
  }

  /** Runs `coregent` with these arguments and {@link configFile}, e.g. `coregent(["verify", "--json"])`. */
  coregent(args: readonly string[], timeoutMs = 60_000): Promise<CommandResult> {
    return runCoregent([...args, "--config", this.configFile], { cwd: this.folder, timeoutMs });
  }

  /** Cuts the lines between two regions, or (`oneWay`) lets the changes of `a` not reach `b`. */
  cut(a: string, b: string, options: CutOptions = {}): void {
    this.network.cut(a, b, options);
  }

  /** Cuts a region off from all others. */
  isolate(name: string, options: Omit<CutOptions, "oneWay"> = {}): void {
    for (const other of this.#regions.keys()) if (other !== name) this.cut(name, other, options);
  }

  /** Ends all cuts; those of one region, or those between two, when named. Latency and bandwidth stay. */
  heal(a?: string, b?: string): void {
    this.network.heal(a, b);
  }

  /** Delay of each direction of each line, in milliseconds: a round trip takes twice as long. */
  latency(ms: number): void {
    this.network.setConditions({ latencyMs: ms });
  }

  /** Makes the lines between two regions slow, narrow or lossy, in both directions, until changed again. */
  slow(a: string, b: string, conditions: Partial<Conditions>): void {
    this.network.setConditions(conditions, a, b);
  }

  /** SIGKILL, as by a power failure, to the region's agent and server, or to one of them. */
  async kill(name: string, { what = "both" }: KillOptions = {}): Promise<void> {
    const { agent, server } = this.region(name);
    await Promise.all([
      what === "server" ? undefined : agent.kill(),
      what === "agent" ? undefined : server.kill(),
    ]);
  }

  /** Starts what does not run of the region, server and agent, and waits until both are ready. */
  async restart(name: string): Promise<void> {
    const region = this.region(name);
    await region.server.start();
    if (this.#installed && this.#options.agents !== false) await region.agent.start();
  }

  /** SIGTERM: the agent finishes and confirms what it has begun. */
  async stopAgent(name: string): Promise<void> {
    await this.region(name).agent.stop();
  }

  async startAgent(name: string): Promise<void> {
    await this.region(name).agent.start();
  }

  /** SIGSTOP: the agent neither works nor says so, and its connections stay open. */
  pauseAgent(name: string): void {
    this.region(name).agent.pause();
  }

  resumeAgent(name: string): void {
    this.region(name).agent.resume();
  }

  /** A second agent for a region, with an HTTP address of its own; the caller starts and stops it. */
  async standbyAgent(name: string): Promise<AgentProcess> {
    const api = `http://127.0.0.1:${await freePort()}`;
    const file = join(this.folder, `${name}.standby.yaml`);
    const configured = this.#configured(name).map((region) =>
      region.name === name ? { ...region, api } : region,
    );
    await writeConfig(file, configText(this.#options, configured));
    return this.#agentProcess({ region: name, api, configFile: file, log: `${name}.standby.log` });
  }

  /** Moves the clock that stamps this region's writes by so many milliseconds (negative: behind) from the true one. */
  async skewClock(name: string, ms: number): Promise<void> {
    const region = this.region(name);
    const offset = String(Math.round(ms * 1000));
    await region.server.configure(clockOffset(offset));
    // In sessions that are open it takes effect before their next statement, once the server has read its file.
    for (let i = 0; i < 500; i += 1) {
      const [row] = await region.sql<{ offset: string }>(
        `SELECT current_setting('${clockOffsetSetting}', true) AS offset`,
      );
      if (row?.offset === offset) return;
      await pauseMs(10);
    }
    throw new Error(`Region ${name} did not take the setting up; ${region.server.logFile} tells why`);
  }

  /**
   * Waits until all regions hold the same rows in every replicated table, nothing is being copied and nothing is
   * set aside. Writers must have stopped.
   * @throws after `timeoutMs` (default 60 s) with what differs and the ends of the agents' logs
   */
  async converged({ timeoutMs = 60_000 }: { readonly timeoutMs?: number } = {}): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    for (let equalOnce = false; ;) {
      const lines = await differences(this.regions).catch((error: unknown) => [String(error)]);
      if (lines.length === 0 && equalOnce) return;
      equalOnce = lines.length === 0;
      const crashed = this.regions.some(({ agent }) => agent.crash !== null);
      if (lines.length > 0 && (crashed || performance.now() > deadline)) {
        const why = crashed ? "an agent has ended" : `${timeoutMs} ms have passed`;
        throw new Error(`The regions differ and ${why}:\n${lines.join("\n")}\n\n${await this.#logs()}`);
      }
      await pauseMs(50);
    }
  }

  /** `coregent init`: again, when tables have come or gone in every region, or a region was added. */
  async init(): Promise<void> {
    await installCluster(this.topology);
  }

  /**
   * A further region: its server with the schema, its lines, and all configuration files written anew. To join it to
   * the running cluster is the caller's part: `init`, then `startAgent`.
   */
  async addRegion(name: string): Promise<TestRegion> {
    const id = Math.max(0, ...this.regions.map((region) => region.id)) + 1;
    const region = await this.#startRegion(name, id);
    await this.#connectRegions();
    await this.#writeConfigs();
    return region;
  }

  /** Ends everything at once. */
  async stop(): Promise<void> {
    const regions = this.regions;
    await Promise.all(regions.map(({ agent }) => agent.kill()));
    await Promise.all(regions.map((region) => region.disconnect()));
    await this.network.close();
    await Promise.all(regions.map(({ server }) => server.stop("immediate")));
    if (this.#options.folder === undefined && !process.env["COREGENT_TEST_KEEP"]) {
      await rm(this.folder, { recursive: true, force: true });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Called once by startCluster. */
  async start(): Promise<void> {
    const names = regionNames(this.#options.regions);
    // Side by side, but told apart: one that fails must not leave the others running unseen.
    const started = await Promise.allSettled(names.map((name, i) => this.#startRegion(name, i + 1)));
    for (const result of started) if (result.status === "rejected") throw result.reason;
    await this.#connectRegions();
    await this.#writeConfigs();
    if (!this.#installed) return;
    await this.init();
    if (this.#options.agents !== false) {
      await Promise.all(this.regions.map(({ agent }) => agent.start()));
    }
  }

  get #installed(): boolean {
    return this.#options.install !== false;
  }

  async #startRegion(name: string, id: number): Promise<TestRegion> {
    const options = this.#options;
    const server = await startServer({
      dataDir: join(this.folder, `${name}.data`),
      logFile: join(this.folder, `${name}.postgres.log`),
      version: versionOf(options, name),
      fsync: false,
      removeWithUs: options.folder === undefined,
      ...(options.settings ? { settings: options.settings } : {}),
    });
    const api = `http://127.0.0.1:${await freePort()}`;
    const configFile = join(this.folder, `${name}.yaml`);
    const agent = this.#agentProcess({ region: name, api, configFile, log: `${name}.agent.log` });
    const region = new TestRegion({ name, id, server, agent });
    this.#regions.set(name, region);
    await createDatabase(region, options.schema);
    return region;
  }

  #agentProcess(parts: { region: string; api: string; configFile: string; log: string }): AgentProcess {
    const { region, api, configFile } = parts;
    return new AgentProcess({
      region,
      api,
      configFile,
      logFile: join(this.folder, parts.log),
      cwd: this.folder,
      env: this.#options.env ?? {},
    });
  }

  /** The lines that are not there yet. */
  async #connectRegions(): Promise<void> {
    for (const asks of this.regions) {
      for (const of of this.regions) {
        if (asks !== of && !this.network.has(asks.name, of.name)) {
          await this.network.connect(asks.name, of.name, of.server.port);
        }
      }
    }
  }

  /** All regions as `viewer` reaches them: itself directly, others by its lines; null: all directly. */
  #configured(viewer: string | null): readonly ConfiguredRegion[] {
    return this.regions.map((region) => {
      const url = new URL(region.url);
      if (viewer !== null && viewer !== region.name) {
        url.port = String(this.network.proxy(viewer, region.name).port);
      }
      return { name: region.name, id: region.id, postgres: url.href, api: region.api };
    });
  }

  async #writeConfigs(): Promise<void> {
    await writeConfig(this.configFile, configText(this.#options, this.#configured(null)));
    for (const { name } of this.regions) {
      await writeConfig(join(this.folder, `${name}.yaml`), configText(this.#options, this.#configured(name)));
    }
  }

  async #logs(): Promise<string> {
    const parts = this.regions.map(async ({ name, agent, server }) => {
      const state = agent.crash ?? (agent.running ? "runs" : "is stopped");
      return `Region ${name}: its agent ${state}; its server ${server.running ? "runs" : "is stopped"} (${server.logFile}).
${await agent.tail(15)}`;
    });
    return (await Promise.all(parts)).join("\n\n");
  }
}

const createDatabase = async (region: TestRegion, schema: string | undefined): Promise<void> => {
  const run = async (url: string, sql: string): Promise<void> => {
    const client = new Client({ connectionString: url });
    client.on("error", () => undefined);
    await client.connect();
    try {
      await client.query(sql);
    } finally {
      await client.end();
    }
  };
  await run(region.server.url(), "CREATE DATABASE app");
  if (schema === undefined) return;
  try {
    await run(region.url, schema);
  } catch (cause) {
    const tail = await logTail(region.server.logFile, 5);
    throw new Error(`The schema does not go into region ${region.name}: ${String(cause)}\n${tail}`, {
      cause,
    });
  }
};

/** Starts a cluster; when this resolves, every region's agent is ready. */
export const startCluster = async (options: ClusterOptions): Promise<TestCluster> => {
  let { folder } = options;
  if (folder === undefined) {
    folder = await mkdtemp(join(tmpdir(), "coregent-cluster-"));
    // The servers' user must be able to enter it.
    await chmod(folder, 0o755);
  }
  await mkdir(folder, { recursive: true });
  const cluster = new TestCluster(options, folder);
  try {
    await cluster.start();
  } catch (error) {
    await cluster.stop();
    throw error;
  }
  return cluster;
};
