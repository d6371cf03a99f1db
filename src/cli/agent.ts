import { InvalidArgumentError, Option } from "commander";
import { Registry } from "prom-client";
import type { Topology } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { exitCodes, OperatorError } from "../errors.ts";
import { listenAddress, type ListenAddress, parseListen } from "../http/listen.ts";
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
  listen?: ListenAddress;
  logLevel: string;
}

const levels = ["trace", "debug", "info", "warn", "error"];

const listenOption = (text: string): ListenAddress => {
  try {
    return parseListen(text);
  } catch {
    throw new InvalidArgumentError("It is HOST:PORT, such as 0.0.0.0:7400 or [::]:7400.");
  }
};

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
      listenOption,
    )
    .addOption(new Option("--log-level <level>", "how much it says").choices(levels).default("info"))
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
  const serving = await serveEndpoints(agent, flags.listen ?? listenAddress(region.api));
  const ending = new AbortController();
  const signal = AbortSignal.any([context.interrupted(), ending.signal]);
  // Begun last: it goes on until the signal, and so would the process if the endpoints could not be served.
  const watching = watch.run(
    clock,
    (reason) => agent.logger.warn({ reason }, "the changed configuration cannot be used"),
    signal,
  );
  try {
    await runAgent(agent, signal);
    agent.logger.info("stopped: what was merged is confirmed");
  } finally {
    ending.abort();
    await Promise.all([serving.close(), watching]);
  }
};

/** Ports in use and the like are said with what to do; anything else is an error of ours. */
const cannotListen = (error: unknown, { host, port }: ListenAddress): unknown => {
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (!["EADDRINUSE", "EADDRNOTAVAIL", "EACCES", "ENOTFOUND"].includes(code)) return error;
  return new OperatorError(
    "CG-PORT-TAKEN",
    `the agent's endpoints cannot listen on ${host}:${port} (${code})`,
    {
      remedy:
        code === "EADDRINUSE"
          ? "Another program, or another agent, listens there. Give this one an address of its own: --listen HOST:PORT."
          : "Give an address of this machine: --listen HOST:PORT.",
      cause: error,
    },
  );
};

const serveEndpoints = async (
  agent: AgentContext,
  address: ListenAddress,
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
    await Promise.all([server.close(), pool.end()]);
    throw cannotListen(error, address);
  }
  logger.info({ address: `http://${address.host}:${address.port}` }, "agent endpoints listen");
  return {
    close: async () => {
      await server.close();
      await pool.end();
    },
  };
};
