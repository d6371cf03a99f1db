import { Buffer } from "node:buffer";
import type { Column, ReplicatedTable } from "../../src/postgres/table.ts";
import { postgresEpoch } from "../../src/replication/commit-point.ts";

/** Writes what pgoutput sends, for tests that need no server. */

const int16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
};
const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};
export const int64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(value);
  return bytes;
};
const name = (text: string): Buffer => Buffer.from(`${text}\0`);

export const begin = (finalLsn: bigint, micros: bigint): Buffer =>
  Buffer.concat([Buffer.from("B"), int64(finalLsn), int64(micros - postgresEpoch), int32(7)]);

export const commit = (endLsn: bigint): Buffer =>
  Buffer.concat([Buffer.from("C\0"), int64(endLsn - 8n), int64(endLsn), int64(0n)]);

export const streamStart = (xid: number): Buffer =>
  Buffer.concat([Buffer.from("S"), int32(xid), Buffer.from([1])]);

export const streamStop = (): Buffer => Buffer.from("E");

export const streamCommit = (xid: number, endLsn: bigint): Buffer =>
  Buffer.concat([
    Buffer.from("c"),
    int32(xid),
    Buffer.from([0]),
    int64(endLsn - 8n),
    int64(endLsn),
    int64(0n),
  ]);

export interface RelationMessage {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly identity?: string;
  readonly columns: readonly { readonly name: string; readonly typeOid: number; readonly key?: boolean }[];
}

export const relation = (message: RelationMessage): Buffer =>
  Buffer.concat([
    Buffer.from("R"),
    int32(message.oid),
    name(message.schema),
    name(message.name),
    Buffer.from(message.identity ?? "d"),
    int16(message.columns.length),
    ...message.columns.map((column) =>
      Buffer.concat([
        Buffer.from([column.key === true ? 1 : 0]),
        name(column.name),
        int32(column.typeOid),
        int32(-1),
      ]),
    ),
  ]);

export const typeMessage = (oid: number, schema: string, typeName: string): Buffer =>
  Buffer.concat([Buffer.from("Y"), int32(oid), name(schema), name(typeName)]);

/** Null is NULL, undefined an unchanged TOAST column; a string is sent as text. */
export type Value = Buffer | string | null | undefined;

const tuple = (values: readonly Value[]): Buffer =>
  Buffer.concat([
    int16(values.length),
    ...values.map((value) => {
      if (value === null || value === undefined) {
        return Buffer.from(value === null ? "n" : "u");
      }
      const bytes = Buffer.from(value as string);
      return Buffer.concat([Buffer.from(typeof value === "string" ? "t" : "b"), int32(bytes.length), bytes]);
    }),
  ]);

export const insert = (oid: number, values: readonly Value[]): Buffer =>
  Buffer.concat([Buffer.from("I"), int32(oid), Buffer.from("N"), tuple(values)]);

export const update = (
  oid: number,
  values: readonly Value[],
  old?: { readonly kind: "K" | "O"; readonly values: readonly Value[] },
): Buffer =>
  Buffer.concat([
    Buffer.from("U"),
    int32(oid),
    ...(old === undefined ? [] : [Buffer.from(old.kind), tuple(old.values)]),
    Buffer.from("N"),
    tuple(values),
  ]);

const column = (columnName: string, typeOid: number, typeName: string): Column => ({
  name: columnName,
  typeOid,
  type: typeName,
  typeSchema: "pg_catalog",
  typeName,
  notNull: false,
  generated: false,
});

/** A table (id bytea, big text, owner text) with owners, as the catalog would show it. */
export const sampleTable = (tableName = "t"): ReplicatedTable => {
  const state = [
    ...["cg_base", "cg_version", "cg_prev"].map((each) => column(each, 20, "int8")),
    column("cg_seen", 1016, "_int8"),
  ];
  const id = column("id", 17, "bytea");
  return {
    name: `public.${tableName}`,
    schema: "public",
    table: tableName,
    partitioned: false,
    columns: [id, column("big", 25, "text"), column("owner", 25, "text"), ...state],
    key: ["id"],
    ownerColumn: "owner",
    failover: "takeover",
    tombstone: `tombstone_${tableName}`,
    tombstoneColumns: [id, ...state],
    logsConflicts: true,
  };
};

/** Describes both relations of a table as its source would, with OIDs 1 (rows) and 2 (tombstones) above `oid`. */
export const describeTable = (table: ReplicatedTable, oid = 0): Buffer[] => {
  const columnsOf = (columns: readonly Column[]): RelationMessage["columns"] =>
    columns.map((each) => ({ name: each.name, typeOid: each.typeOid, key: table.key.includes(each.name) }));
  return [
    relation({ oid: oid + 1, schema: table.schema, name: table.table, columns: columnsOf(table.columns) }),
    relation({
      oid: oid + 2,
      schema: "coregent",
      name: table.tombstone,
      columns: columnsOf(table.tombstoneColumns),
    }),
  ];
};
