import { Buffer } from "node:buffer";
import * as fc from "fast-check";
import type { Client } from "pg";
import { to as copyTo } from "pg-copy-streams";
import { describe, expect, test } from "vitest";
import { list } from "../../src/postgres/identifiers.ts";
import type { ReplicatedTable } from "../../src/postgres/table.ts";
import { CopyTuples, StateBuilder } from "../../src/replication/state-builder.ts";
import type { StateFormat, StateSet } from "../../src/replication/states.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { addTable, prepare, versionOf } from "./fixture.ts";

const count = 50;

const filled = async (db: TestDatabase): Promise<ReplicatedTable> => {
  await prepare(db);
  const table = await addTable(db, {
    name: "t",
    key: ["k", "id"],
    owner: "home",
    definition: `id int, home text, k varchar(20), doc jsonb, gen int GENERATED ALWAYS AS (id * 2) STORED`,
  });
  await db.query(
    `INSERT INTO t (id, home, k, doc, cg_base, cg_version, cg_prev, cg_seen)
     SELECT i, CASE WHEN i % 3 > 0 THEN 'r"\\' || i END, 'k' || i % 7, jsonb_build_object('é', i), i, (i::bigint << 10) + 1,
            i * 2, CASE WHEN i % 2 = 0 THEN ARRAY[i, i + 1]::bigint[] END
       FROM generate_series(1, $1::int) AS i`,
    [count],
  );
  return table;
};

const columns = ["id", "home", "k", "doc", "cg_base", "cg_version", "cg_prev", "cg_seen"];

const builderOf = (table: ReplicatedTable, format: StateFormat): StateBuilder =>
  new StateBuilder(table, { kind: "row", format, columns });

/** All rows as text, as a fetch by key gets them. */
const fetchText = async (client: Client, table: ReplicatedTable): Promise<StateSet> => {
  const builder = builderOf(table, "text");
  const { rows } = await client.query<(string | null)[]>({
    text: `SELECT ${columns.map((name) => `${name}::text`).join(", ")} FROM t`,
    rowMode: "array",
  });
  rows.forEach((row) => builder.addText(row));
  return builder.take().rows;
};

const fetchCopied = async (client: Client, table: ReplicatedTable): Promise<StateSet> => {
  const builder = builderOf(table, "binary");
  const tuples = new CopyTuples();
  const stream = client.query(copyTo(`COPY (SELECT ${list(columns)} FROM t) TO STDOUT (FORMAT binary)`));
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    tuples.push(chunk, (tuple) => builder.addCopied(tuple));
  }
  expect(tuples.complete).toBe(true);
  expect(builder.count).toBe(count);
  return builder.take().rows;
};

const idsOf = (set: StateSet): number[] =>
  Array.from({ length: set.count }, (_, i) => {
    const field = set.field(i, "id")!;
    return set.format === "binary" ? field.readInt32BE() : Number(field.toString());
  });

describe.each([
  { format: "binary" as const, fetch: fetchCopied },
  { format: "text" as const, fetch: fetchText },
])("a set of $format states", ({ fetch, format }) => {
  test("is one parameter, and so are its parts", async () => {
    await using db = await createDatabase();
    const table = await filled(db);
    const client = await db.connect();
    const set = await fetch(client, table);
    expect(set).toMatchObject({ count, format, kind: "row", unchanged: [] });
    expect(set.columns.map(({ name }) => name)).not.toContain("gen");
    const ids = idsOf(set);
    const parts = [
      { part: set, of: ids },
      { part: set.slice(0, 20), of: ids.slice(0, 20) },
      { part: set.slice(20, count), of: ids.slice(20) },
      { part: set.slice(10, 30).slice(5, 6), of: ids.slice(15, 16) },
      { part: set.pick([0, 1, 7, 8, 49]), of: [0, 1, 7, 8, 49].map((i) => ids[i]) },
      { part: set.slice(3, 3), of: [] },
    ];
    for (const { part, of } of parts) {
      const read = await db.query(
        `SELECT x.id, x.gen, ${columns.map((name) => `x.${name} IS NOT DISTINCT FROM t.${name}`).join(" AND ")} AS same
           FROM ${part.source(1)} WITH ORDINALITY AS x JOIN t USING (id) ORDER BY x.ordinality`,
        [part.value()],
      );
      expect(read).toEqual(of.map((id) => ({ id, gen: null, same: true })));
    }
  });

  test("tells what each state is", async () => {
    await using db = await createDatabase();
    const table = await filled(db);
    const set = await fetch(await db.connect(), table);
    for (const [i, id] of idsOf(set).entries()) {
      expect({
        version: set.version(i),
        base: set.base(i),
        prev: set.prev(i),
        since: set.unchangedSince(i),
        seen: set.seen(i),
      }).toEqual({
        version: versionOf(id),
        base: BigInt(id),
        prev: BigInt(id * 2),
        since: BigInt(id * 2),
        seen: id % 2 === 0 ? [BigInt(id), BigInt(id + 1)] : [],
      });
    }
    expect(() => set.version(count)).toThrow(RangeError);
    expect(() => set.field(0, "none")).toThrow(RangeError);
  });

  test("gives single columns as parameters, NULLs included", async () => {
    await using db = await createDatabase();
    const table = await filled(db);
    const set = (await fetch(await db.connect(), table)).slice(5, 25);
    const read = await db.query(
      `SELECT x.id, t.home IS NOT DISTINCT FROM x.home AS same
         FROM unnest(${set.columnSource("id", 1)}, ${set.columnSource("home", 2)}) WITH ORDINALITY AS x(id, home)
         JOIN t USING (id) ORDER BY x.ordinality`,
      [set.columnValue("id"), set.columnValue("home")],
    );
    expect(read).toEqual(idsOf(set).map((id) => ({ id, same: true })));
  });
});

