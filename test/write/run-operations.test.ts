import { describe, expect, test } from "vitest";
import { parseJson } from "../../src/write/exact-json.ts";
import type { JsonValue, Operation, UpsertOperation } from "../../src/write/operation.ts";
import { highestVersion, resultsFromJson, resultsToJson } from "../../src/write/operation.ts";
import { eventually } from "../support/eventually.ts";
import { createMaster, insert, row, select } from "./fixture.ts";

const json = (text: string): Record<string, JsonValue> =>
  parseJson(Buffer.from(text)) as Record<string, JsonValue>;

const upsert = (
  values: Record<string, JsonValue>,
  changes: Partial<UpsertOperation> = {},
): UpsertOperation => ({
  kind: "upsert",
  table: "t",
  rows: [row(values)],
  replace: false,
  ifMatch: null,
  ifNoneMatch: null,
  returning: null,
  ...changes,
});

const refused = (code: string, facts: object = {}): object =>
  expect.objectContaining({ code, facts: expect.objectContaining(facts) as object }) as object;

const everything = `
CREATE TYPE mood AS ENUM ('good', 'so "so"');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TYPE pair AS (a bigint, b text);
CREATE TABLE t (
  id bigint PRIMARY KEY, s smallint, n numeric, m numeric(20, 4), f float8, r real, b boolean, c char(4), v varchar(5),
  x text, y bytea, d date, ts timestamp, tz timestamptz, i interval, j json, jb jsonb, u uuid, e mood, p positive,
  pr pair, ba bigint[], na numeric[], ta text[], ja jsonb[], tza timestamptz[], rg int4range, bt bit(3),
  g int GENERATED ALWAYS AS (s + 1) STORED)`;

