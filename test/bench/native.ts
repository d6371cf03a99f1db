import { literal } from "../../src/postgres/identifiers.ts";
import type { BenchServer } from "./bench-server.ts";
import { run, withClient } from "./sql.ts";

/** PostgreSQL's own replication: publication `bench` of a plain database, and the subscription of that name. */
export const nativeDatabase = "native";

export interface NativePair {
  readonly source: BenchServer;
  readonly target: BenchServer;
}

/** `options` as in `WITH (...)`, over `origin = none`. */
export const subscribe = ({ source, target }: NativePair, options: readonly string[]): Promise<void> => {
  const connection = `host=127.0.0.1 port=${source.port} dbname=${nativeDatabase} user=postgres`;
  return run(
    target,
    nativeDatabase,
    `CREATE SUBSCRIPTION bench CONNECTION ${literal(connection)} PUBLICATION bench
       WITH (${["origin = none", ...options].join(", ")})`,
  );
};

/** Its slot stays. No harm if there is none. */
export const dropSubscription = (target: BenchServer): Promise<void> =>
  withClient(target.url(nativeDatabase), async (client) => {
    const { rowCount } = await client.query(
      "SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()",
    );
    if (rowCount === 0) return;
    await client.query("ALTER SUBSCRIPTION bench DISABLE");
    await client.query("ALTER SUBSCRIPTION bench SET (slot_name = NONE)");
    await client.query("DROP SUBSCRIPTION bench");
  });
