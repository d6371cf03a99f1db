import { type Command, InvalidArgumentError } from "commander";
import type { Client } from "pg";
import type { Region, Topology } from "../../regions/topology.ts";
import type { WriterSettings } from "../../regions/writer-settings.ts";
import { regionNamed } from "../config.ts";
import { exitCodes, OperatorError } from "../errors.ts";
import { connect } from "../postgres/client.ts";
import {
  DrainWatch,
  isClear,
  type Outstanding,
  type Peer,
  readDrainState,
  setDrained,
} from "../write/drain.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";
import { durationMs } from "./duration.ts";

const connectTimeoutMs = 5_000;
const lookMs = 100;

/** `coregent drain NAME`: takes a region out for maintenance. 0 when it can be taken down, 3 when not yet. */
export const registerDrain: RegisterCommand = (program, context) => {
  program
    .command("drain <region>")
    .helpGroup(commandGroups.run)
    .description(
      "take a region out for maintenance: its writes go elsewhere, then what it wrote is awaited there",
    )
    .option("--wait <duration>", "how long that may take: 30s, 5m", duration, 60_000)
    .addHelpText(
      "after",
      "\nThe region stays drained, also when it is down meanwhile, until coregent resume. Ends with 0 when it can be taken\n" +
        "down, with 3 when something is outstanding; run it again to go on waiting.",
    )
    .action((name: string, flags: { wait: number }) => drain(context, name, flags.wait));
};

/** `coregent resume NAME`: the end of `drain`. */
export const registerResume: RegisterCommand = (program: Command, context) => {
  program
    .command("resume <region>")
    .helpGroup(commandGroups.run)
    .description("let a drained region take writes again")
    .action(async (name: string) => {
      const topology = await context.loadTopology();
      const region = regionNamed(topology, name);
      const wasDrained = await inRegion(region, async (client) => {
        const { known, since } = await readDrainState(client);
        if (known) await setDrained(client, false);
        return since !== null;
      });
      context.output.result({ region: region.name, wasDrained }, () =>
        wasDrained
          ? `${region.name} takes writes again, as soon as each endpoint has seen it (${seconds(topology.writer.probeMs)})`
          : `${region.name} was not drained`,
      );
      context.exitCode = exitCodes.ok;
    });
};

const duration = (text: string): number => {
  const ms = durationMs(text);
  if (ms === null) throw new InvalidArgumentError("It is a duration such as 500ms, 30s, 5m or 1h.");
  return ms;
};

const drain = async (context: CliContext, name: string, waitMs: number): Promise<void> => {
  const { output, clock } = context;
  const topology = await context.loadTopology();
  const region = regionNamed(topology, name);
  const peers = topology.regions.filter((other) => other !== region);
  await somebodyMustRemain(region, peers);
  const deadlineMs = clock.monotonic() + waitMs;
  const report = await inRegion(region, async (client) => {
    if (!(await readDrainState(client)).known) {
      throw new OperatorError(
        "CG-DRAIN-REFUSED",
        `Coregent's schema in ${region.name} cannot say that it is drained`,
        {
          remedy: "Run coregent init, which brings it up to date, then drain again.",
        },
      );
    }
    const since = await setDrained(client, true);
    output.progress("waiting until every endpoint has seen it");
    const seen = await settled(context, topology.writer, deadlineMs);
    const outstanding = await withSessions(peers, async (sessions) => {
      const watch = new DrainWatch(client, {
        cluster: topology.cluster,
        region: region.id,
        peers: sessions,
      });
      let found = await watch.look();
      while (seen && !isClear(found) && clock.monotonic() < deadlineMs) {
        output.progress(outstandingLines(found).join("; "));
        await clock.sleep(lookMs, context.interrupted());
        found = await watch.look();
      }
      return found;
    });
    return { region: region.name, since, seen, outstanding, ready: seen && isClear(outstanding) };
  });
  output.result(report, () => drainText(report, peers));
  context.exitCode = report.ready ? exitCodes.ok : exitCodes.degraded;
};

