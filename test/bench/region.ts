import { join } from "node:path";
import { topologyOf } from "../../src/config.ts";
import { freePort } from "../../src/embedded/ports.ts";
import type { Server } from "../../src/embedded/server.ts";
import { AgentProcess } from "../../src/testing/agent-process.ts";
import { configText, writeConfig, type ConfiguredRegion } from "../../src/testing/config-file.ts";
import { installCluster } from "../../src/testing/install.ts";
import type { TableOptions } from "../../src/testing/options.ts";

export interface ClusterParts {
  readonly name: string;
  readonly folder: string;
  readonly servers: readonly Server[];
  readonly database: string;
  readonly tables?: readonly TableOptions[];
}

/** A cluster whose regions are databases on servers of the bench, joined directly. */
export interface BenchCluster {
  readonly agents: readonly AgentProcess[];
  readonly configFile: string;
}

/** Does what `coregent init` does. Regions are called a, b and so on, with ids from 1; no agent runs yet. */
export const initCluster = async (parts: ClusterParts): Promise<BenchCluster> => {
  const regions: ConfiguredRegion[] = [];
  for (const [i, server] of parts.servers.entries()) {
    regions.push({
      name: String.fromCodePoint(97 + i),
      id: i + 1,
      postgres: server.url(parts.database),
      api: `http://127.0.0.1:${await freePort()}`,
    });
  }
  const configFile = join(parts.folder, `${parts.name}.yaml`);
  const text = configText(
    { cluster: parts.name, regions: regions.length, tables: parts.tables ?? [] },
    regions,
  );
  await writeConfig(configFile, text);
  await installCluster(topologyOf(text, { file: configFile, env: {} }));
  const agents = regions.map(
    ({ name, api }) =>
      new AgentProcess({
        region: name,
        api,
        configFile,
        logFile: join(parts.folder, `${parts.name}.${name}.agent.log`),
        cwd: parts.folder,
        env: {},
      }),
  );
  return { agents, configFile };
};
