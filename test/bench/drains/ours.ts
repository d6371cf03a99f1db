import { slotName } from "../../../src/postgres/install/names.ts";
import { initCluster } from "../region.ts";
import type { Servers } from "../servers.ts";
import {
  copySlot,
  createDatabase,
  dropDatabase,
  dropSlot,
  renameDatabase,
  run,
  until,
  withClient,
} from "../sql.ts";
import type { Prepare } from "./consumer.ts";
import { marker, markerSchema, setMarker } from "./workload.ts";

const cluster = "bench";
const database = "ours";
const template = "ours_base";
const keptSlot = "bench_kept";

/** Region a writes, the agent of region b merges into b. The seed goes the same way. */
export const prepareOurs =
  (servers: Servers): Prepare =>
  async (workload, sized) => {
    const [source, target] = await Promise.all([servers.get("ours-source"), servers.get("ours-target")]);
    for (const server of [source, target]) {
      await createDatabase(server, database);
      await run(server, database, workload.schema, markerSchema);
    }
    await dropDatabase(target, template);
    const { agents } = await initCluster({
      name: cluster,
      folder: servers.folder,
      servers: [source, target],
      database,
    });
    const agent = agents[1];
    if (agent === undefined) throw new Error("the cluster has no second agent");
    await agent.start();
    await run(source, database, ...sized.seed, setMarker(marker.seeded));
    await withClient(target.url(database), (client) =>
      until(
        "the seed is at the target",
        async () => (await client.query("SELECT FROM marker")).rowCount === 1,
      ),
    );
    await agent.stop();

    const slot = slotName(cluster, 1, 2);
    await withClient(source.url(database), async (client) => {
      await copySlot(client, slot, keptSlot);
      await client.query("VACUUM FREEZE ANALYZE");
    });
    await withClient(target.url(database), async (client) => {
      // Nobody reads it here, and it would keep the target's WAL.
      await dropSlot(client, slotName(cluster, 2, 1));
      await client.query("VACUUM FREEZE ANALYZE");
    });
    await renameDatabase(target, database, template);
    const consumer = {
      side: "ours",
      slot,
      targetDatabase: database,
      template,
      ready: () => Promise.resolve(),
      start: () => Promise.resolve(agent.spawn()),
      stop: () => agent.kill(),
      pid: () => agent.pid,
      explain: () => agent.tail(),
    } as const;
    return { source, target, database, keptSlot, consumers: [consumer] };
  };
