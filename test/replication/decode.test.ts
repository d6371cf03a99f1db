import { describe, expect, test } from "vitest";
import { list } from "../../src/postgres/identifiers.ts";
import type { Batch } from "../../src/replication/batch.ts";
import { readDomains } from "../../src/replication/relation.ts";
import { readTypesWithoutBinary } from "../../src/replication/slot.ts";
import type { StateSet } from "../../src/replication/states.ts";
import { createDatabase, uniqueName, type TestDatabase } from "../support/database.ts";
import { addTable, prepare, versionOf } from "./fixture.ts";
import { Reader } from "./harness.ts";

const copy = async (db: TestDatabase, set: StateSet, into: string): Promise<void> => {
  const columns = list(set.columns.map((column) => column.name));
  await db.query(`INSERT INTO ${into} (${columns}) SELECT ${columns} FROM ${set.source(1)} AS x`, [
    set.value(),
  ]);
};

const types = `
  id uuid, "Odd ""name" text, tiny smallint, i integer, b bigint, r real, d double precision, n numeric,
  n2 numeric(12, 4), flag boolean, j json, jb jsonb, bin bytea, t time, tz timetz, day date, ts timestamp,
  tstz timestamptz, span interval, vc varchar(40), c char(10), mood mood, moods mood[], pair pair, pairs pair[],
  email email, emails email[], ints int[], grid int[][], range int4range, multi int4multirange, ip inet, mac macaddr,
  bits varbit(9), doc xml, p point, vec tsvector, gen int GENERATED ALWAYS AS (i / 2) STORED, oid oid`;
const userTypes = `
  CREATE TYPE mood AS ENUM ('sad', 'ok', 'very "happy", {really}');
  CREATE TYPE pair AS (a int, b text);
  CREATE DOMAIN email AS varchar(60) CHECK (value LIKE '%@%');`;
/** Three rows; the text of a VALUES list each, without the state columns. */
const rows = [
  `gen_random_uuid(), 'quotes "'' \\ , ( ) {é ü 日本}', -32768, 2147483647, -9223372036854775808, 'NaN', '-Infinity',
   'NaN', 12345678.9, true, '{"a": 1, "a":  2}', '{"b": [1, null, "é"]}', '\\x00ff5c22', '23:59:59.999999',
   '12:00:00.000001+05:30', 'infinity', '-infinity', '2024-02-29 12:34:56.789012+00',
   '1 mon -3 days 04:05:06.000007', 'a', 'b', 'very "happy", {really}', '{sad,ok,NULL}',
   ROW(1, 'x "y" \\ ,')::pair, ARRAY[ROW(1, NULL)::pair, NULL], 'a@b', '{c@d,"e,f@g"}', '{1,NULL,3}',
   '{{1,2},{3,4}}', '[1,5)', '{[1,3),[7,9)}', '10.1.2.3/24', '08:00:2b:01:02:03', '10101',
   '<a b="c">&amp;</a>', '(1.5,-2)', 'a:1 b:2A', DEFAULT, 7`,
  `gen_random_uuid(), '', 0, 0, 0, 0.1, 1e-307, '1e-500', 0, false, 'null', 'null', '', '00:00', '00:00+00',
   '0001-01-01 BC', 'infinity', 'infinity', '-178000000 years', '', '', 'sad', '{}', '(,)', '{}', '@', '{}', '{}',
   '{}', 'empty', '{}', '::1', '08:00:2b:01:02:03', '', '<a/>', '(Infinity,NaN)', '', DEFAULT, 0`,
  `gen_random_uuid() ${", NULL".repeat(36)}, DEFAULT, NULL`,
];

test.each([
  { format: "binary" as const, version: 18 as const },
  { format: "text" as const, version: 18 as const },
  { format: "binary" as const, version: 16 as const },
  { format: "text" as const, version: 17 as const },
])("every type arrives byte for byte ($format, PostgreSQL $version)", async ({ format, version }) => {
  await using db = await createDatabase({ version });
  await prepare(db);
  await db.query(userTypes);
  await addTable(db, { name: "t", key: ["id"], definition: types });
  await using reader = await Reader.open(db, { decoder: { format } });
  await db.query(
    rows.map((row, i) => `INSERT INTO t VALUES (${row}, ${versionOf(i + 1)}, 5, '{7,8}')`).join(";"),
  );
  const batch = await reader.changes();
  expect(batch).toMatchObject({ transactions: 1, changes: 3, states: 3, endsTransaction: true });
  const { rows: set } = batch.tables[0]!;
  expect(set.count).toBe(3);
  await db.query("CREATE SCHEMA copy; CREATE TABLE copy.t (LIKE public.t INCLUDING ALL)");
  await copy(db, set, "copy.t");
  const [row] = await db.query(
    `SELECT (SELECT json_agg(x::text ORDER BY x.id) FROM public.t x)::text AS original,
            (SELECT json_agg(x::text ORDER BY x.id) FROM copy.t x)::text AS copied`,
  );
  expect(row!["copied"]).toBe(row!["original"]);
  const [binary] = await db.query(
    `SELECT count(*)::int AS same FROM public.t one JOIN copy.t two USING (id) WHERE record_send(one) = record_send(two)`,
  );
  expect(binary).toEqual({ same: 3 });
});

