import type { Client, CustomTypesConfig } from "pg";
import { identifier } from "../postgres/identifiers.ts";
import type { ReplicatedTable } from "../postgres/table.ts";
import type { TableBatch } from "./batch.ts";
import { readLsn } from "./lsn.ts";
import { keysOf } from "./merge-keys.ts";
import { relationOf, sameKey } from "./merge-sql.ts";
import { StateBuilder } from "./state-builder.ts";
import type { StateKind, StateSet } from "./states.ts";

/** States as their source holds them now, whole. */
export interface Fetched {
  /** Rows, and tombstones. */
  readonly parts: readonly TableBatch[];
  /**
   * The source's WAL position after they were read. What they came with is before it, so the stream must be merged
   * up to here in the same transaction.
   */
  readonly position: bigint;
}

/**
 * Reads the states of these keys at the source, none of them older than those in `wanted`.
 * @throws FetchedTooOld when the source keeps giving older ones.
 */
export type FetchStates = (wanted: StateSet) => Promise<Fetched>;

/**
 * The source has sent a change that its sessions do not show: it waits for a synchronous standby, or was
 * restored from a backup. Tried again.
 */
export class FetchedTooOld extends Error {
  readonly reaction = "retry";
  constructor(table: string) {
    super(`${table}: the source shows rows older than the changes that it has sent`);
  }
}

export interface FetchOptions {
  /** An ordinary session with the source, with pinned settings (client.ts). Not shared with another transaction. */
  readonly client: Client;
  /** Waits a little before the states are read again. */
  readonly pause: (ms: number) => Promise<void>;
  readonly attempts?: number;
}

/** All values as the text that the server sends. */
const asText: CustomTypesConfig = { getTypeParser: () => (value: string | Buffer) => String(value) };

export const fetchFrom =
  ({ client, pause, attempts = 8 }: FetchOptions): FetchStates =>
  async (wanted) => {
    for (let attempt = 1; ; attempt++) {
      const read = await readBoth(client, wanted);
      if (read.upToDate) {
        const position = await readLsn(client, "SELECT pg_current_wal_insert_lsn()::text AS lsn");
        return { parts: read.parts, position };
      }
      if (attempt === attempts) throw new FetchedTooOld(wanted.table.name);
      await pause(10 * 2 ** attempt);
    }
  };

/** Rows and tombstones in one snapshot: else a key that is deleted in between would seem to have neither. */
const readBoth = async (
  client: Client,
  wanted: StateSet,
): Promise<{ readonly parts: readonly TableBatch[]; readonly upToDate: boolean }> => {
  const versions = new Map<number, readonly [base: bigint, version: bigint]>();
  await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
  try {
    const parts: TableBatch[] = [];
    for (const kind of ["row", "tombstone"] as const)
      parts.push(await read(client, wanted, { kind, versions }));
    const upToDate = Array.from({ length: wanted.count }, (_, index) => index).every((index) => {
      const [base, version] = versions.get(index) ?? [-1n, 0n];
      return base > wanted.base(index) || (base === wanted.base(index) && version >= wanted.version(index));
    });
    return { parts, upToDate };
  } finally {
    await client.query("COMMIT");
  }
};

/** Columns that the source has: those of the states, carried and unchanged. A tombstone has but the key. */
const columnsToRead = (wanted: StateSet, kind: StateKind): string[] =>
  (kind === "row" ? [...wanted.columns, ...wanted.unchanged] : wanted.table.tombstoneColumns).map(
    (column) => column.name,
  );

interface Reading {
  readonly kind: StateKind;
  /** By number of the wanted state: the highest that was read. */
  readonly versions: Map<number, readonly [base: bigint, version: bigint]>;
}

const read = async (client: Client, wanted: StateSet, { kind, versions }: Reading): Promise<TableBatch> => {
  const { table } = wanted;
  const columns = columnsToRead(wanted, kind);
  const keys = keysOf(wanted);
  const { rows } = await client.query<(string | null)[]>({
    text: selectSql(table, { kind, columns, from: keys.numbered }),
    values: [...keys.values],
    rowMode: "array",
    types: asText,
  });
  const builder = new StateBuilder(table, { kind, format: "text", columns });
  const position = (name: string): number => columns.indexOf(name);
  for (const [index, ...values] of rows) {
    const base = BigInt(values[position("cg_base")] ?? 0);
    const version = BigInt(values[position("cg_version")] ?? 0);
    const at = Number(index) - 1;
    const [otherBase, otherVersion] = versions.get(at) ?? [-1n, 0n];
    if (base > otherBase || (base === otherBase && version > otherVersion)) versions.set(at, [base, version]);
    builder.addText(values);
  }
  return builder.take();
};

interface Selection {
  readonly kind: StateKind;
  readonly columns: readonly string[];
  readonly from: string;
}

const selectSql = (table: ReplicatedTable, { kind, columns, from }: Selection): string => {
  return `SELECT k.cg_index, ${columns.map((name) => `s.${identifier(name)}`).join(", ")}
  FROM ${from} JOIN ${relationOf(table, kind)} AS s ON ${sameKey(table, "s", "k")}`;
};
