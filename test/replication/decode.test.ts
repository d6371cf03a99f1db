import { expect, test } from "vitest";
import { list } from "../../src/postgres/identifiers.ts";
import type { StateSet } from "../../src/replication/states.ts";
import { createDatabase, type TestDatabase } from "../support/database.ts";
import { addTable, prepare, versionOf } from "./fixture.ts";
import { Reader } from "./harness.ts";

const copyInto = async (db: TestDatabase, set: StateSet): Promise<void> => {
  const columns = list(set.columns.map((column) => column.name));
  await db.query(`INSERT INTO copy.t (${columns}) SELECT ${columns} FROM ${set.source(1)} AS x`, [
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
  await copyInto(db, set);
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