describe("values", () => {
  test("come back as they went, with every digit", async () => {
    await using master = await createMaster(everything);
    const text = `{"id":9223372036854775807,"s":-5,"n":12345678901234567890.1234567890,"m":1.50,"f":0.1,"r":1e-7,"b":true,
      "c":"ab","v":"héé","x":"a\\"b\\\\ \\u2028","y":"\\\\x00ff","d":"2026-02-28","ts":"2026-01-02T03:04:05.678901",
      "tz":"2026-01-02T03:04:05.678901+02:00","i":"1 day 02:00:00","j":{"a":[1.10,12345678901234567890]},"jb":[null,{"z":1}],
      "u":"0197e0c4-7f2a-7000-8000-000000000001","e":"so \\"so\\"","p":7,"pr":"(9223372036854775807,x)",
      "ba":[9223372036854775807,null],"na":[[1.10],[2.20]],"ta":["a,b","{}","\\"",null,"NULL"],"ja":[[1],{"a":1.0}],
      "tza":["2026-01-02T00:00:00Z"],"rg":"[1,3)","bt":"101"}`;
    const [result] = await master.run(insert("t", json(text)));
    expect(result?.keys).toEqual([["9223372036854775807"]]);
    const expected =
      `{"id":"9223372036854775807","s":-5,"n":"12345678901234567890.1234567890","m":"1.5000","f":0.1,"r":1e-07,"b":true,` +
      `"c":"ab  ","v":"héé","x":"a\\"b\\\\ \u2028","y":"\\\\x00ff","d":"2026-02-28","ts":"2026-01-02T03:04:05.678901",` +
      `"tz":"2026-01-02T01:04:05.678901+00:00","i":"1 day 02:00:00","j":{"a":[1.10,12345678901234567890]},` +
      `"jb":[null, {"z": 1}],"u":"0197e0c4-7f2a-7000-8000-000000000001","e":"so \\"so\\"","p":7,` +
      `"pr":{"a":9223372036854775807,"b":"x"},"ba":["9223372036854775807",null],"na":[["1.10"],["2.20"]],` +
      `"ta":["a,b","{}","\\"",null,"NULL"],"ja":[[1],{"a": 1.0}],"tza":["2026-01-02T00:00:00+00:00"],"rg":"[1,3)",` +
      `"bt":"101","g":-4}`;
    expect(result?.rows).toEqual([expected]);
    // Text that was read can be written again, and is then the same.
    const again = json(expected);
    const { g: _computed, pr: _composite, ...writable } = again;
    await master.run(upsert({ ...writable, pr: "(9223372036854775807,x)" }));
    expect((await master.run(select("t")))[0]?.rows).toEqual([expected]);
  });

  test("infinite, undefined and far", async () => {
    await using master = await createMaster(everything);
    const values = {
      id: 1,
      n: "NaN",
      f: "-Infinity",
      r: "NaN",
      d: "infinity",
      ts: "0044-03-15 12:00:00 BC",
      tz: "-infinity",
    };
    expect(await master.rows(insert("t", values))).toEqual([expect.objectContaining({ ...values, id: "1" })]);
    const far = { id: 2, d: "12026-01-02", ts: "12026-01-02 03:04:05", f: "1e300" };
    expect(await master.rows(insert("t", far))).toEqual([
      expect.objectContaining({ ...far, id: "2", f: 1e300 }),
    ]);
  });

  const wrong: readonly [values: Record<string, JsonValue>, code: string, sqlState?: string][] = [
    [{ id: "x" }, "value-invalid", "22P02"],
    [{ id: 1.5 }, "value-invalid", "22P02"],
    [{ id: "99999999999999999999" }, "value-invalid", "22003"],
    [{ id: 1, v: "too long" }, "value-invalid", "22001"],
    [{ id: 1, bt: "1" }, "value-invalid", "22026"],
    [{ id: 1, d: "2026-02-30" }, "value-invalid", "22008"],
    [{ id: 1, jb: { a: "\0" } }, "value-invalid", "22P05"],
    [{ id: 1, jb: "\ud800" }, "value-invalid", "22P02"],
    [{ id: 1, x: "\0" }, "value-invalid"],
    [{ id: 1, x: "\udfff" }, "value-invalid"],
    [{ id: 1, x: {} }, "value-invalid"],
    [{ id: 1, x: [] }, "value-invalid"],
    [{ id: 1, ba: [[1], [1, 2]] }, "value-invalid", "22P02"],
    [{ id: 1, p: 0 }, "check-violation", "23514"],
    [{ id: 1, e: "bad" }, "value-invalid", "22P02"],
    [{ id: null }, "not-null-violation", "23502"],
    [{ id: 1, g: 1 }, "column-not-writable"],
    [{ id: 1, cg_version: 1 }, "column-unknown"],
    [{ id: 1, 'a"; DROP TABLE t; --': 1 }, "column-unknown"],
  ];

  test("that do not fit are refused, and leave nothing", async () => {
    await using master = await createMaster(everything);
    for (const [values, code, sqlState] of wrong) {
      const facts = { region: "moldova", ...(sqlState === undefined ? {} : { sqlState }) };
      await expect(master.run(insert("t", values)), JSON.stringify(values)).rejects.toEqual(
        refused(code, facts),
      );
    }
    expect(await master.rows(select("t"))).toEqual([]);
  });
});

