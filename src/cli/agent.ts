import { InvalidArgumentError, Option } from "commander";
import type { Topology } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { exitCodes } from "../errors.ts";
import { listenAddress, type ListenAddress, parseListen } from "../http/listen.ts";
import { createLogger } from "../logger.ts";
import { OutageRegistry } from "../outages/registry.ts";
import { runAgent } from "../replication/agent.ts";
import type { AgentContext } from "../replication/wiring.ts";
import { TopologyWatch } from "../topology-watch.ts";
import { agentContext } from "./agent-context.ts";
import { serveEndpoints } from "./agent-endpoint.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";

interface AgentFlags {
  region: string;
  listen?: ListenAddress;
  entrance?: ListenAddress;
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
      "where the HTTP endpoint listens; default: the port of the region's api URL on loopback",
      listenOption,
    )
    .option(
      "--entrance <host:port>",
      "where PostgreSQL clients come in; default: the region's entrance in the configuration, if it has one",
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
  await using outages = new OutageRegistry({ here: region.name, clock, random: context.random, logger });
  const agent = agentContext(context, region, {
    topology: () => watch.current,
    logger,
    lineTo: (name) => outages.lineTo(name),
  });
  const serving = await serveEndpoints({
    agent,
    region: { ...region, entrance: flags.entrance ?? region.entrance },
    topology: () => watch.current,
    outages,
    listen: flags.listen ?? listenAddress(region.api),
  });
  const ending = new AbortController();
  const signal = AbortSignal.any([context.interrupted(), ending.signal]);
  // Begun last: it goes on until the signal, and so would the process if the endpoints could not be served.
  const watching = watch.run(
    clock,
    (reason) => agent.logger.warn({ reason }, "the changed configuration cannot be used"),
    signal,
  );
  const pausing = pauseBeforeClosing(context, agent, () => watch.current.endpoint.stopPauseMs);
  try {
    await runAgent(agent, signal);
    agent.logger.info("stopped: what was merged is confirmed");
    await pausing();
  } finally {
    ending.abort();
    await Promise.all([serving.close(), watching]);
  }
};

/**
 * From the moment in which the agent is asked to stop, it says that it is not ready. Gives what waits until load balancers
 * have had time to hear it, while requests are served as ever.
 */
const pauseBeforeClosing = (
  { clock, interrupted }: CliContext,
  { status }: AgentContext,
  pauseMs: () => number,
): (() => Promise<void>) => {
  const signal = interrupted();
  let askedAtMs = clock.monotonic();
  const stopping = (): void => {
    askedAtMs = clock.monotonic();
    status.role = "stopping";
  };
  signal.addEventListener("abort", stopping, { once: true });
  return async () => {
    if (!signal.aborted) return;
    // A standby may just have taken itself for one once more.
    status.role = "stopping";
    await clock.sleep(Math.max(0, askedAtMs + pauseMs() - clock.monotonic()));
  };
};
