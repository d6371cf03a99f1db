import type { Client } from "pg";
import { readForeignKeys, readTables, type ForeignKey } from "../postgres/catalog.ts";
import { connect } from "../postgres/client.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { HeldState } from "./verify-report.ts";
import {
  bucketRowsSql,
  bucketsSql,
  keysOfHashesSql,
  orphansSql,
  statesSql,
  tombstoneCountSql,
  unsweptSql,
  type ScanShape,
} from "./verify-sql.ts";

/** A region to be compared. */
export interface VerifyRegion {
  readonly name: string;
  readonly id: number;
  /** Of its PostgreSQL; holds a password. */
  readonly url: string;
}

export interface Bucket {
  readonly rows: bigint;
  readonly hash: bigint;
}

/** What one region holds of one table. */
export interface TableScan {
  readonly buckets: ReadonlyMap<number, Bucket>;
  readonly tombstones: bigint;
  readonly quarantined: bigint;
  /** Keys that are quarantined, or visible although a tombstone outranks them. */
  readonly suspects: readonly string[];
}

export interface Progress {
  readonly incarnation: string;
  readonly lsn: bigint;
}

/** Reads states in one region's database. One statement at a time; nothing is locked or changed. */
export class RegionReader implements AsyncDisposable {
  readonly region: VerifyRegion;
  readonly tables: ReadonlyMap<string, ReplicatedTable>;
  readonly #client: Client;

  private constructor(region: VerifyRegion, client: Client, tables: readonly ReplicatedTable[]) {
    this.region = region;
    this.#client = client;
    this.tables = new Map(tables.map((table) => [table.name, table]));
  }

  static async open(region: VerifyRegion, connectTimeoutMs: number): Promise<RegionReader> {
    const client = await connect(region.url, {
      applicationName: `coregent verify ${region.name}`,
      connectTimeoutMs,
      settings: { default_transaction_read_only: "on", work_mem: "64MB" },
    });
    try {
      return new RegionReader(region, client, await readTables(client));
    } catch (error) {
      await client.end().catch(() => undefined);
      throw error;
    }
  }

