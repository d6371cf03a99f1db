import type { Region } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { exitCodes, OperatorError } from "../errors.ts";
import { adminRequest } from "./admin-request.ts";
import { type CliContext, commandGroups, type RegisterCommand } from "./context.ts";
import type { Colors } from "./output.ts";
import { renderTable } from "./table.ts";

/** What `/v1/route` answers. */
interface Route {
  readonly table: string;
  readonly key: readonly string[] | null;
  readonly ownerColumn: string | null;
  readonly owner: string | null;
  readonly route: "owner" | "nearest";
  readonly failover: "takeover" | "provisional";
  readonly target: string | null;
  readonly takeover: boolean;
  readonly regions: readonly {
    readonly region: string;
    readonly choice: string;
    readonly candidate: boolean;
    readonly because: string;
  }[];
}

/** `coregent route explain`: which master a write goes to, and why, as the agent of one region sees it. */
export const registerRoute: RegisterCommand = (program, context) => {
  const route = program
    .command("route")
    .helpGroup(commandGroups.run)
    .description("where the regional writer sends writes, and why");
  route
    .command("explain <table> [key]")
    .description("which master a write of a new row, or of the row with this key, goes to, and why")
    .option(
      "-r, --region <name>",
      "as the agent of this region sees it; default: the first in the configuration",
    )
    .addHelpText(
      "after",
      "\nA key of several columns is written a,b. The agent is reached at its api URL, with the token in COREGENT_TOKEN\n" +
        "where it asks for one.",
    )
    .action(async (table: string, key: string | undefined, flags: { region?: string }) => {
      const topology = await context.loadTopology();
      const region = flags.region === undefined ? topology.regions[0] : regionNamed(topology, flags.region);
      if (region === undefined) throw new Error("a configuration has at least one region");
      const answer = await ask(context, region, { table, ...(key === undefined ? {} : { key }) });
      context.output.result({ region: region.name, ...answer }, () =>
        routeText(region.name, answer, context.output.color),
      );
      context.exitCode = answer.target === null ? exitCodes.degraded : exitCodes.ok;
    });
};

const ask = async (context: CliContext, region: Region, query: Record<string, string>): Promise<Route> => {
  try {
    const path = `/v1/route?${new URLSearchParams(query).toString()}`;
    return await adminRequest<Route>(context, region, { method: "GET", path });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OperatorError("CG-ROUTE-UNKNOWN", `the agent of ${region.name} does not tell: ${reason}`, {
      remedy: `See that it runs and can be reached at ${region.api}, or ask another: --region NAME.`,
      cause: error,
    });
  }
};

const routeText = (here: string, route: Route, color: Colors): string => {
  const row = route.key === null ? "a new row" : `the row ${route.key.join(",")}`;
  const target =
    route.target === null
      ? "no master takes it"
      : `goes to ${color.bold(route.target)}${route.takeover ? ", which takes over from its owner" : ""}`;
  return [
    `A write in ${here} of ${row} of ${route.table} ${target}.`,
    ownerText(route),
    "",
    renderTable(
      {
        head: ["REGION", "CHOICE", "WHY"],
        rows: route.regions.map(({ region, choice, candidate, because }) => [
          region,
          { text: choice, paint: candidate ? color.green : color.red },
          because,
        ]),
      },
      color,
    ),
  ].join("\n");
};

const ownerText = ({ key, owner, ownerColumn, route, failover }: Route): string => {
  if (ownerColumn === null) return "The table has no owners.";
  if (route === "nearest") return "The table's route is nearest: the owner is not asked.";
  const rule = `if its owner is down: ${failover}`;
  if (key === null)
    return `Rows are owned by the region in ${ownerColumn}; a new one by the region that takes it; ${rule}.`;
  return owner === null
    ? `The row has no owner, or is not known there; ${rule}.`
    : `The row is owned by ${owner}; ${rule}.`;
};
