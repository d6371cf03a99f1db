import { expect, test } from "vitest";
import { freshKeys, withKeys } from "../../src/write/keys.ts";
import { createMaster, insert } from "./fixture.ts";

test("ULIDs are in order of creation, in both forms", () => {
  let now = 1_700_000_000_000;
  const make = freshKeys(() => now);
  const keys = Array.from({ length: 1_000 }, (_, at) => {
    if (at % 100 === 0) now += 1;
    return make(at);
  });
  for (const form of ["ulid", "uuid"] as const) {
    const texts = keys.map((key) => key[form]);
    expect(texts.toSorted()).toEqual(texts);
    expect(new Set(texts).size).toBe(texts.length);
  }
});

test("the two forms are the same 128 bits as the database's", async () => {
  await using master = await createMaster("CREATE TABLE t (id int PRIMARY KEY)");
  const keys = Array.from({ length: 50 }, (_, at) => freshKeys(() => 1_700_000_000_000 + at * 1e10)(0));
  const rows = await master.db.query<{ uuid: string }>(
    "SELECT coregent.ulid_to_uuid(u) AS uuid FROM unnest($1::text[]) WITH ORDINALITY AS x(u, n) ORDER BY n",
    [keys.map(({ ulid }) => ulid)],
  );
  expect(rows.map(({ uuid }) => uuid)).toEqual(keys.map(({ uuid }) => uuid));
});

test("rows get the keys that they lack, where the key's column can hold a ULID and nothing else makes it", async () => {
  await using master = await createMaster(`
    CREATE DOMAIN ulid AS char(26);
    CREATE TABLE u (id uuid PRIMARY KEY, v int); CREATE TABLE t (id text PRIMARY KEY);
    CREATE TABLE c (id ulid PRIMARY KEY); CREATE TABLE g (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
    CREATE TABLE short (id varchar(10) PRIMARY KEY); CREATE TABLE own (id text PRIMARY KEY DEFAULT 'x');
    CREATE TABLE n (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY); CREATE TABLE two (a uuid, b uuid, PRIMARY KEY (a, b))`);
  const ordinals: number[] = [];
  const makeKey = (ordinal: number) => {
    ordinals.push(ordinal);
    return { uuid: `uuid ${ordinal}`, ulid: `ulid ${ordinal}` };
  };
  const names = ["u", "t", "c", "g", "short", "own", "n", "two"];
  const operations = names.map((name) => insert(name, {}, { id: "given" }));
  const keyed = withKeys(operations, master.catalog, makeKey);
  const ids = keyed.map((operation) => (operation.kind === "insert" ? operation.rows[0]?.get("id") : null));
  expect(ids).toEqual(["uuid 0", "ulid 2", "ulid 4", "uuid 6", undefined, undefined, undefined, undefined]);
  expect(keyed.every((one) => one.kind === "insert" && one.rows[1]?.get("id") === "given")).toBe(true);
  expect(ordinals).toEqual([0, 2, 4, 6]);
});