const big = "repeat(md5(random()::text), 400)";

/** Every set of the first table of a batch that holds states. */
const setsOf = (batch: Batch): StateSet[] =>
  batch.tables
    .flatMap(({ rows: whole, partial, tombstones }) => [whole, ...partial, tombstones])
    .filter((set) => set.count > 0);

describe("unchanged TOAST columns", () => {
  const definition = "id int, n int, one text STORAGE EXTERNAL, two text STORAGE EXTERNAL";

  test("are left out, with the version since which they are unchanged", async () => {
    await using db = await createDatabase();
    await prepare(db);
    await addTable(db, { name: "t", key: ["id"], definition });
    await db.query(`INSERT INTO t SELECT i, 0, ${big}, ${big}, ${versionOf(1)} FROM generate_series(1, 3) i`);
    await using reader = await Reader.open(db);
    await db.query(`
      UPDATE t SET n = 1, cg_prev = cg_version, cg_version = ${versionOf(2)} WHERE id < 3;
      UPDATE t SET one = ${big}, cg_prev = cg_version, cg_version = ${versionOf(2)} WHERE id = 3;`);
    const sets = setsOf(await reader.changes());
    expect(
      sets.map((set) => ({
        ids: Array.from({ length: set.count }, (_, i) => set.field(i, "id")!.readInt32BE()),
        unchanged: set.unchanged.map(({ name }) => name),
        columns: set.columns.map(({ name }) => name),
        since: set.unchangedSince(0),
      })),
    ).toEqual([
      {
        ids: [1, 2],
        unchanged: ["one", "two"],
        columns: ["id", "n", "cg_version", "cg_prev", "cg_seen"],
        since: versionOf(1),
      },
      {
        ids: [3],
        unchanged: ["two"],
        columns: ["id", "n", "one", "cg_version", "cg_prev", "cg_seen"],
        since: versionOf(1),
      },
    ]);
    const [set] = sets;
    const read = await db.query(`SELECT x.id, x.one FROM ${set!.source(1)} AS x`, [set!.value()]);
    expect(read).toEqual([
      { id: 1, one: null },
      { id: 2, one: null },
    ]);
  });

  test("come with REPLICA IDENTITY FULL", async () => {
    await using db = await createDatabase();
    await prepare(db);
    await addTable(db, { name: "t", key: ["id"], definition });
    await db.query("ALTER TABLE t REPLICA IDENTITY FULL");
    await db.query(`INSERT INTO t SELECT 1, 0, ${big}, NULL, ${versionOf(1)}`);
    await using reader = await Reader.open(db);
    await db.query(`UPDATE t SET n = 1, cg_prev = cg_version, cg_version = ${versionOf(2)}`);
    const [set] = setsOf(await reader.changes());
    expect(set!.unchanged).toEqual([]);
    const read = await db.query(`SELECT x.n, x.one = t.one AS same, x.two FROM ${set!.source(1)} AS x, t`, [
      set!.value(),
    ]);
    expect(read).toEqual([{ n: 1, same: true, two: null }]);
  });

  test("of a key are in the old key", async () => {
    await using db = await createDatabase();
    await prepare(db);
    await addTable(db, { name: "t", key: ["id"], definition: "id text STORAGE EXTERNAL, n int" });
    // Long enough to be stored apart, short enough for the index.
    await db.query(`INSERT INTO t SELECT repeat('k', 2500), 0, ${versionOf(1)}`);
    await using reader = await Reader.open(db);
    await db.query(`UPDATE t SET n = 1, cg_version = ${versionOf(2)}`);
    const [set] = setsOf(await reader.changes());
    expect(set!.field(0, "id")!.toString()).toBe("k".repeat(2500));
  });
});