describe("inserts", () => {
  test("many rows of differing columns keep their order, take defaults, and are owned by the region that takes them", async () => {
    await using master = await createMaster(
      "CREATE TABLE t (id int PRIMARY KEY, a text DEFAULT 'none', home text, n serial)",
      { "public.t": "home" },
    );
    const rows = [
      { id: 3 },
      { id: 1, a: "x" },
      { id: 2, a: null },
      { id: 4, home: "argentina" },
      { id: 5, home: null },
    ];
    const [result] = await master.run(insert("public.t", ...rows));
    expect(result?.rows.map((text) => JSON.parse(text) as unknown)).toMatchObject([
      { id: 3, a: "none", home: "moldova" },
      { id: 1, a: "x", home: "moldova" },
      { id: 2, a: null, home: "moldova" },
      { id: 4, home: "argentina" },
      { id: 5, home: null },
    ]);
    expect(result?.versions.map(({ base, version }) => base === version)).toEqual([
      true,
      true,
      true,
      false,
      false,
    ]);
    expect(resultsFromJson(resultsToJson(result === undefined ? [] : [result]))).toEqual([result]);
  });

  test("a key that was deleted: the version is the one that the row ends with", async () => {
    await using master = await createMaster("CREATE TABLE t (id int PRIMARY KEY, v text)");
    await master.run(insert("t", { id: 1 }));
    const [deleted] = await master.run({
      kind: "delete",
      table: "t",
      key: ["1"],
      ifMatch: null,
      returning: null,
    });
    expect(deleted?.rows).toEqual(['{"id":1,"v":null}']);
    const [inserted] = await master.run(insert("t", { id: 1 }));
    const [stored] = await master.db.query<{ cg_version: string }>("SELECT cg_version FROM t");
    expect(inserted?.versions).toEqual([{ version: BigInt(stored?.cg_version ?? 0), base: null }]);
    expect(highestVersion(deleted ? [deleted] : [])).toBeLessThan(highestVersion(inserted ? [inserted] : []));
  });

  test.each(["insert", "upsert"] as const)(
    "%s of a key that is deleted at that moment: the version is the one that the row ends with",
    async (kind) => {
      await using master = await createMaster("CREATE TABLE t (id int PRIMARY KEY, v text)");
      await master.run(insert("t", { id: 1 }), insert("t", { id: 2 }));
      // The table has had a tombstone; this key has none.
      await master.db.query("DELETE FROM t WHERE id = 2");
      const deleting = await master.db.connect();
      await deleting.query("BEGIN; DELETE FROM t WHERE id = 1");
      const { rows, ...inserting } = insert("t", { id: 3 }, { id: 1, v: "again" });
      const operation = kind === "insert" ? { ...inserting, rows } : { ...upsert({}), rows };
      const writing = master.run(operation);
      await eventually(async () => {
        const waiting =
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        return (await master.db.query(waiting)).length === 1;
      });
      await deleting.query("COMMIT");
      const [written] = await writing;
      const stored = await master.db.query<{ v: string }>("SELECT cg_version AS v FROM t ORDER BY id DESC");
      expect(written?.versions.map(({ version }) => version)).toEqual(stored.map(({ v }) => BigInt(v)));
      expect(written?.created).toEqual([true, true]);
    },
  );

  test("names that must be quoted, __proto__ among them, and composite keys", async () => {
    await using master = await createMaster(
      `CREATE SCHEMA "Sch""ema"; CREATE TABLE "a""b. c" ("__proto__" text, "k;--" int, "$1" text, PRIMARY KEY ("__proto__", "k;--"))`,
    );
    const operation = insert('a"b. c');
    const rows = [row(json('{"__proto__":"p,q","k;--":1,"$1":"$2"}'))];
    const [result] = await master.run({ ...operation, rows });
    expect(result?.keys).toEqual([["p,q", "1"]]);
    expect(result?.rows).toEqual(['{"__proto__":"p,q","k;--":1,"$1":"$2"}']);
    const [read] = await master.run(select('public.a"b. c', { key: ["p,q", "1"] }));
    expect(read?.rows).toEqual(result?.rows);
    await expect(master.run(select('a"b. c', { key: ["p,q"] }))).rejects.toEqual(
      refused("parameter-invalid"),
    );
  });

  test("tables that are not replicated, Coregent's own and those of two schemas are not there", async () => {
    await using master = await createMaster(
      "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int)",
    );
    for (const name of [
      "other",
      "pg_class",
      "coregent.local",
      "coregent.conflict",
      "conflict",
      "T",
      "public",
      "",
      "__proto__",
    ]) {
      await expect(master.run(select(name))).rejects.toEqual(refused("table-unknown"));
    }
  });
});

