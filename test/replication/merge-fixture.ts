import { Buffer } from "node:buffer";
import type { State } from "../../conflict/state.ts";
import { readTables } from "../../src/postgres/catalog.ts";
import type { PostgresVersion } from "../../src/embedded/binaries.ts";
import { functionsSql } from "../../src/postgres/install/functions.ts";
import { migrations } from "../../src/postgres/install/migrations.ts";
import { takeUpTable, type WantedTable } from "../../src/postgres/install/table.ts";
import type { ReplicatedTable } from "../../src/postgres/table.ts";
import type { TableBatch } from "../../src/replication/batch.ts";
import { collapse } from "../../src/replication/collapse.ts";
import { layoutOf, shapeOf } from "../../src/replication/layout.ts";
import { MergeSession } from "../../src/replication/merge-session.ts";
import { StateBuffer } from "../../src/replication/state-buffer.ts";
import type { StateFormat, StateKind } from "../../src/replication/states.ts";
import { createDatabase, dropOrigins, uniqueName, type TestDatabase } from "../support/database.ts";

/** A region's database with tables taken up, and sessions that merge into it. */
export class MergeRegion implements AsyncDisposable {
  readonly db: TestDatabase;
  readonly id: number;
  readonly cluster = uniqueName("m");
  readonly #version: PostgresVersion;
  readonly #sessions: MergeSession[] = [];
  #tables: ReplicatedTable[] = [];

  private constructor(db: TestDatabase, id: number, version: PostgresVersion) {
    this.db = db;
    this.id = id;
    this.#version = version;
  }

  /** `schema` makes tables in schema `public`, which `owners` gives owner columns. */
  static async create(options: {
    readonly schema: string;
    readonly owners?: Readonly<Record<string, string>>;
    readonly regionId?: number;
    readonly version?: PostgresVersion;
  }): Promise<MergeRegion> {
    const { regionId = 1, version = 18, owners = {} } = options;
    const db = await createDatabase({ version });
    const region = new MergeRegion(db, regionId, version);
    for (const { sql } of migrations) await db.query(sql);
    for (const sql of functionsSql(regionId)) await db.query(sql);
    await db.query(options.schema);
    await region.#takeUp(owners);
    return region;
  }

  async #takeUp(owners: Readonly<Record<string, string>>): Promise<void> {
    const tables = await this.db.query<{ name: string; key: string[]; partitioned: boolean }>(
      `SELECT c.relname AS name, c.relkind = 'p' AS partitioned,
              array(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY k(n, o)
                      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n ORDER BY o) AS key
         FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
        WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition`,
    );
    const log = await this.db.query<{ key: string[] }>(
      `SELECT array(SELECT a.attname::text FROM unnest(indkey) WITH ORDINALITY k(n, o)
                      JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = k.n ORDER BY o) AS key
         FROM pg_index WHERE indrelid = 'coregent.conflict'::regclass AND indisprimary`,
    );
    const wanted = (schema: string, table: string): Omit<WantedTable, "key" | "partitioned"> => ({
      name: `${schema}.${table}`,
      schema,
      table,
      ownerColumn: owners[table] ?? null,
      failover: "takeover",
      conflictPolicy: "latest",
      logsConflicts: schema !== "coregent",
    });
    const client = await this.db.connect();
    const region = { id: this.id, name: `r${this.id}` };
    const all: WantedTable[] = [
      { ...wanted("coregent", "conflict"), key: log[0]?.key ?? [], partitioned: false },
      ...tables.map(({ name, key, partitioned }) => ({ ...wanted("public", name), key, partitioned })),
    ];
    for (const table of all) {
      await client.query("BEGIN");
      await takeUpTable(client, table, { region, definition: "" });
      await client.query("COMMIT");
    }
    this.#tables = await readTables(client);
  }

  table(name: string): ReplicatedTable {
    const table = this.#tables.find((each) => each.table === name);
    if (table === undefined) throw new Error(`no table ${name}`);
    return table;
  }

  get tables(): readonly ReplicatedTable[] {
    return this.#tables;
  }

  async session(
    options: { readonly origin?: number | null; readonly settings?: Record<string, string> } = {},
  ) {
    const origin = options.origin === undefined ? 2 : options.origin;
    const session = await MergeSession.open(this.db.url, {
      applicationName: `merge ${origin ?? "none"}`,
      origin: origin === null ? null : `coregent_${this.cluster}_${origin}`,
      ...(options.settings === undefined ? {} : { settings: options.settings }),
    });
    this.#sessions.push(session);
    return session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions) await session[Symbol.asyncDispose]();
    try {
      await dropOrigins(this.cluster, this.#version);
    } finally {
      await this.db[Symbol.asyncDispose]();
    }
  }
}