test("tombstones, composite keys, owners and foreign names", async () => {
  await using db = await createDatabase();
  await prepare(db);
  const schema = 'Mixed "Case"';
  await addTable(db, {
    schema,
    name: "T.x",
    key: ["b", "a"],
    owner: "home",
    definition: "a int, home text, b text",
  });
  await using reader = await Reader.open(db);
  await db.query(`
    INSERT INTO "Mixed ""Case"""."T.x" (a, home, b, cg_base, cg_version, cg_seen)
    VALUES (1, 'r', 'k', ${versionOf(4)}, ${versionOf(5)}, '{${versionOf(1, 2)},${versionOf(2, 3)}}'), (1, NULL, 'j', 0, ${versionOf(9)}, NULL);
    INSERT INTO coregent."tombstone_T.x" VALUES ('k', 1, ${versionOf(6)}, ${versionOf(6)}, ${versionOf(5)}, NULL),
                                                ('', 2, ${versionOf(7)}, ${versionOf(7)}, 0, NULL)`);
  const batch = await reader.changes();
  const [part] = batch.tables;
  expect(part!.table.name).toBe(`${schema}.T.x`);
  expect(batch).toMatchObject({ changes: 4, states: 3 });
  expect(part!.rows.count).toBe(1);
  expect([part!.rows.version(0), part!.rows.base(0), part!.rows.seen(0)]).toEqual([versionOf(9), 0n, []]);
  const { tombstones } = part!;
  expect(tombstones.count).toBe(2);
  const read = await db.query(
    `SELECT x.a, x.b, x.cg_base::text AS base, x.cg_prev::text AS prev FROM ${tombstones.source(1)} AS x`,
    [tombstones.value()],
  );
  expect(read).toEqual([
    { a: 2, b: "", base: String(versionOf(7)), prev: "0" },
    { a: 1, b: "k", base: String(versionOf(6)), prev: String(versionOf(5)) },
  ]);
});

test("changes of other regions are left out, as are those that a merge session with an origin made", async () => {
  await using db = await createDatabase();
  await prepare(db);
  await addTable(db, { name: "t", key: ["id"], definition: "id int" });
  const merging = await db.connect();
  const origin = uniqueName("origin");
  await merging.query("SELECT pg_replication_origin_create($1)", [origin]);
  await merging.query("SELECT pg_replication_origin_session_setup($1)", [origin]);
  for (const format of ["binary", "text"] as const) {
    await using reader = await Reader.open(db, { decoder: { format, sourceRegion: 7 } });
    await merging.query(`INSERT INTO t VALUES (4, ${versionOf(1, 7)})`);
    await db.query(
      `INSERT INTO t VALUES (1, ${versionOf(1, 7)}), (2, ${versionOf(1, 6)}), (3, ${versionOf(1, 1023)})`,
    );
    const batch = await reader.changes();
    expect(batch).toMatchObject({ changes: 1, states: 1 });
    expect(setsOf(batch)[0]!.field(0, "id")!.toString("hex")).toBe(format === "binary" ? "00000001" : "31");
    await db.query("DELETE FROM t WHERE id = 1; TRUNCATE t");
  }
  await merging.query("SELECT pg_replication_origin_session_reset()");
  await merging.query("SELECT pg_replication_origin_drop($1)", [origin]);
});

test("an array or composite of types with other OIDs here, on another version, arrives as it was", async () => {
  await using source = await createDatabase({ version: 18 });
  await using target = await createDatabase({ version: 16 });
  const definition = "id uuid, m mood, moods mood[], pair pair, pairs pair[], email email, emails email[]";
  await target.query("CREATE TABLE shifts_oids (a int); CREATE TYPE another AS ENUM ()");
  for (const db of [source, target]) {
    await prepare(db);
    await db.query(userTypes);
    await addTable(db, { name: "t", key: ["id"], definition });
  }
  await using reader = await Reader.open(source, {
    target,
    decoder: { domains: await readDomains(await target.connect()) },
  });
  await source.query(
    `INSERT INTO t VALUES (gen_random_uuid(), 'ok', '{sad,ok}', (1,'a'), ARRAY[(2,'b')::pair], 'a@b', '{c@d}', 1025)`,
  );
  const batch = await reader.changes();
  expect([...batch.skipped]).toEqual([]);
  const [set] = setsOf(batch);
  await target.query(`INSERT INTO t SELECT * FROM ${set!.source(1)} AS x`, [set!.value()]);
  const rowsOf = (db: TestDatabase): Promise<unknown> => db.query("SELECT t::text FROM t");
  expect(await rowsOf(target)).toEqual(await rowsOf(source));
});

