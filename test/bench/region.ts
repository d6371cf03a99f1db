import { join } from "node:path";
import { topologyOf } from "../../src/config.ts";
import { freePort } from "../../src/embedded/ports.ts";
import type { BenchServer } from "./bench-server.ts";
import { AgentProcess } from "../../src/testing/agent-process.ts";
import { configText, writeConfig, type ConfiguredRegion } from "../../src/testing/config-file.ts";
import { installCluster } from "../../src/testing/install.ts";
import type { EndpointOptions, TableOptions } from "../../src/testing/options.ts";
import type { Servers } from "./servers.ts";
import { createDatabase, dropDatabase, run } from "./sql.ts";

export const clusterName = "bench";
export const oursDatabase = "ours";

export interface ClusterOptions {
  readonly regions: number;
  /** Run in every region before Coregent is installed. */
  readonly schema: readonly string[];
  /** Further statements in the first region, before Coregent is installed. */
  readonly seed?: readonly string[];
  readonly tables?: readonly TableOptions[];
  readonly endpoint?: EndpointOptions;
  /** Whether each region lets PostgreSQL clients in. */
  readonly entrance?: boolean;
}

export interface BenchRegion {
  readonly server: BenchServer;
  /** Not started. */
  readonly agent: AgentProcess;
  /** Ports of the agent's HTTP endpoint, and of its entrance for PostgreSQL clients. */
  readonly apiPort: number;
  readonly entrancePort: number | null;
}

/** Regions a, b and so on, with ids from 1: databases on the servers of these names, joined directly. */
export interface BenchCluster extends AsyncDisposable {
  readonly regions: readonly BenchRegion[];
  readonly database: string;
  readonly configFile: string;
}

/** Makes the databases anew and does what `coregent init` does. */
export const openCluster = async (servers: Servers, options: ClusterOptions): Promise<BenchCluster> => {
  const names = Array.from({ length: options.regions }, (_, i) => String.fromCodePoint(97 + i));
  const started = await Promise.all(names.map((name) => servers.get(name)));
  const configured: ConfiguredRegion[] = [];
  for (const [i, server] of started.entries()) {
    await createDatabase(server, oursDatabase);
    await run(server, oursDatabase, ...options.schema, ...(i === 0 ? (options.seed ?? []) : []));
    configured.push({
      name: names[i] ?? "",
      id: i + 1,
      postgres: server.url(oursDatabase),
      api: `http://127.0.0.1:${await freePort()}`,
      ...(options.entrance === true ? { entrance: `127.0.0.1:${await freePort()}` } : {}),
    });
  }
  const configFile = join(servers.folder, `${clusterName}.yaml`);
  const settings = {
    cluster: clusterName,
    regions: names,
    tables: options.tables ?? [],
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
  };
  const text = configText(settings, configured);
  await writeConfig(configFile, text);
  await installCluster(topologyOf(text, { file: configFile, env: {} }));
  const regions = started.map((server, i): BenchRegion => {
    const { name: region = "", api = "", entrance } = configured[i] ?? {};
    const logFile = join(servers.folder, `${region}.agent.log`);
    return {
      server,
      apiPort: portOf(api),
      entrancePort: entrance === undefined ? null : portOf(`http://${entrance}`),
      agent: new AgentProcess({ region, api, configFile, logFile, cwd: servers.folder, env: {} }),
    };
  });
  return {
    regions,
    database: oursDatabase,
    configFile,
    [Symbol.asyncDispose]: async () => {
      await Promise.all(regions.map(({ agent }) => agent.kill()));
      for (const { server } of regions) await dropDatabase(server, oursDatabase);
    },
  };
};

const portOf = (url: string): number => Number(new URL(url).port);

/** @throws where there is none of that index */
export const regionAt = ({ regions }: BenchCluster, index: number): BenchRegion => {
  const region = regions[index];
  if (region === undefined)
    throw new RangeError(`the cluster has ${regions.length} regions, none at ${index}`);
  return region;
};
