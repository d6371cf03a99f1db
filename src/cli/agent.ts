import { Registry } from "prom-client";
import type { Topology } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { exitCodes } from "../errors.ts";
import { listenAddress } from "../http/listen.ts";
import { registerMetrics } from "../http/metrics.ts";
import { createAgentServer } from "../http/server.ts";
import { createLogger } from "../logger.ts";
import { connectPool } from "../postgres/client.ts";
import { runAgent } from "../replication/agent.ts";
import type { AgentContext } from "../replication/wiring.ts";
import { TopologyWatch } from "../topology-watch.ts";
import { agentContext } from "./agent-context.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";

interface AgentFlags {
  region: string;
  listen?: string;
  logLevel: string;
}

/** `coregent agent`: the links of one region, until SIGTERM or SIGINT, which drain them. */
export const registerAgent: RegisterCommand = (program, context) => {
  program
    .command("agent")
    .helpGroup(commandGroups.run)
    .description("run the agent of one region: it merges what the peers write into the region's database")
    .requiredOption("-r, --region <name>", "the region whose agent this is")
    .option(
      "--listen <host:port>",
      "where /livez, /readyz, /metrics listen; default: the port of the region's api URL on loopback",
    )
    .option("--log-level <level>", "trace, debug, info, warn, error", "info")
    .addHelpText(
      "after",
      "\nA second agent of the same region waits as a standby and takes over when the first ends.\n" +
        "The configuration is read again when it changes: regions that join or leave need no restart.",
    )
    .action(async (flags: AgentFlags) => {
      const topology = await context.loadTopology();
      await agentCommand(context, topology, flags);
      context.exitCode = exitCodes.ok;
    });
};

const agentCommand = async (context: CliContext, topology: Topology, flags: AgentFlags): Promise<void> => {
  const { clock, env } = context;
  const region = regionNamed(topology, flags.region);
  const color = env["NO_COLOR"] === undefined || env["NO_COLOR"] === "";
  const logger = createLogger(context.stdout, { level: flags.logLevel, color });
  const watch = new TopologyWatch(topology, context.loadTopology);
  const agent = agentContext(context, region, { topology: () => watch.current, logger });
  const ending = new AbortController();
  const signal = AbortSignal.any([context.interrupted(), ending.signal]);
  const watching = watch.run(
    clock,
    (reason) => agent.logger.warn({ reason }, "the changed configuration cannot be used"),
    signal,
  );
  const serving = await serveEndpoints(agent, listenAddress(region.api, flags.listen));
  try {
    await runAgent(agent, signal);
    agent.logger.info("stopped: what was merged is confirmed");
  } finally {
    ending.abort();
    await Promise.all([serving.close(), watching]);
  }
};

const serveEndpoints = async (
  agent: AgentContext,
  address: { host: string; port: number },
): Promise<{ close: () => Promise<void> }> => {
  const { status, clock, logger, region } = agent;
  const registry = new Registry();
  registerMetrics({ registry, status, now: clock.now });
  const pool = connectPool(region.url, {
    applicationName: `coregent ready ${region.name}`,
    maxConnections: 1,
  });
  const server = createAgentServer({
    status,
    registry,
    now: clock.now,
    pingDatabase: async () => {
      await pool.query("SELECT 1");
    },
  });
  try {
    await server.listen(address);
  } catch (error) {
    await pool.end();
    throw error;
  }
  logger.info({ address: `http://${address.host}:${address.port}` }, "agent endpoints listen");
  return {
    close: async () => {
      await server.close();
      await pool.end();
    },
  };
};