describe("a table that does not fit is left out and reported, others go on", () => {
  const cases: {
    readonly name: string;
    readonly there: string;
    readonly here: string | null;
    readonly reason: RegExp;
  }[] = [
    { name: "is missing", there: "id int", here: null, reason: /no such replicated table here/ },
    {
      name: "lacks a column",
      there: "id int, extra text",
      here: "id int",
      reason: /column "extra" is missing here/,
    },
    {
      name: "has another type",
      there: "id int, a int",
      here: "id int, a bigint",
      reason: /"a" has type bigint here and type 23/,
    },
    {
      name: "has an enum of another name",
      there: "id int, a mood",
      here: "id int, a feel",
      reason: /public.mood at the source/,
    },
    {
      name: "generates the column",
      there: "id int, a int",
      here: "id int, a int GENERATED ALWAYS AS (id) STORED",
      reason: /generated here/,
    },
  ];
  test.each(cases)("$name", async ({ there, here, reason }) => {
    await using source = await createDatabase();
    await using target = await createDatabase();
    for (const db of [source, target]) {
      await prepare(db);
      await db.query("CREATE TYPE mood AS ENUM ('a'); CREATE TYPE feel AS ENUM ('a')");
      await addTable(db, { name: "fits", key: ["id"], definition: "id int" });
    }
    await addTable(source, { name: "t", key: ["id"], definition: there });
    if (here !== null) {
      await addTable(target, { name: "t", key: ["id"], definition: here });
    }
    await using reader = await Reader.open(source, { target });
    await source.query(`INSERT INTO t (id, cg_version) VALUES (1, 1025); INSERT INTO fits VALUES (1, 1025)`);
    const batch = await reader.changes();
    expect(batch.tables.map(({ table }) => table.name)).toEqual(["public.fits"]);
    expect([...batch.skipped.keys()]).toEqual(["public.t"]);
    expect(batch.skipped.get("public.t")).toMatch(reason);
  });

  test("but columns that are here alone are no obstacle: the states do not carry them", async () => {
    await using source = await createDatabase();
    await using target = await createDatabase();
    await prepare(source);
    await prepare(target);
    await addTable(source, { name: "t", key: ["id"], definition: "b text, id int" });
    await addTable(target, {
      name: "t",
      key: ["id"],
      definition: "id int, more int DEFAULT 7, b text, gen int GENERATED ALWAYS AS (id * 2) STORED",
    });
    await using reader = await Reader.open(source, { target });
    await source.query("INSERT INTO t VALUES ('x', 1, 1025)");
    const [set] = setsOf(await reader.changes());
    expect(set!.unchanged).toEqual([]);
    await copy(target, set!, "public.t");
    expect(await target.query("SELECT id, more, b, gen FROM t")).toEqual([
      { id: 1, more: 7, b: "x", gen: 2 },
    ]);
  });

  test("and fits again when the source is altered in mid-stream", async () => {
    await using db = await createDatabase();
    await prepare(db);
    await addTable(db, { name: "t", key: ["id"], definition: "id int" });
    await using reader = await Reader.open(db);
    await db.query(`INSERT INTO t VALUES (1, 1025); ALTER TABLE t ADD extra int; INSERT INTO t VALUES (2, 1025);
                    ALTER TABLE t DROP extra; INSERT INTO t VALUES (3, 1025)`);
    const batch = await reader.changes();
    expect(batch).toMatchObject({ changes: 2, states: 2 });
    expect([...batch.skipped.keys()]).toEqual(["public.t"]);
  });
});

test("a type without a binary format makes the link ask for text", async () => {
  await using db = await createDatabase();
  await prepare(db);
  await addTable(db, { name: "t", key: ["id"], definition: "id int, a aclitem, b aclitem[]" });
  await addTable(db, { name: "u", key: ["id"], definition: "id int, a int[], r int4range" });
  expect(await readTypesWithoutBinary(await db.connect())).toEqual(["aclitem"]);
  await using reader = await Reader.open(db);
  await db.query("INSERT INTO t SELECT 1, (acldefault('r', 10))[1], NULL, 1025");
  await expect(reader.changes()).rejects.toMatchObject({
    name: "Error",
    table: "public.t",
    reaction: "retry",
  });
});