describe("changes of one row", () => {
  const schema = "CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 7, home text)";
  const update = (values: Record<string, JsonValue>, changes: object = {}): Operation => ({
    kind: "update",
    table: "t",
    key: ["1"],
    values: row(values),
    ifMatch: null,
    returning: null,
    ...changes,
  });

  test("If-Match: the version read is written, another is refused", async () => {
    await using master = await createMaster(schema, { "public.t": "home" });
    const [inserted] = await master.run(insert("t", { id: 1, v: "a" }));
    const versions = inserted?.versions ?? [];
    const [updated] = await master.run(update({ v: "b" }, { ifMatch: versions }));
    expect(updated?.versions[0]?.version).toBeGreaterThan(versions[0]?.version ?? 0n);
    for (const operation of [
      update({ v: "c" }, { ifMatch: versions }),
      update({ v: "c" }, { ifMatch: [] }),
      update({ v: "c" }, { key: ["2"], ifMatch: "any" }),
      upsert({ id: 1, v: "c" }, { ifMatch: versions, replace: true }),
      upsert({ id: 1, v: "c" }, { ifNoneMatch: "any" }),
      { kind: "delete", table: "t", key: ["1"], ifMatch: versions, returning: [] } as const,
    ]) {
      await expect(master.run(operation)).rejects.toEqual(refused("version-mismatch"));
    }
    await expect(master.run(update({ v: "c" }, { key: ["2"] }))).rejects.toEqual(refused("row-not-found"));
    expect(await master.rows(select("t"))).toEqual([{ id: 1, v: "b", n: 7, home: "moldova" }]);
    const [any] = await master.run(
      upsert({ id: 1, v: "d" }, { ifMatch: updated?.versions ?? [], replace: true }),
    );
    expect(any?.rows).toEqual(['{"id":1,"v":"d","n":7,"home":"moldova"}']);
  });

  test("an upsert makes or changes; replacing sets what is not named to its default, but the owner", async () => {
    await using master = await createMaster(schema, { "public.t": "home" });
    const first = await master.run(upsert({ id: 1, v: "a", n: 1, home: "argentina" }));
    const kept = await master.run(upsert({ id: 1, v: "b" }));
    expect(kept[0]?.rows).toEqual(['{"id":1,"v":"b","n":1,"home":"argentina"}']);
    const replaced = await master.run(upsert({ id: 1 }, { replace: true }));
    expect(replaced[0]?.rows).toEqual(['{"id":1,"v":null,"n":7,"home":"argentina"}']);
    expect([first, kept, replaced].map(([result]) => result?.created)).toEqual([[true], [false], [false]]);
    await expect(master.run(upsert({ v: "no key" }))).rejects.toEqual(refused("body-invalid"));
    await expect(master.run({ ...upsert({}), rows: [row({ id: 1 }), row({ id: 1 })] })).rejects.toEqual(
      refused("unique-violation", { sqlState: "21000" }),
    );
  });

  test("a change of key, also to one that was deleted", async () => {
    await using master = await createMaster(schema);
    await master.run(insert("t", { id: 1 }, { id: 2 }));
    await master.run({ kind: "delete", table: "t", key: ["2"], ifMatch: null, returning: [] });
    const [moved] = await master.run(update({ id: 2 }));
    const [stored] = await master.db.query<{ cg_version: string }>("SELECT cg_version FROM t WHERE id = 2");
    expect(moved).toMatchObject({ keys: [["2"]], versions: [{ version: BigInt(stored?.cg_version ?? 0) }] });
  });

  test("a trigger that keeps a row, one that raises, one that is broken, and a transaction of which nothing stays", async () => {
    await using master = await createMaster(`${schema};
      CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.v = 'skip' THEN RETURN NULL; END IF;
        IF NEW.v = 'raise' THEN RAISE 'not today'; END IF;
        IF NEW.v = 'broken' THEN PERFORM * FROM missing; END IF;
        RETURN NEW; END $$;
      CREATE TRIGGER guard BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION guard()`);
    await master.run(insert("t", { id: 1 }));
    await expect(master.run(update({ v: "skip" }))).rejects.toEqual(refused("refused-by-database"));
    await expect(master.run(update({ v: "raise" }))).rejects.toEqual(
      refused("refused-by-database", { sqlState: "P0001" }),
    );
    await expect(master.run(update({ v: "broken" }))).rejects.toEqual(
      refused("internal", { sqlState: "42P01" }),
    );
    await expect(
      master.run(insert("t", { id: 2 }), insert("t", { id: 3 }), insert("t", { id: 2 })),
    ).rejects.toEqual(refused("unique-violation", { operation: 2, constraint: "t_pkey" }));
    expect(await master.rows(select("t"))).toHaveLength(1);
  });
});

describe("constraints", () => {
  test("foreign keys and checks name their constraint, and tell nothing of the row's hidden columns", async () => {
    await using master = await createMaster(`CREATE TABLE parent (id int PRIMARY KEY);
      CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES parent, c int CONSTRAINT small CHECK (c < 5), EXCLUDE USING btree (c WITH =))`);
    await expect(master.run(insert("t", { id: 1, p: 9 }))).rejects.toEqual(
      refused("foreign-key-violation", { constraint: "t_p_fkey" }),
    );
    const check = await master.run(insert("t", { id: 1, c: 9 })).catch((error: unknown) => error as Error);
    expect(check).toEqual(refused("check-violation", { constraint: "small" }));
    expect((check as Error).message).not.toMatch(/Failing row/);
    await master.run(insert("t", { id: 1, c: 1 }));
    await expect(master.run(insert("t", { id: 2, c: 1 }))).rejects.toEqual(refused("exclusion-violation"));
  });
});
