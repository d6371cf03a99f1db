import { literal } from "../../../src/postgres/identifiers.ts";
import { logTail, type Server } from "../../../src/embedded/server.ts";
import type { Servers } from "../servers.ts";
import { createDatabase, dropDatabase, dropSlot, run, withClient } from "../sql.ts";
import type { Consumer, Prepare } from "./consumer.ts";
import { marker, markerSchema, setMarker } from "./workload.ts";

const database = "native";
const template = "native_base";
const keptSlot = "bench_kept";
const slot = "bench_run";

const dropSubscription = (target: Server): Promise<void> =>
  withClient(target.url(database), async (client) => {
    const { rowCount } = await client.query(
      "SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()",
    );
    if (rowCount === 0) return;
    await client.query("ALTER SUBSCRIPTION bench DISABLE");
    await client.query("ALTER SUBSCRIPTION bench SET (slot_name = NONE)");
    await client.query("DROP SUBSCRIPTION bench");
  });

const subscriber = (
  side: Consumer["side"],
  options: string,
  { source, target }: { readonly source: Server; readonly target: Server },
): Consumer => {
  const connection = `host=127.0.0.1 port=${source.port} dbname=${database} user=postgres`;
  return {
    side,
    slot,
    targetDatabase: database,
    template,
    ready: () =>
      run(
        target,
        database,
        `CREATE SUBSCRIPTION bench CONNECTION ${literal(connection)} PUBLICATION bench
           WITH (create_slot = false, slot_name = '${slot}', enabled = false, copy_data = false, origin = none${options})`,
      ),
    start: () => run(target, database, "ALTER SUBSCRIPTION bench ENABLE"),
    stop: () => dropSubscription(target),
    pid: () => null,
    explain: () => logTail(target.logFile),
  };
};

/** A plain table on both sides, no trigger, and a subscription that is made anew for each run. */
export const prepareNative =
  (servers: Servers): Prepare =>
  async (workload, sized) => {
    const [source, target] = await Promise.all([servers.get("native-source"), servers.get("native-target")]);
    for (const [server, name] of [
      [source, database],
      [target, template],
    ] as const) {
      await dropDatabase(server, database);
      await createDatabase(server, name);
      await run(server, name, workload.schema, markerSchema, ...sized.seed, setMarker(marker.seeded));
      await run(server, name, "VACUUM FREEZE ANALYZE");
    }
    await withClient(source.url(database), async (client) => {
      await client.query("CREATE PUBLICATION bench FOR ALL TABLES");
      await dropSlot(client, keptSlot);
      await client.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [keptSlot]);
    });
    const pair = { source, target };
    const consumers = [
      subscriber("native", "", pair),
      subscriber("nativeBinary", ", streaming = parallel, binary = true", pair),
    ];
    return { source, target, database, keptSlot, consumers };
  };
