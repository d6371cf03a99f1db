import { expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../../support/database.ts";
import { install, states, tombstones } from "../install/installed.ts";

const table = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/** Names of the gate's sequence and of the tombstone relation, with schema. */
const named = async (db: TestDatabase): Promise<{ gate: string; tombstone: string }> => {
  const [row] = await db.query<{ tombstone: string }>(
    "SELECT tombstone FROM coregent.replicated_table WHERE name = 'public.t'",
  );
  const tombstone = row?.tombstone ?? "";
  return {
    gate: `coregent.${tombstone.replace("tombstone", "entombed")}`,
    tombstone: `coregent.${tombstone}`,
  };
};

const isOpen = async (db: TestDatabase): Promise<boolean> => {
  const { gate } = await named(db);
  const [row] = await db.query<{ open: boolean }>(
    "SELECT pg_sequence_last_value($1::text::regclass) IS NOT NULL AS open",
    [gate],
  );
  return row?.open === true;
};

const insertedUpon = async (db: TestDatabase): Promise<void> => {
  await db.query("INSERT INTO t VALUES (1, 'again')");
  const dead = (await tombstones(db, "public.t")).get("1");
  expect(dead).toBeDefined();
  expect((await states(db, "t")).get("1")?.prev).toBe(dead?.version);
};

test("the first delete opens the gate of inserts, and no abort closes it", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  await db.query("INSERT INTO t VALUES (1); UPDATE t SET v = 'x'");
  expect(await isOpen(db)).toBe(false);
  await db.query("BEGIN; DELETE FROM t; ROLLBACK");
  expect(await isOpen(db)).toBe(true);
  await db.query("DELETE FROM t");
  await insertedUpon(db);
});

test.each([
  [
    "a merge",
    "SET session_replication_role = replica; INSERT INTO {tombstone} (id, cg_version) VALUES (1, 5127)",
  ],
  ["a change of key", "INSERT INTO t VALUES (1); UPDATE t SET id = 2"],
  ["TRUNCATE", "INSERT INTO t VALUES (1); TRUNCATE t"],
])("%s opens it too", async (_, sql) => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  const { tombstone } = await named(db);
  await db.query(sql.replace("{tombstone}", tombstone));
  await db.query("RESET session_replication_role");
  expect(await isOpen(db)).toBe(true);
  await insertedUpon(db);
});

test("an installation from before the gate, or one that lost it, is brought up to date with its tombstones", async () => {
  await using db = await createDatabase();
  await db.query(table);
  await install(db);
  await db.query("INSERT INTO t VALUES (1); DELETE FROM t");
  const { gate, tombstone } = await named(db);
  await db.query(`DROP SEQUENCE ${gate}; DROP TRIGGER "~coregent_entombed" ON ${tombstone}`);
  expect((await install(db)).tables).toEqual([
    { name: "public.t", change: "repaired", details: ["gate of inserts"] },
  ]);
  expect((await install(db)).tables).toEqual([]);
  expect(await isOpen(db)).toBe(true);
  await insertedUpon(db);
  await db.query(`ALTER TABLE ${tombstone} DISABLE TRIGGER "~coregent_entombed"`);
  expect((await install(db)).tables).toMatchObject([{ details: ["gate of inserts"] }]);
});
