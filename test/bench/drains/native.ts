import { logTail } from "../../../src/embedded/server.ts";
import { dropSubscription, nativeDatabase, subscribe, type NativePair } from "../native.ts";
import { createDatabase, dropDatabase, dropSlot, run, withClient } from "../sql.ts";
import type { Consumer, Prepare } from "./consumer.ts";
import { marker, markerSchema, setMarker } from "./workload.ts";

const template = "native_base";
const keptSlot = "bench_kept";
const slot = "bench_run";

const subscriber = (side: Consumer["side"], pair: NativePair, options: readonly string[]): Consumer => {
  const waiting = ["create_slot = false", `slot_name = '${slot}'`, "enabled = false", "copy_data = false"];
  return {
    side,
    slot,
    targetDatabase: nativeDatabase,
    reset: async () => {
      await createDatabase(pair.target, nativeDatabase, template);
      await subscribe(pair, [...waiting, ...options]);
    },
    start: () => run(pair.target, nativeDatabase, "ALTER SUBSCRIPTION bench ENABLE"),
    stop: () => dropSubscription(pair.target),
    pid: () => null,
    explain: () => logTail(pair.target.logFile),
  };
};

/** A plain table on both sides, no trigger, and a subscription that is made anew for each run. */
export const prepareNative: Prepare = async (servers, workload, sized) => {
  const [source, target] = await Promise.all([servers.get("native-source"), servers.get("native-target")]);
  await dropDatabase(target, nativeDatabase);
  for (const [server, name] of [
    [source, nativeDatabase],
    [target, template],
  ] as const) {
    await createDatabase(server, name);
    await run(server, name, workload.schema, markerSchema, ...sized.seed, setMarker(marker.seeded));
    await run(server, name, "VACUUM FREEZE ANALYZE");
  }
  await withClient(source.url(nativeDatabase), async (client) => {
    await client.query("CREATE PUBLICATION bench FOR ALL TABLES");
    await dropSlot(client, keptSlot);
    await client.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [keptSlot]);
  });
  const pair = { source, target };
  return {
    ...pair,
    database: nativeDatabase,
    keptSlot,
    sourceAgent: null,
    consumers: [
      subscriber("native", pair, []),
      subscriber("nativeBinary", pair, ["streaming = parallel", "binary = true"]),
    ],
    [Symbol.asyncDispose]: async () => {
      await dropDatabase(source, nativeDatabase);
      await dropDatabase(target, nativeDatabase);
      await dropDatabase(target, template);
    },
  };
};
