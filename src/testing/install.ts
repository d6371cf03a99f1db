import type { Topology } from "../../regions/topology.ts";
import { connect } from "../postgres/client.ts";
import { installRegion } from "../postgres/install/region.ts";

/** What `coregent init` does, in all regions at once. */
export const installCluster = async (topology: Topology): Promise<void> => {
  await Promise.all(
    topology.regions.map(async (region) => {
      const client = await connect(region.postgres.reveal(), { applicationName: "coregent test kit" });
      try {
        await installRegion(client, { topology, region });
      } finally {
        await client.end();
      }
    }),
  );
};
