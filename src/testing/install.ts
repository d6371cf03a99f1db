import type { Topology } from "../../regions/topology.ts";
import { initCluster } from "../postgres/init.ts";

/**
 * What `coregent init` does.
 * @throws with each thing that is in the way and its remedy
 */
export const installCluster = async (topology: Topology): Promise<void> => {
  const { findings } = await initCluster(topology);
  const refused = findings.filter(({ severity }) => severity === "critical");
  if (refused.length === 0) return;
  const lines = refused.map(
    ({ region, object, message, remedy }) => `region ${region}, ${object}: ${message}\n  ${remedy}`,
  );
  throw new Error(`Coregent cannot be installed on this schema:\n${lines.join("\n")}`);
};