test("the keys of rows and of tombstones have one order and one identity", async () => {
  await using db = await createDatabase();
  const table = await filled(db);
  const rows = await fetchText(await db.connect(), table);
  const builder = new StateBuilder(table, {
    kind: "tombstone",
    format: "text",
    columns: ["id", "k", "cg_base", "cg_version", "cg_prev", "cg_seen"],
  });
  for (const id of idsOf(rows).reverse()) {
    builder.addText([String(id), `k${id % 7}`, "0", String(versionOf(1)), "0", null]);
  }
  const { tombstones } = builder.take();
  const keys = (set: StateSet): string[] => Array.from({ length: set.count }, (_, i) => set.keyId(i));
  expect(keys(tombstones)).toEqual(keys(rows));
  expect(keys(rows)).toEqual([...keys(rows)].sort());
});

test("of several states of a key the highest stays, and a builder starts afresh after each take", async () => {
  await using db = await createDatabase();
  const table = await filled(db);
  const builder = builderOf(table, "text");
  const add = (base: number, version: number): void =>
    builder.addText(["1", null, "k", "{}", String(base), String(version), "0", null]);
  add(1, 9);
  add(2, 5);
  add(2, 4);
  const { rows } = builder.take();
  expect([rows.count, rows.base(0), rows.version(0)]).toEqual([1, 2n, 5n]);
  expect(builder.count).toBe(0);
  expect(builder.take().rows.count).toBe(0);
});

test("a binary COPY is cut into the same tuples wherever its chunks end", () => {
  const field = fc.option(fc.uint8Array({ maxLength: 20 }), { nil: null });
  const tuple = fc.array(field, { maxLength: 4 });
  const encode = (fields: readonly (Uint8Array | null)[]): Buffer => {
    const parts: Buffer[] = [Buffer.alloc(2)];
    parts[0]!.writeInt16BE(fields.length);
    for (const each of fields) {
      const length = Buffer.alloc(4);
      length.writeInt32BE(each?.length ?? -1);
      parts.push(length, Buffer.from(each ?? []));
    }
    return Buffer.concat(parts);
  };
  fc.assert(
    fc.property(
      fc.array(tuple, { maxLength: 10 }),
      fc.array(fc.integer({ min: 1, max: 30 })),
      (tuples, sizes) => {
        const header = Buffer.concat([Buffer.from("PGCOPY\n\u{ff}\r\n\0", "latin1"), Buffer.alloc(8)]);
        const expected = tuples.map(encode);
        const data = Buffer.concat([header, ...expected, Buffer.from([0xff, 0xff])]);
        const cutter = new CopyTuples();
        const got: string[] = [];
        let at = 0;
        for (const size of [...sizes, data.length]) {
          expect(cutter.complete).toBe(at >= data.length);
          // The memory of a chunk is used again.
          const chunk = Buffer.from(data.subarray(at, at + size));
          cutter.push(chunk, (bytes) => got.push(bytes.toString("hex")));
          chunk.fill(0xee);
          at += size;
        }
        expect(cutter.complete).toBe(true);
        expect(got).toEqual(expected.map((bytes) => bytes.toString("hex")));
      },
    ),
  );
  expect(() => new CopyTuples().push(Buffer.alloc(30), () => undefined)).toThrow("not the data");
});
