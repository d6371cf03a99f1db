import type { Client } from "pg";
import { pinnedSettings } from "../../src/postgres/client.ts";
import { type Catalog, readCatalog } from "../../src/write/catalog.ts";
import { sessionSql } from "../../src/write/connections.ts";
import type {
  InsertOperation,
  JsonValue,
  Operation,
  OperationResult,
  RowValues,
  SelectOperation,
} from "../../src/write/operation.ts";
import { runOperations } from "../../src/write/run-operations.ts";
import { install, owned } from "../postgres/install/installed.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";

export const row = (values: Record<string, JsonValue>): RowValues => new Map(Object.entries(values));

export const insert = (table: string, ...rows: readonly Record<string, JsonValue>[]): InsertOperation => ({
  kind: "insert",
  table,
  rows: rows.map(row),
  returning: null,
});

export const select = (table: string, changes: Partial<SelectOperation> = {}): SelectOperation => ({
  kind: "select",
  table,
  key: null,
  columns: null,
  filters: [],
  order: [],
  limit: 100,
  offset: 0,
  after: null,
  count: false,
  ...changes,
});

/** A master with the schema given, installed as the region moldova, and a session as the writer has them. */
export class Master implements AsyncDisposable {
  readonly db: TestDatabase;
  readonly client: Client;
  catalog: Catalog;

  constructor(db: TestDatabase, client: Client, catalog: Catalog) {
    this.db = db;
    this.client = client;
    this.catalog = catalog;
  }

  /** Runs operations in one transaction. */
  async run(...operations: readonly Operation[]): Promise<OperationResult[]> {
    await this.client.query("BEGIN");
    try {
      const results = await runOperations(this.client, this.catalog, operations);
      await this.client.query("COMMIT");
      return results;
    } catch (error) {
      await this.client.query("ROLLBACK");
      throw error;
    }
  }

  /** The rows of one operation, parsed. */
  async rows(operation: Operation): Promise<unknown[]> {
    const [result] = await this.run(operation);
    return (result?.rows ?? []).map((text) => JSON.parse(text) as unknown);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.db[Symbol.asyncDispose]();
  }
}

export const createMaster = async (
  schema: string,
  owners: Readonly<Record<string, string>> = {},
): Promise<Master> => {
  const db = await createDatabase({ prefix: "write" });
  await db.query(schema);
  const tables = Object.entries(owners).map(([table, owner]) => owned(table, owner));
  await install(db, { tables });
  const client = await db.connect();
  for (const [name, value] of Object.entries({ ...pinnedSettings, search_path: '"$user", public' })) {
    await client.query("SELECT set_config($1, $2, false) FROM pg_settings WHERE lower(name) = lower($1)", [
      name,
      value,
    ]);
  }
  await client.query(sessionSql);
  return new Master(db, client, await readCatalog(client, "moldova"));
};
