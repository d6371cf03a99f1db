import { writeFile } from "node:fs/promises";
import { Client, escapeIdentifier } from "pg";
import type { Topology } from "../../regions/topology.ts";
import {
  weightbookCluster,
  weightbookLatencyMs,
  weightbookRegions,
  type DemoRegion,
} from "../../regions/weightbook.ts";
import { topologyOf } from "../config.ts";
import { startServer, type Server } from "../embedded/server.ts";
import type { AgentReport } from "../http/report.ts";
import { AgentProcess } from "../testing/agent-process.ts";
import { Network } from "../testing/network.ts";
import { configText, type RegionEndpoints } from "./config-text.ts";
import type { DemoFolder, RegionPorts } from "./folder.ts";
import { weightbookKeys, weightbookSchema } from "./schema.ts";
import { trueClockSql } from "./skew.ts";

export const database = "weightbook";

/** One region of the demo while it runs. */
export interface RunningRegion {
  readonly region: DemoRegion;
  readonly server: Server;
  readonly agent: AgentProcess;
  /** Straight to the region's database. */
  readonly url: string;
  /** Where PostgreSQL clients come in at the region's agent, which brings them to the nearest master that is well. */
  readonly entranceUrl: string;
}

export interface DemoClusterOptions {
  readonly folder: DemoFolder;
  readonly ports: Readonly<Record<string, RegionPorts>>;
  readonly seed: number;
  readonly adminToken: string;
}

/**
 * Three regions: a server and an agent each, and between them a network with the latency of their distance. The
 * servers and agents are processes of their own; the network lives in this one.
 */
export class DemoCluster implements AsyncDisposable {
  readonly network: Network;
  readonly regions: RunningRegion[] = [];
  readonly #options: DemoClusterOptions;
  #closing = false;

  constructor(options: DemoClusterOptions) {
    this.#options = options;
    this.network = new Network(options.seed, { jitterMs: 3 });
  }

  /** Starts the servers, all at once. `onStarted` is told of each with the seconds that it took. */
  async startServers(
    onStarted: (region: DemoRegion, server: Server, seconds: number) => void,
  ): Promise<void> {
    const { folder, ports } = this.#options;
    const started = await Promise.allSettled(
      weightbookRegions.map(async (region): Promise<RunningRegion> => {
        const from = performance.now();
        const port = portsOf(ports, region);
        const server = await startServer({
          dataDir: folder.dataDir(region.name),
          logFile: folder.file("logs", `${region.name}.postgres.log`),
          port: port.postgres,
        });
        onStarted(region, server, (performance.now() - from) / 1000);
        const agent = new AgentProcess({
          region: region.name,
          configFile: agentConfig(folder, region),
          logFile: folder.file("logs", `${region.name}.agent.log`),
          api: `http://127.0.0.1:${port.api}`,
          cwd: folder.path,
          env: {},
        });
        const url = server.url(database);
        return { region, server, agent, url, entranceUrl: withPort(url, port.entrance) };
      }),
    );
    this.regions.push(...started.flatMap((result) => (result.status === "fulfilled" ? [result.value] : [])));
    await this.#recordProcesses();
    const failed = started.find((result) => result.status === "rejected");
    if (failed !== undefined) {
      throw failed.reason;
    }
  }

