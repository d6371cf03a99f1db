import { randomBytes } from "node:crypto";
import { type Command, InvalidArgumentError } from "commander";
import { describeOutage, type OutageSpec, regionsConcerned } from "../../regions/outages.ts";
import type { Region, Topology } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { exitCodes, OperatorError } from "../errors.ts";
import { adminRequest } from "./admin-request.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";
import { durationMs } from "./duration.ts";

/** `coregent outage`: what the agents simulate. Each agent cuts its own connections, and ends it by itself. */
export const registerOutage: RegisterCommand = (program, context) => {
  const outage = program
    .command("outage")
    .helpGroup(commandGroups.prove)
    .description("simulate outages of regions and links, where the configuration allows it")
    .addHelpText(
      "after",
      "\nThe configuration must say outages: {allowed: true}. An outage ends at its time, when it is healed, or with\n" +
        "the agent, whatever becomes of this command. Agents are reached at their api URLs, with the token in\n" +
        "COREGENT_TOKEN where they ask for one.",
    );
  const start = outage.command("start").description("begin an outage");
  const forOption = [
    "--for <duration>",
    "ends by itself after so long: 500ms, 30s, 5m, 1h",
    duration,
  ] as const;
  start
    .command("region <name>")
    .description("cut a region off from all others, and its agent from its master")
    .option(...forOption)
    .action((name: string, flags: { for?: number }) =>
      begin(context, flags, (topology) => ({ kind: "region", region: regionNamed(topology, name).name })),
    );
  start
    .command("link <from> <to>")
    .description("cut two regions off from each other")
    .option("--one-way", "only what the first writes does not reach the second")
    .option(...forOption)
    .action((from: string, to: string, flags: { for?: number; oneWay?: true }) =>
      begin(context, flags, (topology) => ({
        kind: "link",
        ...twoRegions(topology, from, to),
        oneWay: flags.oneWay === true,
      })),
    );
  start
    .command("latency <from> <to> <round-trip>")
    .description("make the line between two regions slower: 300ms is added to each round trip")
    .option("--jitter <duration>", "and up to so much more, at random", duration, 0)
    .option(...forOption)
    .action((from: string, to: string, roundTrip: string, flags: { for?: number; jitter: number }) =>
      begin(context, flags, (topology) => ({
        kind: "latency",
        ...twoRegions(topology, from, to),
        roundTripMs: duration(roundTrip),
        jitterMs: flags.jitter,
      })),
    );
  registerList(outage, context);
  registerHeal(outage, context);
};

const duration = (text: string): number => {
  const ms = durationMs(text);
  if (ms === null) {
    throw new InvalidArgumentError("It is a duration such as 500ms, 30s, 5m or 1h.");
  }
  return ms;
};

const twoRegions = (topology: Topology, from: string, to: string): { from: string; to: string } => {
  if (from === to) {
    throw new OperatorError("CG-USAGE", "an outage of a link needs two regions", {
      remedy: "Name two different regions.",
    });
  }
  return { from: regionNamed(topology, from).name, to: regionNamed(topology, to).name };
};

type Answer<T> = { readonly region: string } & ({ readonly value: T } | { readonly error: string });

/** Asks all these agents at once. One that cannot be reached does not keep the others from being asked. */
const askAll = async <T>(
  context: CliContext,
  regions: readonly Region[],
  request: { readonly method: string; readonly path: string; readonly body?: unknown },
): Promise<readonly Answer<T>[]> =>
  Promise.all(
    regions.map(async (region): Promise<Answer<T>> => {
      try {
        return { region: region.name, value: await adminRequest<T>(context, region, request) };
      } catch (error) {
        return { region: region.name, error: error instanceof Error ? error.message : String(error) };
      }
    }),
  );

const path = "/v1/admin/outages";