/** A field's text; null: NULL; undefined: the column is not carried ("absent"). */
export type Fields = Readonly<Record<string, string | null>>;

const int8 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(value);
  return bytes;
};

const int8Array = (values: readonly bigint[]): Buffer => {
  const header = Buffer.alloc(20);
  for (const [index, value] of [1, 0, 20, values.length, 1].entries()) header.writeInt32BE(value, index * 4);
  return Buffer.concat([header, ...values.flatMap((v) => [Buffer.from([0, 0, 0, 8]), int8(v)])]);
};

const stampFields = (state: State, format: StateFormat): Record<string, Buffer | null> => {
  const encode = (value: bigint): Buffer => (format === "binary" ? int8(value) : Buffer.from(String(value)));
  const { seen } = state;
  return {
    cg_version: encode(state.version),
    cg_base: encode(state.base),
    cg_prev: encode(state.prev),
    cg_seen:
      seen === null ? null : format === "binary" ? int8Array(seen) : Buffer.from(`{${seen.join(",")}}`),
  };
};

/** One state with its fields: of text types as text, of others as raw bytes in the format. */
export interface Given {
  readonly state: State;
  readonly fields: Readonly<Record<string, string | Buffer | null>>;
  /** Columns that the WAL did not hold. */
  readonly unchanged?: readonly string[];
}

/** What a link's inbox would make of these changes of one table. */
export const batchOf = (
  table: ReplicatedTable,
  given: readonly Given[],
  format: StateFormat = "binary",
): TableBatch => {
  const buffers: Record<StateKind, StateBuffer> = {
    row: new StateBuffer(layoutOf(table, "row", format)),
    tombstone: new StateBuffer(layoutOf(table, "tombstone", format)),
  };
  for (const { state, fields, unchanged = [] } of given) {
    const buffer = buffers[state.kind];
    const { layout } = buffer;
    const stamp = stampFields(state, format);
    const values = layout.columns.map(({ name }) => {
      const value = name in stamp ? stamp[name] : fields[name];
      return typeof value === "string" ? Buffer.from(value) : (value ?? null);
    });
    const lengths = Int32Array.from(values, (value) => value?.length ?? -1);
    const offsets = new Int32Array(values.length);
    let at = 0;
    for (const [index, value] of values.entries()) {
      offsets[index] = at;
      at += value?.length ?? 0;
    }
    const position = (name: string): number => layout.columns.findIndex((column) => column.name === name);
    const absent = layout.columns.flatMap(({ name, generated }, index) =>
      name in stamp || name in fields || generated || unchanged.includes(name) ? [] : [index],
    );
    const shape = shapeOf(
      layout,
      state.kind === "row" ? absent : [],
      unchanged.map(position).sort((a, b) => a - b),
    );
    buffer.append(
      Buffer.concat(values.filter((v) => v !== null)),
      { offsets, lengths, bytes: at },
      Int32Array.from(values.keys()),
      shape,
    );
  }
  return collapse(buffers.row, buffers.tombstone);
};
