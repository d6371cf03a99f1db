import type { TestDatabase } from "../support/database.ts";
import { readTables } from "../../src/postgres/catalog.ts";
import { identifier, list, qualified } from "../../src/postgres/identifiers.ts";
import type { ReplicatedTable } from "../../src/postgres/table.ts";

/** What `init` makes, without its triggers: tests of the stream stamp rows themselves. */
export const prepare = async (db: TestDatabase): Promise<void> => {
  await db.query(`
    CREATE SCHEMA coregent;
    CREATE TABLE coregent.replicated_table (
      name text PRIMARY KEY, schema_name text, table_name text, tombstone text, key_columns text[], owner_column text,
      failover text DEFAULT 'takeover', logs_conflicts bool DEFAULT true);
    CREATE PUBLICATION coregent WITH (publish = 'insert, update', publish_via_partition_root = true);`);
};

export interface FixtureTable {
  readonly schema?: string;
  readonly name: string;
  readonly key: readonly string[];
  readonly owner?: string;
  /** Column definitions and constraints, as in CREATE TABLE. */
  readonly definition: string;
}

/** Makes a table with `cg_` columns, its tombstone relation, and publishes both. */
export const addTable = async (db: TestDatabase, table: FixtureTable): Promise<ReplicatedTable> => {
  const schema = table.schema ?? "public";
  const tombstone = `tombstone_${table.name}`;
  const state = [
    ...(table.owner === undefined ? [] : ["cg_base bigint NOT NULL DEFAULT 0"]),
    "cg_version bigint NOT NULL",
    "cg_prev bigint NOT NULL DEFAULT 0",
    "cg_seen bigint[]",
  ];
  const relation = qualified(schema, table.name);
  await db.query(`
    CREATE SCHEMA IF NOT EXISTS ${identifier(schema)};
    CREATE TABLE ${relation} (${table.definition}, ${state.join(", ")}, PRIMARY KEY (${list(table.key)}));
    CREATE TABLE coregent.${identifier(tombstone)} AS
      SELECT ${list(table.key)} FROM ${relation} WITH NO DATA;
    ALTER TABLE coregent.${identifier(tombstone)} ADD PRIMARY KEY (${list(table.key)});
    ALTER TABLE coregent.${identifier(tombstone)} ${state.map((column) => `ADD ${column}`).join(", ")};
    ALTER PUBLICATION coregent ADD TABLE ${relation}, coregent.${identifier(tombstone)};`);
  await db.query(
    `INSERT INTO coregent.replicated_table (name, schema_name, table_name, tombstone, key_columns, owner_column)
     VALUES ($1, $2, $3, $4, $5, $6)`,
    [`${schema}.${table.name}`, schema, table.name, tombstone, table.key, table.owner ?? null],
  );
  const tables = await readTables(await db.connect());
  return tables.find((other) => other.name === `${schema}.${table.name}`)!;
};

/** A version of region 1 unless told otherwise. */
export const versionOf = (micros: number, region = 1): bigint => (BigInt(micros) << 10n) | BigInt(region);
