import type { QueryArrayConfig } from "pg";
import { to as copyTo } from "pg-copy-streams";
import { expect, test } from "vitest";
import type { State } from "../../conflict/state.ts";
import { list } from "../../src/postgres/identifiers.ts";
import { CopyTuples } from "../../src/replication/state-builder.ts";
import type { StateFormat } from "../../src/replication/states.ts";
import { batchOf, MergeRegion } from "./merge-fixture.ts";
import { at, mergeNow, row } from "./merge-helpers.ts";

/** FAULTS 41: what a type's send (or output) function gives is stored so that it gives the same bytes again. */
const columns: Readonly<Record<string, readonly [type: string, ...literals: string[]]>> = {
  b: ["bool", "t"],
  i2: ["int2", "-32768"],
  i8: ["int8", "9223372036854775807"],
  f4: ["float4", "NaN", "1.1754944e-38"],
  f8: ["float8", "-Infinity", "4.9e-324", "-0"],
  num: ["numeric", "NaN", "Infinity", "1.500", "-123456789012345678901234567890.00000000001"],
  fixed: ["numeric(12,3)", "1.500"],
  txt: ["text", "ä\n\t\"'\\{},(NULL)", ""],
  vc: ["varchar(9)", "x "],
  ch: ["char(26)", "01ARZ3NDEKTSV4RRFFQ69G5F"],
  bin: ["bytea", "\\x00ff5c22"],
  u: ["uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"],
  d: ["date", "-infinity", "0044-03-15 BC"],
  ts: ["timestamp", "infinity", "2026-01-02 03:04:05.000001"],
  tz: ["timestamptz", "-infinity", "2026-01-02 03:04:05.123456+05:30"],
  ti: ["time", "24:00:00"],
  tt: ["timetz", "12:34:56.789012+14:59"],
  iv: ["interval", "1 year -2 mons 3 days -04:05:06.000007"],
  j: ["json", '{"a": 1.0, "a": 2,  "b":\n[]}'],
  jb: ["jsonb", '{"a": 1.0, "n": null}'],
  xy: ["point", "(1.5,-2)"],
  ip: ["inet", "2001:db8::1/64"],
  mac: ["macaddr8", "08:00:2b:01:02:03:04:05"],
  bits: ["varbit", "10101"],
  arr: ["int4[]", "[-1:1]={1,NULL,3}", "{}"],
  tarr: ["text[]", '{"a,b","","NULL",NULL,"\\"\\\\"}'],
  nested: ["int4[]", "{{1,2},{3,4}}"],
  rng: ["int4range", "empty", "[1,5)"],
  mrng: ["tstzmultirange", '{["2026-01-01 00:00:00+00",infinity)}'],
  mood: ["mood", "so-so"],
  moods: ["mood[]", "{happy,NULL}"],
  dom: ["positive", "7"],
  comp: ["pair", '(1,"a ""b"", c")'],
  comps: ["pair[]", '{"(1,x)",NULL}'],
  tsv: ["tsvector", "'a':1A 'b':2"],
};

const schema = `
CREATE TYPE mood AS ENUM ('happy', 'so-so');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (n positive, t text);
CREATE TABLE t (id text PRIMARY KEY, ${Object.entries(columns)
  .map(([name, [type]]) => `${name} ${type}`)
  .join(", ")}, gone int, doubled int8 GENERATED ALWAYS AS (i2 * 2) STORED, "Odd ""name" text);
ALTER TABLE t DROP COLUMN gone;`;

const names = ["id", ...Object.keys(columns), 'Odd "name', "doubled"];
const selected = `SELECT ${list(names)} FROM t ORDER BY id`;

/** The rows' fields as the types' send functions give them, or as their output functions do. */
const fieldsOf = async (region: MergeRegion, format: StateFormat) => {
  const client = await region.db.connect();
  const rows: (Buffer | null)[][] = [];
  if (format === "text") {
    const asText = { getTypeParser: () => (value: string) => Buffer.from(value) };
    const query: QueryArrayConfig = { text: selected, rowMode: "array", types: asText };
    rows.push(...(await client.query<(Buffer | null)[]>(query)).rows);
  } else {
    // pg hands out values as strings, so binary ones have to come by COPY.
    const tuples = new CopyTuples();
    for await (const chunk of client.query(copyTo(`COPY (${selected}) TO STDOUT (FORMAT binary)`))) {
      tuples.push(chunk as Buffer, (tuple) => rows.push(fieldsIn(tuple)));
    }
  }
  return rows.map((values) => Object.fromEntries(names.map((name, index) => [name, values[index] ?? null])));
};

const fieldsIn = (tuple: Buffer): (Buffer | null)[] => {
  const fields: (Buffer | null)[] = [];
  for (let at = 2; fields.length < tuple.readInt16BE(0);) {
    const length = tuple.readInt32BE(at);
    at += 4;
    fields.push(length < 0 ? null : Buffer.from(tuple.subarray(at, at + length)));
    at += Math.max(0, length);
  }
  return fields;
};

test.each([
  ["binary", { leastCopied: 1000 }],
  ["binary", { leastCopied: 1 }],
  ["text", {}],
] as const)("every type arrives byte for byte (%s, %o)", async (format, options) => {
  await using source = await MergeRegion.create({ schema, regionId: 2 });
  await using target = await MergeRegion.create({ schema });
  const most = Math.max(...Object.values(columns).map((literals) => literals.length));
  for (let n = 1; n < most; n++) {
    const values = Object.values(columns).map(([, ...literals]) => literals[n - 1] ?? null);
    await source.db.query(
      `INSERT INTO t (id, ${Object.keys(columns).join(", ")}, "Odd ""name")
       VALUES ($1, ${Object.keys(columns)
         .map((_, i) => `$${i + 3}`)
         .join(", ")}, $2)`,
      [`k${n}`, null, ...values],
    );
  }
  const sent = await fieldsOf(source, format);
  const session = await target.session();
  const state: State = row(at(1, 2));
  const batch = batchOf(
    target.table("t"),
    sent.map((fields) => ({ state, fields })),
    format,
  );
  expect(await mergeNow(session, batch, options)).toMatchObject({ rowsMerged: most - 1 });
  const received = await fieldsOf(target, format);
  // The binary form of these holds OIDs of user-defined types, which differ between databases. Their text is below.
  const omitted = format === "binary" ? { moods: null, comp: null, comps: null } : {};
  expect(received.map((fields) => ({ ...fields, ...omitted }))).toEqual(
    sent.map((fields) => ({ ...fields, ...omitted })),
  );
  const content = "SELECT md5(string_agg((to_jsonb(t) - 'cg_version')::text, '' ORDER BY id)) FROM t";
  expect(await target.db.query(content)).toEqual(await source.db.query(content));
  // And as losers they are in the log as their text.
  await mergeNow(
    session,
    batchOf(
      target.table("t"),
      sent.map((fields) => ({ state: row(at(2, 3)), fields: { ...fields, txt: "new" } })),
      format,
    ),
  );
  const [logged] = await target.db.query(
    `SELECT loser_row ->> 'num' AS num, loser_row ->> 'comp' AS comp, loser_row ->> 'j' AS j
       FROM coregent.conflict WHERE key = '["k1"]'`,
  );
  expect(logged).toEqual({ num: "NaN", comp: columns["comp"]?.[1], j: columns["j"]?.[1] });
});
