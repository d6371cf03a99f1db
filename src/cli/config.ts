import { hostPort, type Topology } from "../../regions/topology.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";
import type { Colors } from "./output.ts";
import { renderTable } from "./table.ts";

/** `coregent config`: what was read from the configuration, with passwords masked. */
export const registerConfig: RegisterCommand = (program, context) => {
  program
    .command("config")
    .helpGroup(commandGroups.setUp)
    .description("validate the configuration and print it, passwords masked; connects to nothing")
    .action(async () => {
      const topology = await context.loadTopology();
      context.output.result(topology, () => topologyText(topology, context.output.color));
    });
};

const topologyText = (topology: Topology, color: Colors): string => {
  const regions = renderTable(
    {
      head: ["ID", "REGION", "LATITUDE", "LONGITUDE", "POSTGRES", "API", "ENTRANCE"],
      rows: topology.regions.map((region) => [
        region.id,
        region.name,
        region.latitude.toFixed(2),
        region.longitude.toFixed(2),
        String(region.postgres),
        region.api,
        region.entrance === null ? "-" : hostPort(region.entrance),
      ]),
      alignRight: [0, 2, 3],
    },
    color,
  );
  return [
    `${color.bold("cluster")} ${topology.cluster}`,
    `${color.bold("schemas")} ${topology.schemas.join(", ")}`,
    "",
    regions,
    ...(topology.tables.length === 0 ? [] : ["", tablesText(topology, color)]),
  ].join("\n");
};

const tablesText = (topology: Topology, color: Colors): string =>
  renderTable(
    {
      head: ["TABLE", "OWNER", "FAILOVER", "CONFLICT", "ROUTE"],
      rows: topology.tables.map((table) => [
        table.name,
        table.owner ?? "-",
        table.owner === null ? "-" : table.failover,
        table.conflict,
        table.owner === null ? "-" : table.route,
      ]),
    },
    color,
  );