  async scan(shape: ScanShape, maxSuspects: number): Promise<TableScan> {
    const { name } = shape.table;
    const buckets = await this.#client.query<{ bucket: number; rows: string; hash: string }>(
      bucketsSql(shape),
    );
    const tombstones = await this.#client.query<{ count: string }>(tombstoneCountSql(shape.table));
    const unswept = await this.#client.query<{ key: string }>(unsweptSql(shape.table), [maxSuspects + 1]);
    const quarantined = await this.#client.query<{ key: string; count: string }>(
      `SELECT key, (count(*) OVER ())::text AS count FROM coregent.quarantine WHERE table_name = $1 LIMIT $2`,
      [name, maxSuspects + 1],
    );
    return {
      buckets: new Map(
        buckets.rows.map((row) => [row.bucket, { rows: BigInt(row.rows), hash: BigInt(row.hash) }]),
      ),
      tombstones: BigInt(tombstones.rows[0]?.count ?? 0),
      quarantined: BigInt(quarantined.rows[0]?.count ?? 0),
      suspects: [...unswept.rows, ...quarantined.rows].map((row) => row.key),
    };
  }

  /** The rows of some buckets: hash of key -> sum of the hashes of what is held. */
  async bucketRows(shape: ScanShape, buckets: readonly number[]): Promise<Map<string, bigint>> {
    const result = await this.#client.query<{ key: string; state: string }>(bucketRowsSql(shape), [buckets]);
    const rows = new Map<string, bigint>();
    for (const row of result.rows) rows.set(row.key, (rows.get(row.key) ?? 0n) + BigInt(row.state));
    return rows;
  }

  async keysOfHashes(shape: ScanShape, hashes: readonly string[]): Promise<string[]> {
    const result = await this.#client.query<{ key: string }>(keysOfHashesSql(shape), [hashes]);
    return result.rows.map((row) => row.key);
  }

  /** What is held of each of the keys; all keys are in the answer. */
  async states(shape: ScanShape, keys: readonly string[]): Promise<Map<string, HeldState>> {
    const result = await this.#client.query<StateRow>(statesSql(shape), [`[${keys.join(",")}]`]);
    return new Map(result.rows.map((row) => [row.key, heldState(row, shape.content !== null)]));
  }

  async orphans(
    table: ReplicatedTable,
    key: ForeignKey,
    limit: number,
  ): Promise<{ count: bigint; keys: string[] }> {
    const result = await this.#client.query<{ count: string; keys: string[] }>(orphansSql(table, key), [
      limit,
    ]);
    return { count: BigInt(result.rows[0]?.count ?? 0), keys: result.rows[0]?.keys ?? [] };
  }

  async foreignKeys(tables: readonly string[]): Promise<ForeignKey[]> {
    return await readForeignKeys(this.#client, tables);
  }

  /** Tables that are still being copied from some peer. */
  async resyncing(): Promise<Set<string>> {
    const result = await this.#client.query<{ name: string }>(
      "SELECT DISTINCT table_name AS name FROM coregent.table_sync",
    );
    return new Set(result.rows.map((row) => row.name));
  }

  /** Where this region's WAL is now: what was committed before is before it. */
  async position(): Promise<Progress> {
    const result = await this.#client.query<{ incarnation: string; lsn: string }>(
      "SELECT incarnation, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text AS lsn FROM coregent.local",
    );
    return { incarnation: result.rows[0]?.incarnation ?? "", lsn: BigInt(result.rows[0]?.lsn ?? 0) };
  }

  /** How far this region has merged each origin's stream. */
  async progress(): Promise<Map<number, Progress>> {
    const result = await this.#client.query<{ origin: number; incarnation: string; lsn: string }>(
      "SELECT origin, incarnation, (lsn - '0/0'::pg_lsn)::text AS lsn FROM coregent.progress",
    );
    return new Map(
      result.rows.map((row) => [row.origin, { incarnation: row.incarnation, lsn: BigInt(row.lsn) }]),
    );
  }

  /** Ends the session, also in the middle of a statement. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.end().catch(() => undefined);
  }

  /** For an interruption: the statement that runs fails at once. */
  destroy(): void {
    this.#client.connection.stream.destroy();
  }
}

interface StateRow {
  key: string;
  row_version: string | null;
  row_base: string;
  content: string;
  tombstone_version: string | null;
  tombstone_base: string;
  quarantine_version: string | null;
  quarantine_base: string | null;
}

interface Ranked {
  readonly base: bigint;
  readonly version: bigint;
}

const ranked = (base: string | null, version: string | null): Ranked | null =>
  version === null ? null : { base: BigInt(base ?? 0), version: BigInt(version) };

/** The order of states; null is below all. */
export const isHigher = (a: Ranked | null, b: Ranked | null): boolean => {
  if (a === null) return false;
  return b === null || a.base > b.base || (a.base === b.base && a.version > b.version);
};

const heldState = (fields: StateRow, deep: boolean): HeldState => {
  const row = ranked(fields.row_base, fields.row_version);
  const tombstone = ranked(fields.tombstone_base, fields.tombstone_version);
  const quarantined = ranked(fields.quarantine_base, fields.quarantine_version);
  const outranked = isHigher(tombstone, row);
  const merged = outranked ? tombstone : row;
  const visible = {
    visible: row?.version ?? null,
    visibleBase: row?.base ?? 0n,
    content: deep && row !== null ? fields.content : null,
  };
  if (isHigher(quarantined, merged) && quarantined !== null) {
    return { kind: "quarantined", ...quarantined, ...visible };
  }
  if (merged === null) return { kind: "absent", base: 0n, version: 0n, ...visible };
  if (!outranked) return { kind: "row", ...merged, ...visible };
  return { kind: row === null ? "tombstone" : "unswept", ...merged, ...visible };
};
