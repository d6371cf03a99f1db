import type { BenchServer } from "../bench-server.ts";
import type { Consumer, Prepare } from "../drains/consumer.ts";
import { marker, markerSchema, setMarker, type Workload } from "../drains/workload.ts";
import { logTail } from "../../../src/embedded/server.ts";
import { copySlot, createDatabase, run, until, withClient } from "../sql.ts";
import { startDebianServer } from "./debian-server.ts";

const database = "pglogical";
const keptSlot = "bench_kept";

const dsn = ({ port }: BenchServer): string => `host=127.0.0.1 port=${port} dbname=${database} user=postgres`;

const node = (server: BenchServer, name: string): readonly string[] => [
  "CREATE EXTENSION pglogical",
  `SELECT pglogical.create_node('${name}', '${dsn(server)}')`,
];

const disable = async (target: BenchServer, source: BenchServer, slot: string): Promise<void> => {
  await run(target, database, "SELECT pglogical.alter_subscription_disable('bench', true)");
  await withClient(source.url(database), (client) =>
    until("pglogical has let the slot go", async () => {
      const { rows } = await client.query<{ active: boolean }>(
        "SELECT active FROM pg_replication_slots WHERE slot_name = $1",
        [slot],
      );
      return rows[0]?.active !== true;
    }),
  );
};

/** The rows of the seed lie beside the tables of the target, which are filled from them before each run. */
const keepSeed = (tables: readonly string[]): readonly string[] => [
  "CREATE SCHEMA kept",
  ...tables.map((table) => `CREATE TABLE kept.${table} AS SELECT * FROM ${table}`),
];

const refill = (tables: readonly string[], slot: string, lsn: string): readonly string[] => [
  "SET session_replication_role = replica",
  ...tables.flatMap((table) => [`TRUNCATE ${table}`, `INSERT INTO ${table} SELECT * FROM kept.${table}`]),
  `SELECT pg_replication_origin_advance('${slot}', '${lsn}')`,
  "VACUUM FREEZE ANALYZE",
];

const readSlot = (source: BenchServer): Promise<string> =>
  withClient(source.url(database), async (client) => {
    await until("pglogical streams", async () => {
      const { rowCount } = await client.query("SELECT FROM pg_replication_slots WHERE active");
      return rowCount === 1;
    });
    const { rows } = await client.query<{ name: string }>(
      "SELECT slot_name AS name FROM pg_replication_slots",
    );
    return rows[0]?.name ?? "";
  });

/** pglogical between two databases of PostgreSQL 15: a subscription made once, enabled for each run. */
export const preparePglogical = async (
  folder: string,
  workload: Pick<Workload, "schema" | "tables">,
  sized: Parameters<Prepare>[2],
): ReturnType<Prepare> => {
  const stack = new AsyncDisposableStack();
  const source = stack.use(await startDebianServer(folder, "pglogical-source"));
  const target = stack.use(await startDebianServer(folder, "pglogical-target"));
  const tables = [...workload.tables, "marker"];
  for (const server of [source, target]) {
    await createDatabase(server, database);
    await run(server, database, workload.schema, markerSchema, ...sized.seed, setMarker(marker.seeded));
    await run(server, database, ...node(server, server === source ? "source" : "target"));
  }
  await run(source, database, "SELECT pglogical.replication_set_add_all_tables('default', '{public}')");
  await run(
    target,
    database,
    ...keepSeed(tables),
    `SELECT pglogical.create_subscription('bench', '${dsn(source)}', synchronize_structure := false,
       synchronize_data := false, forward_origins := '{}')`,
  );
  const slot = await readSlot(source);
  await disable(target, source, slot);
  const lsn = await withClient(source.url(database), async (client) => {
    await copySlot(client, slot, keptSlot);
    const { rows } = await client.query<{ lsn: string }>(
      "SELECT confirmed_flush_lsn AS lsn FROM pg_replication_slots WHERE slot_name = $1",
      [keptSlot],
    );
    return rows[0]?.lsn ?? "";
  });
  const consumer: Consumer = {
    side: "pglogical",
    slot,
    targetDatabase: database,
    reset: () => run(target, database, ...refill(tables, slot, lsn)),
    start: () => run(target, database, "SELECT pglogical.alter_subscription_enable('bench', true)"),
    stop: () => disable(target, source, slot),
    pid: () => null,
    explain: () => logTail(target.logFile),
  };
  return {
    source,
    target,
    database,
    keptSlot,
    sourceAgent: null,
    consumers: [consumer],
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
};
