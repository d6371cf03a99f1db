import { initCluster } from "../../src/postgres/init.ts";
import { regionsOf, type VerifyRegion } from "../../src/replication/verify.ts";
import type { Topology } from "../../regions/topology.ts";
import { createDatabase, dropOrigins, type TestDatabase } from "../support/database.ts";
import { topologyOf } from "../postgres/check-fixture.ts";

/** Regions r1, r2, ... with Coregent installed and no agents: what they hold is what the test puts there. */
export class Regions implements AsyncDisposable {
  readonly databases: readonly TestDatabase[];
  readonly topology: Topology;
  private constructor(databases: readonly TestDatabase[], topology: Topology) {
    this.databases = databases;
    this.topology = topology;
  }

  static async create(count: number, schema: string, tables = ""): Promise<Regions> {
    const databases = await Promise.all(Array.from({ length: count }, () => createDatabase()));
    await Promise.all(databases.map((database) => database.query(schema)));
    const topology = topologyOf(
      databases.map((database) => database.url),
      tables,
    );
    await initCluster(topology, { check: () => Promise.resolve([]) });
    // What init wants copied at the start is nothing here.
    await Promise.all(databases.map((database) => database.query("DELETE FROM coregent.table_sync")));
    return new Regions(databases, topology);
  }

  get regions(): VerifyRegion[] {
    return regionsOf(this.topology);
  }

  at(index: number): TestDatabase {
    const database = this.databases[index];
    if (database === undefined) throw new Error("no such region");
    return database;
  }

  /** Runs SQL as a merge does: no trigger stamps. In one region, or in all. */
  async merged(sql: string, index?: number): Promise<void> {
    const all = index === undefined ? this.databases : [this.at(index)];
    await Promise.all(
      all.map((database) =>
        database.query(
          `SET session_replication_role = replica; ${sql}; SET session_replication_role = DEFAULT`,
        ),
      ),
    );
  }

  /** Name of a table's tombstone relation, quoted. */
  async tombstones(name: string): Promise<string> {
    const [row] = await this.at(0).query<{ name: string }>(
      "SELECT format('coregent.%I', tombstone) AS name FROM coregent.replicated_table WHERE name = $1",
      [name],
    );
    return row?.name ?? "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.databases.map((database) => database[Symbol.asyncDispose]()));
    await dropOrigins(this.topology.cluster);
  }
}

/** A version of region `region`, `step` microseconds after a fixed moment. */
export const v = (step: number, region: number): string =>
  String((1_800_000_000_000_000n + BigInt(step)) * 1024n + BigInt(region));