/** Whether there is time until no endpoint, nor a request that waits for a session in one, takes the region for open. */
const settled = async (
  { clock, interrupted }: CliContext,
  { probeMs, probeTimeoutMs, maxWaitMs }: WriterSettings,
  deadlineMs: number,
): Promise<boolean> => {
  // One probe may have been under way; the next one tells it, or fails, and then nobody writes there either.
  const settleMs = probeMs + 2 * probeTimeoutMs + maxWaitMs;
  const leftMs = deadlineMs - clock.monotonic();
  await clock.sleep(Math.min(settleMs, leftMs), interrupted());
  return settleMs <= leftMs;
};

/** Of the others, one must be there to take the writes. @throws OperatorError CG-DRAIN-REFUSED */
const somebodyMustRemain = async (region: Region, peers: readonly Region[]): Promise<void> => {
  const states = await Promise.all(
    peers.map((peer) =>
      inRegion(peer, async (client) =>
        (await readDrainState(client)).since === null ? null : "is drained",
      ).catch(() => "cannot be reached"),
    ),
  );
  if (states.includes(null)) return;
  const why = peers.map(({ name }, i) => `${name} ${states[i] ?? ""}`).join(", ");
  throw new OperatorError(
    "CG-DRAIN-REFUSED",
    `no other region could take the writes of ${region.name}${why === "" ? "" : `: ${why}`}`,
    { remedy: "Bring one of the others back first (coregent resume), or see that it can be reached." },
  );
};

const open = (region: Region): Promise<Client> =>
  connect(region.postgres.reveal(), {
    applicationName: `coregent drain ${region.name}`,
    connectTimeoutMs,
    settings: { statement_timeout: `${connectTimeoutMs}ms` },
  });

const withSessions = async <T>(
  regions: readonly Region[],
  work: (sessions: readonly Peer[]) => Promise<T>,
): Promise<T> => {
  const sessions = await Promise.all(
    regions.map(async (region) => ({
      name: region.name,
      id: region.id,
      client: await open(region).catch(() => null),
    })),
  );
  try {
    return await work(sessions);
  } finally {
    await Promise.allSettled(sessions.map(async ({ client }) => client?.end()));
  }
};

const inRegion = async <T>(region: Region, work: (client: Client) => Promise<T>): Promise<T> => {
  const client = await open(region);
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => undefined);
  }
};

interface DrainReport {
  readonly region: string;
  readonly since: Date | null;
  /** Every endpoint has had time to see it. */
  readonly seen: boolean;
  readonly outstanding: Outstanding;
  readonly ready: boolean;
}

const drainText = ({ region, seen, outstanding, ready }: DrainReport, peers: Topology["regions"]): string =>
  (ready
    ? [
        `${region} is drained: no endpoint writes there, and what it wrote is in ${peers.map(({ name }) => name).join(" and ")}.`,
        "It can be taken down.",
      ]
    : [
        `${region} is drained, but it should not be taken down yet:`,
        ...(seen ? [] : ["  some endpoints may not have seen it yet"]),
        ...outstandingLines(outstanding).map((line) => `  ${line}`),
        `Run coregent drain ${region} again to go on waiting.`,
      ]
  )
    .concat(`coregent resume ${region} lets it take writes again.`)
    .join("\n");

const outstandingLines = (outstanding: Outstanding): string[] => {
  const { endpointTransactions, applicationTransactions, unconfirmed, copies } = outstanding;
  return [
    ...(endpointTransactions > 0
      ? [`transactions of endpoints that are open there: ${endpointTransactions}`]
      : []),
    ...(applicationTransactions > 0
      ? [`transactions of applications that are open and have written there: ${applicationTransactions}`]
      : []),
    ...(unconfirmed.length > 0
      ? [`${unconfirmed.join(" and ")} may lack some of what was written there`]
      : []),
    ...copies.map(({ peer, tables }) => `${peer} has still to copy ${tablesText(tables)} from there`),
  ];
};

const maxTablesShown = 5;

const tablesText = (tables: readonly string[]): string => {
  const shown = tables.slice(0, maxTablesShown).join(", ");
  return tables.length > maxTablesShown ? `${shown} and ${tables.length - maxTablesShown} others` : shown;
};

const seconds = (ms: number): string => `${ms / 1_000} s`;
