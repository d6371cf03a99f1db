import { freePort, isFree } from "../embedded/ports.ts";
import { OperatorError } from "../errors.ts";
import type { RegionPorts } from "./folder.ts";

/**
 * Ports for each region's PostgreSQL, its agent's endpoint and its entrance for PostgreSQL clients: from `portBase` on if it is given; else those of the last time, as
 * connection strings are kept in shells and tools; else free ones.
 * @throws OperatorError CG-PORT-TAKEN for one that `portBase` leads to
 */
export const choosePorts = async (
  regions: readonly string[],
  options: { readonly portBase?: number; readonly last?: Readonly<Record<string, RegionPorts>> },
): Promise<Record<string, RegionPorts>> => {
  const ports: Record<string, RegionPorts> = {};
  for (const [index, region] of regions.entries()) {
    const wanted = wantedPorts(index, region, options);
    ports[region] = {
      postgres: await take(wanted?.postgres, options.portBase !== undefined),
      api: await take(wanted?.api, options.portBase !== undefined),
      entrance: await take(wanted?.entrance, options.portBase !== undefined),
    };
  }
  return ports;
};

const wantedPorts = (
  index: number,
  region: string,
  { portBase, last }: { readonly portBase?: number; readonly last?: Readonly<Record<string, RegionPorts>> },
): Partial<RegionPorts> | undefined =>
  portBase === undefined
    ? last?.[region]
    : { postgres: portBase + index, api: portBase + 10 + index, entrance: portBase + 20 + index };

const take = async (port: number | undefined, insist: boolean): Promise<number> => {
  if (port !== undefined && (await isFree(port))) {
    return port;
  }
  if (port !== undefined && insist) {
    throw new OperatorError("CG-PORT-TAKEN", `port ${port} of 127.0.0.1 is in use`, {
      remedy: "Give another --port-base, or leave it out: then ports that are free are chosen.",
    });
  }
  return freePort();
};
