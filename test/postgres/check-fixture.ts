import { parseTopology, type Region, type Topology } from "../../regions/topology.ts";
import { uniqueName } from "../support/database.ts";

/** A topology of its own name whose regions, r1 (id 1), r2 and so on, are the databases given. */
export const topologyOf = (urls: readonly string[], rest = ""): Topology => {
  const regions = urls.map(
    (url, index) =>
      `  - { name: r${index + 1}, id: ${index + 1}, latitude: 0, longitude: ${index}, postgres: "${url}", api: "http://127.0.0.1:${9000 + index}" }`,
  );
  const parsed = parseTopology(`cluster: ${uniqueName("c")}\nregions:\n${regions.join("\n")}\n${rest}`, {});
  if (parsed.problems !== undefined) throw new Error(JSON.stringify(parsed.problems));
  return parsed.topology;
};

export const regionOf = (topology: Topology, index = 0): Region => {
  const region = topology.regions[index];
  if (region === undefined) throw new Error("no such region");
  return region;
};
