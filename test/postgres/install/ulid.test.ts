import * as fc from "fast-check";
import { decodeTime, isValid, ulid, ulidToUUID, uuidToULID } from "ulid";
import { expect, test } from "vitest";
import { createDatabase } from "../../support/database.ts";
import { runs } from "../../conflict/runs.ts";
import { install } from "./installed.ts";

test("ULIDs of the database are those of the npm package, and their time is now", async () => {
  await using db = await createDatabase();
  await install(db);
  const before = Date.now();
  const rows = await db.query<{ u: string; id: string }>(
    "SELECT coregent.ulid() AS u, coregent.ulid_uuid() AS id FROM generate_series(1, 1000)",
  );
  const all = rows.flatMap((row) => [row.u, uuidToULID(row.id)]);
  for (const each of all) {
    expect(isValid(each)).toBe(true);
    expect(Math.abs(decodeTime(each) - before)).toBeLessThan(60_000);
  }
  // In one transaction, whichever of the two functions gave them, each is above the one before.
  expect(all).toEqual(all.toSorted((a, b) => (a < b ? -1 : 1)));
  expect(new Set(all).size).toBe(2000);
});

test("both conversions agree with the npm package", async () => {
  await using db = await createDatabase();
  await install(db);
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 16, maxLength: 16 }), async (bytes) => {
      const hex = Buffer.from(bytes).toString("hex");
      const uuid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
      const text = uuidToULID(uuid);
      const [row] = await db.query(
        "SELECT coregent.uuid_to_ulid($1) AS text, coregent.ulid_to_uuid($2) AS id, coregent.ulid_to_uuid(lower($2)) AS low",
        [uuid, text],
      );
      expect(row).toEqual({ text, id: uuid, low: uuid });
      expect(ulidToUUID(text).toLowerCase()).toBe(uuid);
    }),
    runs(200),
  );
  const own = ulid();
  const [row] = await db.query("SELECT coregent.uuid_to_ulid(coregent.ulid_to_uuid($1)) AS back", [own]);
  expect(row).toEqual({ back: own });
});

test.each([
  "",
  "01ARZ3NDEKTSV4RRFFQ69G5FA",
  "81ARZ3NDEKTSV4RRFFQ69G5FAV",
  "01ARZ3NDEKTSV4RRFFQ69G5FAU",
  "01ARZ3NDEKTSV4RRFFQ69G5FAVX",
])("%j is no ULID", async (text) => {
  await using db = await createDatabase();
  await install(db);
  await expect(db.query("SELECT coregent.ulid_to_uuid($1)", [text])).rejects.toMatchObject({ code: "22P02" });
});

test("a value given out before ROLLBACK TO SAVEPOINT is not given out again; the clock may go back", async () => {
  await using db = await createDatabase();
  await install(db);
  const one = async (): Promise<string> =>
    (await db.query<{ u: string }>("SELECT coregent.ulid() AS u"))[0]?.u ?? "";
  await db.query("BEGIN; SET LOCAL coregent.clock_offset_us = '3600000000'");
  const first = await one();
  await db.query("SET LOCAL coregent.clock_offset_us = '0'; SAVEPOINT s");
  const second = await one();
  await db.query("ROLLBACK TO s");
  const third = await one();
  await db.query("COMMIT");
  expect([first < second, first < third, second === third]).toEqual([true, true, false]);
  expect(decodeTime(second)).toBe(decodeTime(first));
  expect((await one()) < first).toBe(true);
});

test("one step above the last of a millisecond is the next millisecond", async () => {
  await using db = await createDatabase();
  await install(db);
  const [row] = await db.query<{ u: string; id: string }>(
    `SELECT coregent.ulid() AS u, coregent.ulid_uuid() AS id
       FROM set_config('coregent.last_ulid', '9999999999999:1099511627775:1099511627775', true)`,
  );
  expect(decodeTime(row?.u ?? "")).toBe(10_000_000_000_000);
  expect(uuidToULID(row?.id ?? "") > (row?.u ?? "")).toBe(true);
});

test("it fills keys of type uuid, text and char(26)", async () => {
  await using db = await createDatabase();
  await install(db);
  await db.query(`CREATE TABLE a (id uuid PRIMARY KEY DEFAULT coregent.ulid_uuid());
    CREATE TABLE b (id text PRIMARY KEY DEFAULT coregent.ulid());
    CREATE TABLE c (id char(26) PRIMARY KEY DEFAULT coregent.ulid())`);
  await install(db);
  for (const table of ["a", "b", "c"]) {
    await db.query(`INSERT INTO ${table} DEFAULT VALUES`);
    const [row] = await db.query<{ id: string }>(`SELECT id FROM ${table}`);
    expect(isValid(table === "a" ? uuidToULID(row?.id ?? "") : (row?.id ?? ""))).toBe(true);
  }
});

test.each([
  ["", 0],
  ["3600000000", 3600],
  ["-3600000000", -3600],
  ["+5000000", 5],
  ["an hour", 0],
  ["1e9", 0],
])("the stamping clock with offset %j is off by %i seconds", async (offset, seconds) => {
  await using db = await createDatabase();
  await install(db);
  await db.query(`SET coregent.clock_offset_us = '${offset}'`);
  const [row] = await db.query<{ off: number }>(
    "SELECT (coregent.clock_us() - extract(epoch FROM clock_timestamp()) * 1000000)::float8 AS off",
  );
  expect(Math.abs((row?.off ?? NaN) - seconds * 1e6)).toBeLessThan(1e6);
});

test("a clock beyond its bounds stamps within them", async () => {
  await using db = await createDatabase();
  await db.query("CREATE TABLE t (id int PRIMARY KEY, v int)");
  await install(db);
  await db.query(`SET coregent.stamp_above = '';
    SET coregent.clock_offset_us = '9999999999999999'; INSERT INTO t VALUES (1); UPDATE t SET v = 2;
    SET coregent.clock_offset_us = '-9999999999999999'; UPDATE t SET v = 3; INSERT INTO t VALUES (2)`);
  const rows = await db.query<{ id: number; year: number; positive: boolean }>(
    `SELECT id, extract(year FROM to_timestamp((cg_version >> 10) / 1000000))::int AS year, cg_version > 0 AS positive
       FROM t ORDER BY 1`,
  );
  expect(rows).toEqual([
    { id: 1, year: 2255, positive: true },
    { id: 2, year: 1970, positive: true },
  ]);
});