const begin = async (
  context: CliContext,
  flags: { readonly for?: number },
  specOf: (topology: Topology) => OutageSpec,
): Promise<void> => {
  const topology = await context.loadTopology();
  const spec = specOf(topology);
  const id = `o${randomBytes(3).toString("hex")}`;
  const names = regionsConcerned(
    spec,
    topology.regions.map(({ name }) => name),
  );
  const concerned = topology.regions.filter(({ name }) => names.includes(name));
  const answers = await askAll(context, concerned, {
    method: "POST",
    path,
    body: { id, ...spec, ...(flags.for === undefined ? {} : { forMs: flags.for }) },
  });
  const failed = answers.filter((answer) => "error" in answer);
  const taking = answers.flatMap((answer) => ("value" in answer ? [answer.region] : []));
  const report = { id, ...spec, forMs: flags.for ?? null, agents: answers };
  context.output.result(report, () =>
    [
      ...(failed.length === answers.length
        ? [`${id}: no agent takes part`]
        : [
            `${id}: ${describeOutage(spec)}, at the agents of ${taking.join(", ")}`,
            flags.for === undefined
              ? `until coregent outage heal ${id}`
              : `ends by itself after ${flags.for / 1000} s`,
          ]),
      ...failed.map(({ region, error }) => `${region}: its agent does not take part: ${error}`),
    ].join("\n"),
  );
  context.exitCode =
    failed.length === 0
      ? exitCodes.ok
      : failed.length === answers.length
        ? exitCodes.error
        : exitCodes.degraded;
};

interface OutageList {
  readonly outages: readonly (Record<string, unknown> & {
    readonly id: string;
    readonly endsAt: string | null;
  })[];
}

const registerList = (outage: Command, context: CliContext): void => {
  outage
    .command("list")
    .description("the outages that the agents simulate")
    .action(async () => {
      const { regions } = await context.loadTopology();
      const answers = await askAll<OutageList>(context, regions, { method: "GET", path });
      const found = new Map<string, { outage: OutageList["outages"][number]; agents: string[] }>();
      for (const answer of answers) {
        for (const each of "value" in answer ? answer.value.outages : []) {
          const entry = found.get(each.id) ?? { outage: each, agents: [] };
          entry.agents.push(answer.region);
          found.set(each.id, entry);
        }
      }
      const list = [...found.values()].map(({ outage: each, agents }) => ({ ...each, agents }));
      const unreachable = answers.filter((answer) => "error" in answer);
      context.output.result({ outages: list, unreachable }, () =>
        [
          ...(list.length === 0 && unreachable.length < answers.length ? ["no outage is simulated"] : []),
          ...[...found.values()].map(
            ({ outage: each, agents }) =>
              `${each.id}  ${describeOutage(each as unknown as OutageSpec)}  ` +
              `${each.endsAt === null ? "until it is healed" : `until ${each.endsAt}`}  (${agents.join(", ")})`,
          ),
          ...unreachable.map(({ region, error }) => `${region}: its agent does not answer: ${error}`),
        ].join("\n"),
      );
      context.exitCode = unreachable.length === 0 ? exitCodes.ok : exitCodes.degraded;
    });
};

const registerHeal = (outage: Command, context: CliContext): void => {
  outage
    .command("heal [id]")
    .description("end an outage, or all of them")
    .option("--all", "all of them")
    .action(async (id: string | undefined, flags: { all?: true }) => {
      if ((id === undefined) === (flags.all !== true)) {
        throw new OperatorError("CG-USAGE", "name one outage, or --all", {
          remedy: "coregent outage list shows those there are.",
        });
      }
      const { regions } = await context.loadTopology();
      const answers = await askAll<{ readonly healed: number }>(context, regions, {
        method: "DELETE",
        path: id === undefined ? path : `${path}/${encodeURIComponent(id)}`,
      });
      const healed = answers.filter((answer) => "value" in answer && answer.value.healed > 0);
      const unreachable = answers.filter((answer) => "error" in answer);
      context.output.result({ healed: healed.map(({ region }) => region), unreachable }, () =>
        [
          ...(healed.length > 0
            ? [`healed at the agents of ${healed.map(({ region }) => region).join(", ")}`]
            : unreachable.length < answers.length
              ? ["there was nothing to heal"]
              : []),
          ...unreachable.map(({ region, error }) => `${region}: its agent does not answer: ${error}`),
        ].join("\n"),
      );
      context.exitCode =
        unreachable.length > 0
          ? exitCodes.degraded
          : healed.length === 0 && id !== undefined
            ? exitCodes.error
            : exitCodes.ok;
    });
};
