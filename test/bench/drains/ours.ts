import type { Client } from "pg";
import { slotName } from "../../../src/postgres/install/names.ts";
import { clusterName, openCluster, regionAt } from "../region.ts";
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

const template = "ours_base";
const keptSlot = "bench_kept";

/**
 * Brings the slot's restart point past what is in the WAL now. It moves only where the server logs which transactions
 * run, and is confirmed later: else each run would decode the seed once more.
 */
const passSeed = async (client: Client, slot: string): Promise<void> => {
  const { rows } = await client.query<{ lsn: string }>("SELECT pg_current_wal_insert_lsn() AS lsn");
  let markers = 0;
  await until(
    "the slot has passed the seed",
    async () => {
      await client.query("SELECT pg_log_standby_snapshot()");
      await client.query(setMarker((markers -= 1)));
      const passed = await client.query(
        "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND restart_lsn > $2::pg_lsn",
        [slot, rows[0]?.lsn],
      );
      return passed.rowCount === 1;
    },
    { everyMs: 100, timeoutMs: 60_000 },
  );
};

/** Region a writes, the agent of region b merges into b. The seed goes the same way. */
export const prepareOurs: Prepare = async (servers, workload, sized) => {
  const cluster = await openCluster(servers, { regions: 2, schema: [workload.schema, markerSchema] });
  const { database } = cluster;
  const { server: source, agent: sourceAgent } = regionAt(cluster, 0);
  const { server: target, agent } = regionAt(cluster, 1);
  await dropDatabase(target, template);
  await agent.start();
  await run(source, database, ...sized.seed, setMarker(marker.seeded));
  await withClient(target.url(database), (client) =>
    until("the seed is at the target", async () => (await client.query("SELECT FROM marker")).rowCount !== 0),
  );
  const slot = slotName(clusterName, 1, 2);
  await withClient(source.url(database), async (client) => {
    await client.query("VACUUM FREEZE ANALYZE");
    await passSeed(client, slot);
    await agent.stop();
    await copySlot(client, slot, keptSlot);
  });
  await withClient(target.url(database), async (client) => {
    // Nobody reads it here, and it would keep the target's WAL.
    await dropSlot(client, slotName(clusterName, 2, 1));
    await client.query("VACUUM FREEZE ANALYZE");
  });
  await renameDatabase(target, database, template);
  const consumer = {
    side: "ours",
    slot,
    targetDatabase: database,
    reset: () => createDatabase(target, database, template),
    // One process through all runs, as in production: what a run finds compiled, the warm-up has compiled.
    start: () => Promise.resolve(agent.running ? agent.resume() : agent.spawn()),
    stop: () => Promise.resolve(agent.pause()),
    pid: () => agent.pid,
    explain: () => agent.tail(),
  } as const;
  return {
    source,
    target,
    database,
    keptSlot,
    sourceAgent,
    consumers: [consumer],
    [Symbol.asyncDispose]: async () => {
      await cluster[Symbol.asyncDispose]();
      await dropDatabase(target, template);
    },
  };
};
