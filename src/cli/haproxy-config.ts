import { hostPort, type Region, type Topology } from "../../regions/topology.ts";
import { regionNamed } from "../config.ts";
import { haproxyBind, haproxyConfig } from "../entrance/haproxy.ts";
import { OperatorError } from "../errors.ts";
import { commandGroups, type RegisterCommand } from "./context.ts";

/** `coregent haproxy-config`: what HAProxy needs in order to do what the PostgreSQL entrances do. */
export const registerHaproxyConfig: RegisterCommand = (program, context) => {
  program
    .command("haproxy-config")
    .helpGroup(commandGroups.setUp)
    .description("print a configuration with which HAProxy does what the PostgreSQL entrances do")
    .option("-r, --region <name>", "for an HAProxy of this region alone; default: all regions in one")
    .addHelpText(
      "after",
      "\nIt listens at each region's `entrance` address, or on loopback from port 6432 on, leads to the region's own master,\n" +
        "and to the nearest other one while that is not well. Connects to nothing.",
    )
    .action(async (flags: { region?: string }) => {
      const topology = await context.loadTopology();
      const regions = flags.region === undefined ? topology.regions : [regionNamed(topology, flags.region)];
      mustListenApart(topology, regions);
      const config = haproxyConfig(topology, regions);
      context.output.result({ config }, () => config.trimEnd());
    });
};

/** Regions with machines of their own may share an address, which one HAProxy cannot. */
const mustListenApart = (topology: Topology, regions: readonly Region[]): void => {
  const taken = new Map<string, string>();
  for (const region of regions) {
    const address = hostPort(haproxyBind(topology, region));
    const other = taken.get(address);
    if (other !== undefined) {
      throw new OperatorError("CG-USAGE", `regions ${other} and ${region.name} both listen on ${address}`, {
        remedy: "Print the configuration of one region: --region NAME.",
      });
    }
    taken.set(address, region.name);
  }
};
