import { expect, test } from "vitest";
import { createDatabase, eventually, serverUrl } from "./database.ts";

test("a test has a database of its own, and it is gone afterwards", async () => {
  let name: string;
  {
    await using db = await createDatabase();
    name = db.name;
    expect(await db.query("SELECT current_database() AS d, $1::int AS n", [7])).toEqual([{ d: name, n: 7 }]);
    await db.query("SELECT pg_create_logical_replication_slot('s_' || current_database(), 'pgoutput')");
  }
  await using other = await createDatabase();
  expect(await other.query("SELECT 1 FROM pg_database WHERE datname = $1", [name])).toEqual([]);
  expect(await other.query("SELECT 1 FROM pg_replication_slots WHERE database = $1", [name])).toEqual([]);
});

test("a session left behind fails the test", async () => {
  const { Client } = await import("pg");
  const db = await createDatabase();
  const stray = new Client({ connectionString: db.url, application_name: "stray" });
  stray.on("error", () => undefined);
  await stray.connect();
  await expect(db[Symbol.asyncDispose]()).rejects.toThrow(/left sessions behind.*\n.*stray/);
});

test.each([16, 17, 18] as const)("PostgreSQL %i is there and decodes logically", async (version) => {
  await serverUrl(version);
  await using db = await createDatabase({ version });
  const [row] = await db.query(
    "SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('wal_level') AS wal",
  );
  expect(row).toEqual({ major: version, wal: "logical" });
});

test("eventually gives the last error", async () => {
  await expect(eventually(() => expect(1).toBe(2), { timeoutMs: 30 })).rejects.toThrow(/to be 2/);
  await expect(eventually(() => false, { timeoutMs: 30, what: "It" })).rejects.toThrow(
    "It did not come true",
  );
  let calls = 0;
  expect(await eventually(() => ++calls > 2 && calls)).toBe(3);
});