  /** Puts latency between the regions and writes the configurations. @returns the ordinary one */
  async connect(): Promise<Topology> {
    const { folder, adminToken } = this.#options;
    const parts = { cluster: weightbookCluster, adminToken };
    for (const asks of this.regions) {
      const endpoints = await Promise.all(this.regions.map((of) => this.#endpoint(asks, of)));
      const heading =
        `What the demo's agent of ${asks.region.name} uses: it reaches the other regions through a simulated network.\n` +
        "Written anew at each start. For your own commands there is ../coregent.yaml.";
      const text = configText({ ...parts, regions: endpoints, heading });
      await writeFile(agentConfig(folder, asks.region), text);
    }
    const text = configText({
      ...parts,
      regions: this.regions.map((region) => endpointsOf(region, region.url)),
      heading:
        "The demo's cluster, as an ordinary configuration: every command run beside this file uses it.\n" +
        "Written anew at each start of `coregent demo`.",
    });
    await writeFile(folder.configFile, text);
    return topologyOf(text, { file: folder.configFile, env: {} });
  }

  /** The application's database and tables, then what `install` does to them, then the keys' defaults. */
  async prepare(install: () => Promise<void>): Promise<void> {
    await Promise.all(
      this.regions.map(async ({ server, url }) => {
        await inSession(server.url(), async (client) => {
          for (const sql of trueClockSql) await client.query(sql);
          const found = await client.query("SELECT FROM pg_database WHERE datname = $1", [database]);
          if (found.rowCount === 0) {
            await client.query(`CREATE DATABASE ${escapeIdentifier(database)}`);
          }
        });
        await inSession(url, (client) => client.query(weightbookSchema));
      }),
    );
    await install();
    await Promise.all(
      this.regions.map(({ url }) => inSession(url, (client) => client.query(weightbookKeys))),
    );
  }

  /** Starts the agents and waits until every link streams. */
  async startAgents(): Promise<void> {
    for (const { agent } of this.regions) {
      agent.spawn();
    }
    await this.#recordProcesses();
    await Promise.all(this.regions.map(({ agent }) => agent.ready()));
    await Promise.all(this.regions.map(({ agent }) => streaming(agent)));
  }

  /** Starts again what ended though nobody asked it to, as a service manager would. Tells of each. */
  async revive(tell: (text: string) => void): Promise<void> {
    for (const { region, server, agent } of this.regions) {
      if (this.#closing) {
        return;
      }
      if (!server.running) {
        tell(`PostgreSQL of ${region.name} has ended; starting it again`);
        await server.start();
        await this.#recordProcesses();
      }
      const { crash } = agent;
      if (crash !== null) {
        tell(`the agent of ${region.name} ${crash}; starting it again`);
        agent.spawn();
        await this.#recordProcesses();
      }
    }
  }

  /** Agents first, so that they confirm what they merged; then the servers. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    this.network.heal();
    await Promise.allSettled(this.regions.map(({ agent }) => agent.stop()));
    const stopped = await Promise.allSettled(this.regions.map(({ server }) => server.stop()));
    await this.network.close();
    const failed = stopped.find((result) => result.status === "rejected");
    if (failed !== undefined) {
      throw failed.reason;
    }
  }

  async #endpoint(asks: RunningRegion, of: RunningRegion): Promise<RegionEndpoints> {
    const { region, server } = of;
    if (asks === of) {
      return endpointsOf(of, of.url);
    }
    const port = await this.network.connect(asks.region.name, region.name, server.port);
    const latencyMs = weightbookLatencyMs(asks.region, region);
    this.network.setConditions({ latencyMs }, asks.region.name, region.name);
    return endpointsOf(of, withPort(of.url, port));
  }

  async #recordProcesses(): Promise<void> {
    const pids = this.regions.flatMap(({ server, agent }) => [server.pid, agent.pid]);
    await this.#options.folder.recordProcesses(pids.filter((pid) => pid !== null));
  }
}

const withPort = (url: string, port: number): string => {
  const changed = new URL(url);
  changed.port = String(port);
  return changed.href;
};

const endpointsOf = ({ region, agent, entranceUrl }: RunningRegion, postgres: string): RegionEndpoints => ({
  region,
  postgres,
  api: agent.api,
  entrance: new URL(entranceUrl).host,
});

const agentConfig = (folder: DemoFolder, region: DemoRegion): string =>
  folder.file("agents", `${region.name}.yaml`);

const portsOf = (ports: Readonly<Record<string, RegionPorts>>, region: DemoRegion): RegionPorts => {
  const found = ports[region.name];
  if (found === undefined) {
    throw new Error(`no ports were chosen for ${region.name}`);
  }
  return found;
};

/** Until all the agent's links stream. @throws with the end of its log when it ends first, or after a minute */
const streaming = async (agent: AgentProcess): Promise<void> => {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const report = await fetch(`${agent.api}/v1/status`)
      .then((response) => response.json() as Promise<AgentReport>)
      .catch(() => null);
    if (
      report !== null &&
      report.links.length === weightbookRegions.length - 1 &&
      report.links.every((link) => link.state === "streaming")
    ) {
      return;
    }
    if (agent.crash !== null || performance.now() > deadline) {
      const what = agent.crash ?? "does not stream from all its peers";
      throw new Error(`The agent of ${agent.region} ${what}; ${await agent.tail()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

/** One short session as the application; ended in any case. */
export const inSession = async <T>(url: string, work: (client: Client) => Promise<T>): Promise<T> => {
  const client = new Client({ connectionString: url, application_name: "weightbook" });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
};
